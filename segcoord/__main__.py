"""`python -m segcoord` runs the `segcoord` command."""

import sys

from segcoord.cli.main import main

sys.exit(main())
