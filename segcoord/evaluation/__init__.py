"""A model over a split: mIoU, the protocol, Cityscapes' scores, comparison, report, submissions.

Nothing here trains or exports a model.
"""
