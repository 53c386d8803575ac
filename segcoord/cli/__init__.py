"""Commands, one file each, which declares the options and calls the other packages.

No computation here, and no heavy import before a command runs, so that `--help` is fast.
Only `train.py`, `evaluate.py` and `segcoord.__main__` import this package.
"""
