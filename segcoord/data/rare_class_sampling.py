"""Rare class sampling: draw training crops so that rare classes are seen more often.

Source: Hoyer, Dai, Van Gool, "DAFormer", CVPR 2022, arXiv 2111.14887, section 3.2. There a crop is
drawn again until it has enough pixels of the class; here it is placed around one of them.
"""

import hashlib

import numpy as np

TEMPERATURE = 0.01  # as in the code of DAFormer
_STREAM = 2  # of random numbers, apart from those of the augmentation


class RareClassSampler:
    """Draws a class, the rarer the more often, and an image in which it occurs.

    The probability of class c is proportional to exp((1 - f_c) / T), where f_c is its fraction of
    the labeled pixels and T is 0.01. Every image with the class is equally likely. A draw depends
    on its key alone.

    Args:
        pixels: (K,) labeled pixels of each class.
        present: (N, K) bool, whether a class occurs in an image; each class with pixels does.
        probability: of drawing a class and an image at all, above 0 up to 1.

    Attributes:
        sha256: of `pixels` and `present`.
    """

    def __init__(self, pixels: np.ndarray, present: np.ndarray, probability: float) -> None:
        self.probability = probability
        exponents = np.where(pixels > 0, -pixels / pixels.sum() / TEMPERATURE, -np.inf)
        weights = np.exp(exponents - exponents.max())
        self.class_probabilities = weights / weights.sum()
        self.images = [np.flatnonzero(column).astype(np.int32) for column in present.T]
        content = pixels.tobytes() + np.packbits(present).tobytes()
        self.sha256 = hashlib.sha256(content).hexdigest()

    def draw(self, key: tuple[int, ...]) -> tuple[int, int] | None:
        """Draw for a (seed, epoch, index).

        Returns:
            The indices of an image and of a class in it, or None to keep the image of the epoch and
            a crop anywhere.
        """
        rng = np.random.default_rng((*key, _STREAM))
        if rng.random() >= self.probability:
            return None
        class_index = int(rng.choice(len(self.class_probabilities), p=self.class_probabilities))
        return int(rng.choice(self.images[class_index])), class_index
