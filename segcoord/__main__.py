"""`python -m segcoord` is the `segcoord` command."""

import sys

from segcoord.cli import main

sys.exit(main())
