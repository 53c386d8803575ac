"""Evaluation: mIoU over a split, its protocol, Cityscapes scores, comparison, report, submissions.

This package does not train or export models.
"""
