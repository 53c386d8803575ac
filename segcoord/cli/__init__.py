"""The commands: one file for each, which declares its options and calls the rooms below.

No computation here, and no heavy import before a command runs, so that `--help` is quick.
Nothing imports this package but `train.py`, `evaluate.py` and `segcoord.__main__`.
"""
