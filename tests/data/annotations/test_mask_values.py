"""Masks that are converted by a table of values or colors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcoord.data.annotations.mask_values import mask_indices
from segcoord.data.annotations.rasterize import UNLABELLED
from segcoord.data.annotations.records import MaskFile
from segcoord.utils.errors import UserError

INDICES = {"car": 1, "bus": 2}
RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)
COLORS = {RED: "car", BLUE: "bus", BLACK: None}


def save(tmp_path: Path, pixels: np.ndarray, palette: list[tuple] | None = None) -> Path:
    path = tmp_path / "mask.png"
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette([v for color in palette for v in color])
    image.save(path)
    return path


def test_values(tmp_path: Path) -> None:
    path = save(tmp_path, np.array([[0, 7], [7, 9]], np.uint8))
    result = mask_indices(MaskFile(path, {0: None, 7: "car", 9: "bus"}), INDICES)
    assert result.tolist() == [[UNLABELLED, 1], [1, 2]]
    path = save(tmp_path, np.array([[300, 7]], np.uint16))
    assert mask_indices(MaskFile(path, {300: "bus", 7: "car"}), INDICES).tolist() == [[2, 1]]


def test_colors_of_pixels_palettes_and_gray(tmp_path: Path) -> None:
    expected = [[UNLABELLED, 1, 2]]
    path = save(tmp_path, np.array([[BLACK, RED, BLUE]], np.uint8))
    assert mask_indices(MaskFile(path, COLORS), INDICES).tolist() == expected
    path = save(tmp_path, np.array([[1, 2, 0]], np.uint8), [BLUE, BLACK, RED])
    assert mask_indices(MaskFile(path, COLORS), INDICES).tolist() == expected
    path = save(tmp_path, np.zeros((1, 2), np.uint8))
    assert mask_indices(MaskFile(path, COLORS), INDICES).tolist() == [[UNLABELLED] * 2]


def test_indices_of_a_palette_are_values(tmp_path: Path) -> None:
    path = save(tmp_path, np.array([[1, 0]], np.uint8), [RED, BLUE])
    assert mask_indices(MaskFile(path, {0: "bus", 1: "car"}), INDICES).tolist() == [[1, 2]]


def test_values_and_colors_that_the_table_lacks(tmp_path: Path) -> None:
    path = save(tmp_path, np.array([[0, 5, 5, 6]], np.uint8))
    with pytest.raises(UserError, match=r"values 5 \(2 pixels\), 6 \(1 pixels\), which"):
        mask_indices(MaskFile(path, {0: None}), INDICES)
    path = save(tmp_path, np.array([[RED, (1, 2, 3)]], np.uint8))
    with pytest.raises(UserError, match=r"the color 1,2,3 \(1 pixels\), which the export's table"):
        mask_indices(MaskFile(path, COLORS), INDICES)
    with pytest.raises(UserError, match="a mask of colors, but the export's table gives"):
        mask_indices(MaskFile(path, {0: "car"}), INDICES)
    with pytest.raises(UserError, match="classes tram, which are not among"):
        mask_indices(MaskFile(path, {RED: "tram"}), INDICES)
