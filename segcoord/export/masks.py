"""Predicted masks as PNG files that the datasets' own tools read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from segcoord.files import atomic_write
from segcoord.labels import LabelSet


def write_mask(path: Path, indices: np.ndarray, labels: LabelSet, palette: bool) -> None:
    """Writes class indices as the mask values of their dataset, without loss.

    Args:
        path: the PNG to write.
        indices: (H, W) uint8 class indices, 255 for void.
        labels: which mask value stands for which class.
        palette: True for a palette PNG, whose pixels are the values though it looks coloured (VOC);
            False for a grey one (Cityscapes' label ids).
    """
    picture = Image.fromarray(labels.to_value[indices])
    if palette:
        colors = np.zeros((256, 3), np.uint8)
        colors[labels.to_value] = labels.colors  # void and unused indices all go to 255
        picture.putpalette(colors.ravel().tolist())
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")
