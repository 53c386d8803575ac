"""Wrong mask values: what the errors say of their cause and remedy."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import encode, write
from mask_files import RED, palette_file, write_mask
from PIL import Image

from segcoord.data.color_masks import MaskConverter
from segcoord.data.labels import (
    CITYSCAPES,
    CITYSCAPES_TRAIN_IDS,
    VOC,
    LabelClass,
    LabelSet,
    binary_labels,
    numbered_labels,
    voc_colors,
)
from segcoord.data.mask_reader import count_mask, read_mask
from segcoord.utils.errors import UserError


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "red", "P", "quantized"])
def test_many_foreground_values_in_binary_segmentation_are_an_error(
    tmp_path: Path, mode: str
) -> None:
    """They may be edges, objects or void. A threshold makes two values."""
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 255
    blurred = cv2.GaussianBlur(mask, (5, 5), 0)
    image, threshold = Image.fromarray(blurred), 128
    if mode == "I;16":
        image, threshold = Image.fromarray(blurred * np.uint16(257)), 32768
    elif mode == "red":
        image = Image.fromarray(np.dstack([blurred, blurred * 0, blurred * 0]))
    else:
        image = image.quantize(16) if mode == "quantized" else image.convert(mode)
    path = write(tmp_path, "mask.png", encode(image, format="PNG"))
    labels = binary_labels("crack", RED, colors_given=False)
    for read in (read_mask, count_mask, lambda path, labels: MaskConverter(labels).indices(path)):
        with pytest.raises(UserError, match=r"expected at most two values|isn't black"):
            read(path, labels)
    found = MaskConverter(labels, threshold=threshold).indices(path)
    assert np.count_nonzero(found != (blurred >= 128)) <= (8 if mode == "quantized" else 0)


def test_many_foreground_values_name_what_to_do(tmp_path: Path) -> None:
    labels = binary_labels("crack", RED, colors_given=False)
    path = write_mask(tmp_path, [[0, 1, 2, 3, 255]])
    with pytest.raises(UserError) as caught:
        read_mask(path, labels)
    for part in ("1, 2, 3, 255", "id: [1, 2, 3, ...]", "void_ids: [255]", "--threshold 1;"):
        assert part in str(caught.value)
    two = LabelSet([LabelClass(str(v), (0, 0, 0), v) for v in (0, 255)])
    with pytest.raises(UserError, match="--threshold 128"):
        read_mask(path, two)
    void = binary_labels("crack", RED, [255, 3], colors_given=False)
    assert read_mask(path, void).tolist() == [[0, 1, 1, 255, 255]]
    assert MaskConverter(void, threshold=2).indices(path).tolist() == [[0, 0, 1, 255, 255]]
    palette = palette_file(tmp_path, [0, 1, 2, 3], *voc_colors(4))
    with pytest.raises(UserError, match="--threshold 1;"):
        read_mask(palette, labels)
    assert MaskConverter(labels, threshold=1).indices(palette).tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize(
    ("labels", "values", "unknown", "hint"),
    [
        # Label ids instead of train ids, and with 19 custom classes.
        (CITYSCAPES_TRAIN_IDS, [0, 7, 7, 26, 33], r"26, 33 \(2 pixels\)", "Cityscapes label ids"),
        (numbered_labels(19), [3, 7, 11, 21, 23], r"21, 23 \(2 pixels\)", "use layout cityscapes"),
        (
            numbered_labels(2),
            [0, 0, 254, 254],
            r"254 \(2 pixels\)",
            "0/254 binary mask. Give the class that 254 marks id: 254 .* list one class alone",
        ),
        (numbered_labels(5), [0, 128], r"128 \(1 pixels\)", "0/128 binary mask"),
        (numbered_labels(3), [1, 2, 3, 3], r"3 \(2 pixels\)", "start at 1, .* ids 1 to 3"),
        (numbered_labels(3), [3, 1, 255], r"3 \(1 pixels\)", "start at 1"),
        (
            numbered_labels(8),
            list(range(60)),
            r"8, 9, .*, 15 and 44 more \(52 pixels\)",
            "gray photograph",
        ),
        # Void as the number of classes, whether or not 0 occurs: 11 in masks of CamVid.
        (numbered_labels(11), [0, 3, 11], r"11 \(1 pixels\)", r"set data.void_ids: \[11\]"),
        (numbered_labels(11), [2, 3, 11], r"11 \(1 pixels\)", r"set data.void_ids: \[11\]"),
        (VOC, [0, 5, 21], r"21 \(1 pixels\)", r"set data.void_ids: \[0\]; otherwise correct"),
        (numbered_labels(3), [0, 128, 255], r"128 \(1 pixels\)", "the ids 0, 128, 255"),
        (numbered_labels(3), [0, 50, 100, 255], r"50, 100 \(2 pixels\)", "the ids 0, 50, 100"),
        (numbered_labels(3), [1, 3, 4, 9], r"3, 4, 9 \(3 pixels\)", "Correct the mask"),
        (CITYSCAPES, [7, 50], r"50 \(1 pixels\)", "Correct the mask"),
    ],
)
def test_unknown_mask_values_are_rejected_with_a_diagnosis(
    tmp_path: Path, labels: LabelSet, values: list[int], unknown: str, hint: str
) -> None:
    path = write_mask(tmp_path, [values])
    with pytest.raises(UserError, match=rf"mask\.png: mask values {unknown} .*{hint}"):
        read_mask(path, labels)


def test_unknown_mask_values_error_names_the_expected_ids(tmp_path: Path) -> None:
    path = write_mask(tmp_path, [[50]])
    with pytest.raises(UserError, match="expected 0 to 20 and 255 for void"):
        read_mask(path, VOC)
    with pytest.raises(UserError, match=r"expected \[7, 8, 11, .*33\] and 255 for void"):
        read_mask(path, CITYSCAPES)


def test_mask_of_zeros_is_not_diagnosed_as_binary(tmp_path: Path) -> None:
    """Classes with ids 1 to 3 and background 0 missing in void_ids."""
    labels = LabelSet([LabelClass(f"c{i}", (0, 0, 0), i) for i in (1, 2, 3)])
    with pytest.raises(UserError, match="mask values 0 ") as caught:
        read_mask(write_mask(tmp_path, [[0, 0]]), labels)
    assert "binary" not in str(caught.value)
