"""Evaluate a model: python evaluate.py --checkpoint RUN/best.ckpt [--masks DIR]"""

import sys

from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import run

if __name__ == "__main__":
    sys.exit(run(evaluate, "evaluate.py", sys.argv[1:]))
