"""Datasets: file layouts, decoding, packs, augmentation, data loading, checks and downloads.

Also generates the synthetic sample dataset. Knows nothing of models, losses or metrics.
"""
