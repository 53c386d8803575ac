"""From files on disk to batches: layouts, decoding, the pack, augmentation, checks, downloads.

Also the synthetic sample dataset. Nothing here knows of a network, a loss or a score.
"""
