"""How uncertain a prediction is, to choose the images that are worth labeling next.

Shapes: K classes, images of (H, W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Uncertainty of an image, as means over its pixels."""

    entropy: float
    """Entropy of the probabilities, 0 to 1: -sum(p ln p) / ln K."""
    margin: float
    """Difference of the two highest probabilities, 0 to 1; lower is more uncertain."""
    by_class: np.ndarray
    """(K,) float64: share of the entropy at the pixels predicted as each class; 0 if all
    probabilities are certain."""


def pixel_entropy(probabilities: np.ndarray) -> np.ndarray:
    """-sum(p ln p) / ln K at each pixel.

    Args:
        probabilities: (K, H, W) floats, which sum to 1 at each pixel.

    Returns:
        (H, W) float32 in 0..1.
    """
    entropy = np.zeros(probabilities.shape[1:], np.float32)
    for plane in probabilities:  # a class at a time needs little memory
        p = plane.astype(np.float32)
        entropy -= p * np.log(np.maximum(p, np.finfo(np.float32).tiny))
    return np.clip(entropy / math.log(max(2, len(probabilities))), 0, 1)


def measure(prediction: np.ndarray, probabilities: np.ndarray) -> Uncertainty:
    """The uncertainty of an image.

    Args:
        prediction: (H, W) uint8 class indices.
        probabilities: (K, H, W) floats, which sum to 1 at each pixel.
    """
    entropy = pixel_entropy(probabilities)
    first, second = np.zeros((2, *entropy.shape), np.float32)
    for plane in probabilities:
        p = plane.astype(np.float32)
        second = np.maximum(second, np.minimum(first, p))
        first = np.maximum(first, p)
    by_class = np.bincount(prediction.ravel(), entropy.ravel(), len(probabilities))
    return Uncertainty(
        entropy=float(entropy.mean(dtype=np.float64)),
        margin=float((first - second).mean(dtype=np.float64)),
        by_class=by_class / max(by_class.sum(), np.finfo(np.float64).tiny),
    )
