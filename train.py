"""Train a segmentation model: python train.py --config configs/voc_os16.yaml [--data.root DIR]"""

import sys

from segcoord.cli import run, train

if __name__ == "__main__":
    sys.exit(run(train, "train.py", sys.argv[1:]))
