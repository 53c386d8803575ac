"""Training augmentation: all use of albumentations is in this file, so that it can be replaced."""

from __future__ import annotations

import os
import warnings

import numpy as np

from segcoord.config import DataConfig, ImageFolderConfig
from segcoord.labels import VOID

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks a server for its version otherwise

import albumentations as A
import cv2


class TrainTransform:
    """Random scale, crop, flip and mild colour; each draw depends on the given key alone.

    What a crop leaves uncovered is mean colour in the image and void in the mask. Masks are only
    ever resampled nearest.

    Args:
        data: crop_size, scale, flip and color_jitter are read.
        mean: of the images, per channel, 0..1; the colour of the padding.
    """

    def __init__(self, data: DataConfig, mean: tuple[float, ...]) -> None:
        height, width = data.crop_size
        low, high = data.scale
        self.smallest_scale = low
        jitter = data.color_jitter
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a misspelt argument is only a warning there
            self.compose = A.Compose(
                [
                    A.RandomScale(
                        (low - 1, high - 1),
                        interpolation=cv2.INTER_LINEAR,
                        mask_interpolation=cv2.INTER_NEAREST,
                        p=1,
                    ),
                    A.RandomCrop(
                        height,
                        width,
                        pad_if_needed=True,
                        pad_position="random",
                        fill=[round(255 * m) for m in mean],
                        fill_mask=VOID,
                        p=1,
                    ),
                    A.HorizontalFlip(p=0.5 if data.flip else 0),
                    A.ColorJitter(
                        brightness=(1 - jitter, 1 + jitter),
                        contrast=(1 - jitter, 1 + jitter),
                        saturation=(1 - jitter, 1 + jitter),
                        hue=(0, 0),
                        p=0.5 if jitter else 0,
                    ),
                ]
            )

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, key: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augments one pair.

        Args:
            image: (H, W, 3) uint8.
            mask: (H, W) uint8.
            key: what the draw depends on: (seed, epoch, index).

        Returns:
            image (h, w, 3) uint8 and mask (h, w) uint8 of the crop's size.
        """
        _seed(self.compose, key)
        out = self.compose(image=image, mask=mask)
        return out["image"], out["mask"]


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
