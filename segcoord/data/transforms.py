"""Training augmentation: all use of albumentations is in this file, so that it can be replaced."""

from __future__ import annotations

import os
import warnings

import albumentations as A
import cv2
import numpy as np

from segcoord.config.schema import DataConfig, ImageFolderConfig
from segcoord.data.random_crop import crop_window, draw_window

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks a server for its version otherwise


class TrainTransform:
    """Random scale, crop, flip and mild colour; each draw depends on the given key alone.

    What a crop leaves uncovered is mean colour in the image and void in the mask. Masks are only
    ever resampled nearest. The geometry is `segcoord.data.window`'s.

    Args:
        data: crop_size, scale, flip and color_jitter are read.
        mean: of the images, per channel, 0..1; the colour of the padding.
    """

    def __init__(self, data: DataConfig, mean: tuple[float, ...]) -> None:
        self.crop, self.scale, self.flip = tuple(data.crop_size), tuple(data.scale), data.flip
        self.fill = tuple(round(255 * m) for m in mean)
        jitter = data.color_jitter
        self.color: A.Compose | None = None
        if jitter:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a misspelt argument is only a warning there
                self.color = A.Compose(
                    [
                        A.ColorJitter(
                            brightness=(1 - jitter, 1 + jitter),
                            contrast=(1 - jitter, 1 + jitter),
                            saturation=(1 - jitter, 1 + jitter),
                            hue=(0, 0),
                            p=0.5,
                        )
                    ]
                )

    @property
    def smallest_scale(self) -> float:
        return self.scale[0]

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, key: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augments one pair.

        Args:
            image: (H, W, 3) uint8, in memory or mapped from a file; only what the crop needs of it
                is read.
            mask: (H, W) uint8.
            key: what the draw depends on: (seed, epoch, index).

        Returns:
            image (h, w, 3) uint8 and mask (h, w) uint8 of the crop's size.
        """
        rng = np.random.default_rng(key)
        window = draw_window(image.shape[:2], self.crop, self.scale, self.flip, rng)
        image, mask = crop_window(image, mask, window, self.crop, self.fill)
        if self.color is not None:
            _seed(self.color, key)
            image = self.color(image=image)["image"]
        return image, mask


class ClassTransform:
    """A random part of the image at the network's size, mirrored half of the time; nothing else.

    The recipe of Szegedy et al. 2015, section 6, that "random crop" stands for on ImageNet.
    """

    def __init__(self, data: ImageFolderConfig) -> None:
        self.compose = A.Compose(
            [
                A.RandomResizedCrop(
                    (data.crop_size, data.crop_size), scale=data.scale, ratio=data.ratio, p=1
                ),
                A.HorizontalFlip(p=0.5 if data.flip else 0),
            ]
        )

    def __call__(self, image: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) uint8; the draw depends on the key alone."""
        _seed(self.compose, key)
        return self.compose(image=image)["image"]


class CenterTransform:
    """The centre of the image, after its shorter side was scaled to `resize`."""

    def __init__(self, data: ImageFolderConfig) -> None:
        self.compose = A.Compose(
            [
                A.SmallestMaxSize(data.resize, interpolation=cv2.INTER_LINEAR, p=1),
                A.CenterCrop(data.crop_size, data.crop_size, p=1),
            ]
        )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) uint8."""
        return self.compose(image=image)["image"]


def _seed(compose: A.Compose, key: tuple[int, ...]) -> None:
    compose.set_random_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
