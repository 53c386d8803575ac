"""Rare class sampling: draw training crops so that rare classes are seen more often.

Source: Hoyer, Dai, Van Gool, "DAFormer", CVPR 2022, arXiv 2111.14887, paragraph "Rare Class
Sampling". In its code an image needs at least `min_pixels` of the class, and a crop is drawn again
until it has enough of them. Here every image with the class counts, the crop is placed around one
of its pixels, and a limit keeps a class that few images contain from being drawn too often.
"""

import hashlib

import numpy as np

from segcoord.data.random_crop import Pixels

TEMPERATURE = 0.01  # as in the code of DAFormer
MAX_REPEATS = 10
"""How often each image is drawn for one class, at most and on average, in as many draws as there
are labeled images."""
MAX_PIXELS = 4096  # of a class that a crop's place is drawn from; more would only cost time
_DRAW_STREAM, _PIXEL_STREAM = 2, 3  # of random numbers, apart from those of the augmentation


class RareClassSampler:
    """Draws a class, the rarer the more often, and an image in which it occurs.

    The probability of class c is proportional to exp((1 - f_c) / T), where f_c is its fraction of
    the labeled pixels and T is 0.01, up to MAX_REPEATS times the fraction of the labeled images
    that contain the class. What a class exceeds this limit by goes to the others in proportion.
    Every image with the class is equally likely. A draw depends on its key alone.

    Args:
        pixels: (K,) labeled pixels of each class.
        present: (N, K) bool, whether a class occurs in an image; each class with pixels does.
        probability: of drawing a class and an image at all, above 0 up to 1.

    Attributes:
        class_probabilities: (K,) float64, 0 for a class without pixels.
        sha256: of `pixels` and `present`.
    """

    def __init__(self, pixels: np.ndarray, present: np.ndarray, probability: float) -> None:
        self.probability = probability
        self.class_probabilities = _class_probabilities(pixels, present)
        self.images = [np.flatnonzero(column).astype(np.int32) for column in present.T]
        content = pixels.tobytes() + np.packbits(present).tobytes()
        self.sha256 = hashlib.sha256(content).hexdigest()

    def draw(self, key: tuple[int, ...]) -> tuple[int, int] | None:
        """Draw for a (seed, epoch, index).

        Returns:
            The indices of an image and of a class in it, or None to keep the image of the epoch and
            a crop anywhere.
        """
        rng = np.random.default_rng((*key, _DRAW_STREAM))
        if rng.random() >= self.probability:
            return None
        class_index = int(rng.choice(len(self.class_probabilities), p=self.class_probabilities))
        return int(rng.choice(self.images[class_index])), class_index


def _class_probabilities(pixels: np.ndarray, present: np.ndarray) -> np.ndarray:
    exponents = np.where(pixels > 0, -pixels / pixels.sum() / TEMPERATURE, -np.inf)
    weights = np.exp(exponents - exponents.max())
    # The limits add up to MAX_REPEATS at least, so that some class is always below its own.
    limits = MAX_REPEATS * present.sum(0) / present.any(1).sum()
    probabilities = weights / weights.sum()
    limited = np.zeros(len(pixels), bool)
    while (above := ~limited & (probabilities > limits)).any():
        limited |= above
        free = np.where(limited, 0, weights)
        remainder = 1 - limits[limited].sum()
        probabilities = np.where(limited, limits, remainder * free / free.sum())
    return probabilities


def class_pixels(mask: np.ndarray, class_index: int, key: tuple[int, ...]) -> Pixels:
    """The places of a class in a mask, (P,) rows and (P,) columns.

    Of more than MAX_PIXELS, that many are drawn at random for a (seed, epoch, index). P is 0 for a
    class that the mask lacks.

    Args:
        mask: (H, W) uint8.
    """
    flat = np.flatnonzero(mask == class_index)
    if len(flat) > MAX_PIXELS:
        rng = np.random.default_rng((*key, _PIXEL_STREAM))
        flat = flat[rng.integers(len(flat), size=MAX_PIXELS)]
    return np.divmod(flat, mask.shape[1])
