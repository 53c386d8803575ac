"""A trained model on images: loading, views and tiles, argmax, photos, videos, Grad-CAM, runtimes.

Nothing here knows of a dataset's splits, of ground truth or of scores.
"""
