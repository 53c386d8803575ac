"""Predictions as files: masks as PNGs that the datasets' own tools read, probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from segcoord.data.labels import LabelSet, voc_colors
from segcoord.utils.files import atomic_write


def mask_image(indices: np.ndarray, labels: LabelSet, palette: bool) -> Image.Image:
    """Class indices as the mask values of their dataset.

    Args:
        indices: (H, W) uint8 class indices, 255 for void.
        labels: which mask value stands for which class.
        palette: True for a palette picture, whose pixels are the values though it looks coloured
            (VOC); False for a grey one (Cityscapes' label ids).
    """
    picture = Image.fromarray(labels.to_value[indices])
    if palette:
        colors = np.array(voc_colors(256), np.uint8)  # also of values that stand for nothing
        colors[labels.to_value] = labels.colors  # void and unused indices all go to 255
        picture.putpalette(colors.ravel().tolist())
    return picture


def write_mask(path: Path, indices: np.ndarray, labels: LabelSet, palette: bool) -> None:
    """Writes class indices as the mask values of their dataset, without loss.

    Args:
        path: the PNG to write.
        indices, labels, palette: as of `mask_image`.
    """
    with atomic_write(path) as temporary:
        mask_image(indices, labels, palette).save(temporary, format="PNG")


def write_probabilities(path: Path, probabilities: np.ndarray, labels: LabelSet) -> None:
    """Writes `probabilities`, (K, H, W) float16, and the classes' `names`, (K,), as a .npz."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, probabilities=probabilities, names=np.array(labels.names))
