"""Train a segmentation model: python train.py --config configs/voc_os16.yaml [--data.root DIR]"""

import sys

from segcoord.cli.main import run
from segcoord.cli.train import train

if __name__ == "__main__":
    sys.exit(run(train, "train.py", sys.argv[1:]))
