"""Augmentation of training samples. Each draw depends on a key alone: (seed, epoch, index).

So a sample is the same for any number of workers, and for a run that was resumed. The random
numbers and pixels are those of albumentations 2.0.8 (MIT), which segcoord used before: runs that
were started with it resume exactly. `tests/data/test_transforms.py` compares the two.
"""

import math
import random

import cv2
import numpy as np

from segcoord.config.schema import DataConfig, ImageFolderConfig
from segcoord.data.custom_augmentation import CustomAugmentation
from segcoord.data.random_crop import Pixels, crop_window, draw_window

Key = tuple[int, ...]


class TrainTransform:
    """Random scale, crop, flip, color jitter, then the user's own augmentation if there is one.

    Where a crop extends beyond the image, the image has the mean color and the mask is void. Masks
    are resampled nearest. The geometry is in `data.random_crop`.

    Args:
        data: crop_size, scale, flip, color_jitter and augmentation are read.
        mean: of the images, per channel, 0..1; the color of the padding.

    Raises:
        UserError: see `CustomAugmentation`.
    """

    def __init__(self, data: DataConfig, mean: tuple[float, ...]) -> None:
        self.crop, self.scale, self.flip = tuple(data.crop_size), tuple(data.scale), data.flip
        self.fill = tuple(round(255 * m) for m in mean)
        self.color_jitter = data.color_jitter
        self.custom = None
        if data.augmentation is not None:
            self.custom = CustomAugmentation(data.augmentation, self.crop)

    @property
    def smallest_scale(self) -> float:
        return self.scale[0]

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, key: Key, pixels: Pixels | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augments one pair.

        Args:
            image: (H, W, 3) uint8, in memory or memory-mapped; only what the crop needs is read.
            mask: (H, W) uint8.
            key: (seed, epoch, index).
            pixels: as for `draw_window`.

        Returns:
            image (h, w, 3) uint8 and mask (h, w) uint8 of the crop's size.
        """
        rng = np.random.default_rng(key)
        window = draw_window(image.shape[:2], self.crop, self.scale, self.flip, rng, pixels)
        image, mask = crop_window(image, mask, window, self.crop, self.fill)
        if self.color_jitter:
            image = jitter_color(image, self.color_jitter, key)
        if self.custom is not None:
            image, mask = self.custom(image, mask, key)
        return image, mask


def jitter_color(image: np.ndarray, strength: float, key: Key) -> np.ndarray:
    """Half of the time, changes brightness, contrast and saturation in random order.

    Args:
        image: (H, W, 3) uint8 RGB.
        strength: each factor is uniform in 1 - strength .. 1 + strength.
        key: (seed, epoch, index).

    Returns:
        (H, W, 3) uint8.
    """
    seed = _seed(key)
    uniform = random.Random(seed)
    if uniform.random() >= 0.5:
        return image
    factors = [uniform.uniform(1 - strength, 1 + strength) for _ in range(3)]
    order = [0, 1, 2, 3]  # 3 was the hue, which is left as it is
    np.random.default_rng(seed).shuffle(order)
    for adjust, factor in ((_ADJUSTMENTS[i], factors[i]) for i in order if i < 3):
        image = adjust(image, factor)
    return image


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return _lookup(image, factor, 0.0)


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    return _lookup(image, factor, mean * (1 - factor))


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, gray, 1 - factor, 0)


def _lookup(image: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """factor * image + offset, clipped to 0..255 and truncated, from a table of the 256 values."""
    table = np.arange(256, dtype=np.float32) * factor + offset
    return cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8))


_ADJUSTMENTS = (_brightness, _contrast, _saturation)


class ClassTransform:
    """Random resized crop and horizontal flip, the usual augmentation for ImageNet.

    Source: Szegedy et al., "Going deeper with convolutions", 2015, section 6.
    """

    def __init__(self, data: ImageFolderConfig) -> None:
        self.size, self.flip = data.crop_size, data.flip
        self.scale, self.ratio = data.scale, data.ratio

    def __call__(self, image: np.ndarray, key: Key) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) uint8; the draw depends on the key alone."""
        seed = _seed(key)
        rows, columns = self._crop(image.shape[0], image.shape[1], random.Random(seed))
        image = _resize(image[rows, columns], self.size, self.size)
        if self.flip and random.Random(seed).random() < 0.5:
            image = cv2.flip(image, 1)
        return image

    def _crop(self, height: int, width: int, rng: random.Random) -> tuple[slice, slice]:
        """Rows and columns of a part with a random area and aspect ratio."""
        for _ in range(10):
            area = rng.uniform(*(part * height * width for part in self.scale))
            ratio = math.exp(rng.uniform(*map(math.log, self.ratio)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top = int((height - h + 1) * rng.random())
                left = int((width - w + 1) * rng.random())
                return slice(top, top + h), slice(left, left + w)
        low, high = self.ratio  # no part fits: the largest central one with an allowed ratio
        w, h = min(width, round(height * high)), min(height, round(width / low))
        top, left = (height - h) // 2, (width - w) // 2
        return slice(top, top + h), slice(left, left + w)


class CenterTransform:
    """Scales the shorter side to `resize` and takes the central crop, for validation."""

    def __init__(self, data: ImageFolderConfig) -> None:
        self.resize, self.size = data.resize, data.crop_size

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) uint8."""
        scale = self.resize / min(image.shape[:2])
        image = _resize(image, *(max(1, round(length * scale)) for length in image.shape[:2]))
        top, left = ((length - self.size) // 2 for length in image.shape[:2])
        return image[top : top + self.size, left : left + self.size]


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _seed(key: Key) -> int:
    return int(np.random.SeedSequence(key).generate_state(1)[0])
