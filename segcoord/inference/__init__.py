"""Inference with trained models: loading, prediction, test-time augmentation, photos, videos,
Grad-CAM and runtimes.

Independent of dataset splits, ground truth and scores.
"""
