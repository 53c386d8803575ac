"""data ids --threshold: masks of two values from masks of many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_files import encode, write
from mask_files import RED, WHITE, write_mask

from segcoord.data.color_masks import MaskConverter
from segcoord.data.labels import (
    VOC,
    binary_labels,
    numbered_labels,
)
from segcoord.utils.errors import UserError


def test_threshold_summary_and_a_class_that_would_be_empty(tmp_path: Path) -> None:
    labels = binary_labels("crack", RED, colors_given=False)
    values = {"a": [0, 0, 0, 1], "b": [0, 0, 0, 255]}
    masks = {name: write_mask(tmp_path, [v], f"{name}.png") for name, v in values.items()}
    summary = MaskConverter(labels, threshold=128).threshold_summary(masks)
    assert summary == "--threshold 128: 12.50 % of the pixels are crack; 1 of 2 masks have none"
    with pytest.raises(UserError, match=r"no pixel of the 1 masks would be 'crack'; nothing"):
        MaskConverter(labels, threshold=128).threshold_summary({"a": masks["a"]})


def test_a_threshold_needs_two_classes_and_gray_masks(tmp_path: Path) -> None:
    for arguments, message in (
        ((VOC, (), (), 128), "found 21 classes, expected two"),
        ((numbered_labels(2), (), [(1, 1)], 128), "can't be combined with --value"),
        ((numbered_labels(2), (), (), 0), "found 0, expected 1 to 65535"),
    ):
        with pytest.raises(UserError, match=message):
            MaskConverter(*arguments)
    path = write(tmp_path, "mask.png", encode(np.uint8([[WHITE, RED]]), format="PNG"))
    with pytest.raises(UserError, match="needs gray masks"):
        MaskConverter(numbered_labels(2), threshold=128).indices(path)
