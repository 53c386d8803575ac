"""Mask files and palettes, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from image_files import encode, write
from PIL import Image

from segcoord.data.labels import LabelClass, LabelSet, voc_colors

FOUR = LabelSet([LabelClass(n, c, i) for i, (n, c) in enumerate(zip("abcd", voc_colors(4)))])
INDICES = np.array([[0, 1, 2], [3, 1, 0]], np.uint8)
BLACK, WHITE, RED, YELLOW = (0, 0, 0), (255, 255, 255), (255, 0, 0), (255, 255, 0)


def write_mask(folder: Path, values: object, name: str = "mask.png") -> Path:
    return write(folder, name, encode(np.array(values, dtype=np.uint8), format="PNG"))


def palette_file(folder: Path, indices: list[int], *colors: tuple[int, int, int]) -> Path:
    image = Image.fromarray(np.array([indices], np.uint8))
    image.putpalette([value for color in colors for value in color])
    return write(folder, "mask.png", encode(image, format="PNG"))
