"""How palettes are read: by the class colors, by index, or an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_files import encode, write
from mask_files import BLACK, FOUR, INDICES, RED, WHITE, YELLOW, palette_file
from PIL import Image

from segcoord.config.schema import ClassConfig
from segcoord.data.color_masks import MaskConverter
from segcoord.data.custom_labels import custom_labels
from segcoord.data.labels import (
    VOC,
    LabelSet,
    binary_labels,
    voc_colors,
)
from segcoord.data.mask_reader import count_mask, decode_mask, read_mask
from segcoord.utils.errors import UserError


def test_palette_mask_whose_indices_are_not_class_ids_is_rejected(tmp_path: Path) -> None:
    """Image editors number the colors arbitrarily; these indices are ids of other classes."""
    values = np.array([[0, 1], [1, 0]], np.uint8)
    picture = Image.fromarray(values)
    picture.putpalette(VOC.colors[[15, 7]].tobytes())
    with pytest.raises(UserError, match="index 0 has the color of person, whose id is 15"):
        read_mask(write(tmp_path, "mask.png", encode(picture, format="PNG")), VOC)


def test_palette_masks_are_read_by_color_if_only_colors_were_given(tmp_path: Path) -> None:
    """Image editors number the colors arbitrarily."""
    image = Image.fromarray(3 - INDICES)
    image.putpalette(FOUR.colors[3::-1].tobytes())
    path = write(tmp_path, "mask.png", encode(image, format="PNG"))
    labels = LabelSet(FOUR.classes, ids_given=False)
    assert decode_mask(path, labels).by_color
    assert (read_mask(path, labels) == INDICES).all()
    with pytest.raises(UserError, match="its indices are not the class ids"):
        read_mask(path, FOUR)
    display_only = LabelSet(FOUR.classes, colors_given=False, ids_given=False)
    assert (read_mask(path, display_only) == 3 - INDICES).all()
    image.putpalette(FOUR.colors[:4].tobytes())
    path = write(tmp_path, "ids.png", encode(image, format="PNG"))
    assert decode_mask(path, labels).by_color is False
    assert (read_mask(path, labels) == 3 - INDICES).all()


GREEN, MAROON = (0, 255, 0), (128, 0, 0)


@pytest.mark.parametrize(
    ("indices", "colors", "expected"),
    [
        ([0, 1, 0], (WHITE, BLACK), [1, 0, 1]),
        ([1, 1, 1], (WHITE, BLACK), [0, 0, 0]),
        ([0, 1, 2], (RED, BLACK, RED), [1, 0, 1]),
        ([0, 1, 1], (BLACK, RED), [0, 1, 1]),
        ([0, 1, 2], (BLACK, RED, WHITE), [0, 1, 1]),
        ([0, 1, 1], (RED, YELLOW), [0, 1, 1]),
        ([0, 1, 1], (BLACK, BLACK), [0, 1, 1]),
        ([0, 1, 7], (WHITE, BLACK, *[RED] * 6), [1, 0, 255]),
        # A single color in use, beside the others of the palette.
        ([0, 0, 0], (WHITE, BLACK), [1, 1, 1]),
        ([0, 0, 0], (WHITE,), [1, 1, 1]),
        ([0, 0, 0], (RED, BLACK), [1, 1, 1]),
        ([1, 1, 1], (BLACK, BLACK), [1, 1, 1]),
        ([0, 1, 2], (WHITE, BLACK, RED), None),
        ([0, 1, 1], (WHITE, RED), None),
        ([0, 0, 0], (RED,), None),
        ([0, 0, 0], (RED, YELLOW), None),
    ],
)
def test_palettes_in_binary_segmentation(
    tmp_path: Path, indices: list[int], colors: tuple, expected: list[int] | None
) -> None:
    """Pillow's quantize() numbers white before black; VOC's palette begins with black."""
    labels = binary_labels("crack", (230, 159, 0), [7], colors_given=False)
    path = palette_file(tmp_path, indices, *colors)
    converter = MaskConverter(labels)
    for read in (lambda: read_mask(path, labels), lambda: converter.indices(path)):
        if expected is None:
            with pytest.raises(UserError, match=r"index 0 isn't black .*0: 255,"):
                read()
        else:
            assert read().tolist() == [expected]
    if expected is not None:
        assert count_mask(path, labels).by_class[1] == expected.count(1)


def test_quantized_mask_in_binary_segmentation_with_and_without_a_color(tmp_path: Path) -> None:
    mask = np.full((8, 8), 255, np.uint8)
    mask[:3, :3] = 0
    path = tmp_path / "mask.png"
    Image.fromarray(mask).convert("RGB").quantize(2).save(path)
    for given in (False, True):
        labels = binary_labels("crack", WHITE, colors_given=given)
        assert (read_mask(path, labels) == (mask > 0)).all()
    with pytest.raises(UserError, match=r"index 1 of its palette has the color of 'background'"):
        read_mask(palette_file(tmp_path, [0, 1], WHITE, BLACK), binary_labels("crack", RED))


def test_palette_of_classes_and_an_unknown_color_is_never_silently_read_by_index(
    tmp_path: Path,
) -> None:
    classes = [
        ClassConfig("red", [*RED]),
        ClassConfig("black", [*BLACK]),
        ClassConfig("b", [1] * 3),
    ]
    labels = custom_labels(classes, [])
    with pytest.raises(UserError, match=r"index 0 .* color of 'black', .*index 2 has .*255,255,0"):
        read_mask(palette_file(tmp_path, [0, 1, 2], BLACK, RED, YELLOW), labels)
    # The known color is at its id, or void: the indices are the ids.
    for colors in ((RED, YELLOW, WHITE), (RED, (128, 0, 0), (0, 128, 0)), (YELLOW, WHITE, WHITE)):
        assert read_mask(palette_file(tmp_path, [0, 1, 2], *colors), labels).tolist() == [[0, 1, 2]]
    # VOC's whole color map numbers ids, also where a class happens to have one of its colors.
    camvid = [ClassConfig("a", RED), ClassConfig("b", [1, 1, 1]), ClassConfig("c", [128, 0, 0])]
    for used in ([0, 1, 2], [1, 1, 1]):
        path = palette_file(tmp_path, used, *voc_colors(16), *[BLACK] * 240)
        assert read_mask(path, custom_labels(camvid, [])).tolist() == [used]
    # With ids, two known colors at other indices prove that the indices are not the ids.
    ids = [replace(c, id=i) for i, c in enumerate(classes)]
    with pytest.raises(UserError, match=r"index 0 has the color of black, whose id is 1"):
        read_mask(palette_file(tmp_path, [0, 1, 2], BLACK, RED, YELLOW), custom_labels(ids, []))


@pytest.mark.parametrize(
    ("colors", "palette", "indices", "expected"),
    [
        # Black is the last class.
        ((RED, GREEN, BLACK), (BLACK, RED, GREEN), [0, 0], [2, 2]),
        ((RED, GREEN, BLACK), (BLACK,), [0, 0], [2, 2]),
        ((RED, GREEN, BLACK), (BLACK, RED, GREEN), [0, 1], [2, 0]),
        # Some of the colors are in VOC's map.
        ((MAROON, BLACK, YELLOW), (BLACK, MAROON, YELLOW), [0, 1], [1, 0]),
        ((MAROON, BLACK, YELLOW), (BLACK, MAROON, YELLOW), [0, 1, 2], [1, 0, 2]),
        # Equal colors tell nothing.
        ((BLACK, RED, GREEN), [BLACK] * 9, [0, 1, 2], [0, 1, 2]),
        ((BLACK, RED, GREEN), [BLACK] * 9, [1, 1], [1, 1]),
        ((BLACK, RED, GREEN), (RED, BLACK), [1, 1], [0, 0]),
    ],
)
def test_palette_of_class_colors_is_read_by_color_whatever_colors_are_in_use(
    tmp_path: Path, colors: tuple, palette: tuple, indices: list[int], expected: list[int]
) -> None:
    labels = custom_labels([ClassConfig(str(i), c) for i, c in enumerate(colors)], [])
    path = palette_file(tmp_path, indices, *palette)
    assert read_mask(path, labels).tolist() == [expected]
    assert count_mask(path, labels).by_class[expected[0]] == expected.count(expected[0])
