"""Reading masks of ids and of colors: exact classes, and rejection of files that mislead."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import PNG_END, cuts, encode, palette_mask, png_by_hand, write
from mask_files import FOUR, INDICES, RED, WHITE, write_mask
from PIL import Image

from segcoord.config.schema import ClassConfig
from segcoord.data.custom_labels import custom_labels
from segcoord.data.labels import (
    CITYSCAPES,
    VOC,
    LabelClass,
    LabelSet,
    binary_labels,
    numbered_labels,
)
from segcoord.data.mask_reader import count_mask, decode_mask, read_mask, read_mask_values
from segcoord.utils.errors import UserError


@pytest.mark.parametrize(
    ("options", "file_type"),
    [
        ({"format": "JPEG"}, "a JPEG file"),
        ({"format": "WEBP"}, "a WEBP file"),
        ({"format": "JPEG2000"}, "a JPEG2000 file"),
        ({"format": "TIFF", "compression": "jpeg"}, "a JPEG-compressed TIFF file"),
    ],
)
def test_lossily_compressed_mask_is_rejected_regardless_of_its_suffix(
    tmp_path: Path, options: dict, file_type: str
) -> None:
    path = write(tmp_path, "mask.png", encode(Image.new("L", (16, 16)), **options))
    with pytest.raises(
        UserError, match=rf"mask\.png: {file_type}, whose lossy compression changes ids and colors"
    ):
        read_mask(path, numbered_labels(256 - 2))


def test_palette_mask_is_read_as_palette_indices(tmp_path: Path) -> None:
    values = np.array([[*range(21), 255]] * 2)
    path = write(tmp_path, "mask.png", encode(palette_mask(values), format="PNG"))
    assert Image.open(path).mode == "P"
    mask = read_mask(path, VOC)
    np.testing.assert_array_equal(mask, values)
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_masks_of_fewer_bits(tmp_path: Path, bits: int) -> None:
    """Some programs store few classes with fewer bits."""
    values = np.arange(15).reshape(3, 5) % 2**bits
    raw = encode(palette_mask(values), format="PNG", bits=bits)
    assert raw[24] == bits
    np.testing.assert_array_equal(read_mask(write(tmp_path, "mask.png", raw), VOC), values)


def test_gray_and_1_bit_masks(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [255, 1, 0]])
    np.testing.assert_array_equal(
        read_mask(write_mask(tmp_path, values), numbered_labels(3)), values
    )
    bits = np.eye(3, dtype=bool)
    path = write(tmp_path, "bits.png", encode(Image.fromarray(bits), format="PNG"))
    np.testing.assert_array_equal(read_mask(path, numbered_labels(2)), bits.astype(int))


@pytest.mark.parametrize("options", [{"format": "BMP"}, {"format": "TIFF"}])
def test_masks_in_other_formats(tmp_path: Path, options: dict) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for image in (Image.fromarray(values), palette_mask(values)):
        path = write(tmp_path, "mask", encode(image, **options))
        np.testing.assert_array_equal(read_mask(path, VOC), values)


@pytest.mark.parametrize("depth", [2, 4])
def test_gray_masks_of_2_and_4_bits_hold_their_values(tmp_path: Path, depth: int) -> None:
    """Pillow scales them to 0..255."""
    row = bytes([0b00011011 if depth == 2 else 0x0F])  # from the left: 0, 1, 2, 3 or 0, 15
    values = [[0, 1, 2, 3]] if depth == 2 else [[0, 15]]
    png = png_by_hand(len(values[0]), 1, depth, 0, b"\0" + row)
    assert read_mask(write(tmp_path, "mask.png", png), VOC).tolist() == values


def test_mask_values_are_mapped_to_class_indices(tmp_path: Path) -> None:
    path = write_mask(tmp_path, [[7, 8, 33, 0], [26, 11, 3, 255]])
    assert read_mask(path, CITYSCAPES).tolist() == [[0, 1, 18, 255], [13, 2, 255, 255]]
    custom = LabelSet([LabelClass("a", (0, 0, 0), 200), LabelClass("b", (0, 0, 0), 3)], [9])
    path = write_mask(tmp_path, [[200, 3, 9, 255]])
    assert read_mask(path, custom).tolist() == [[0, 1, 255, 255]]
    assert read_mask_values(path).tolist() == [[200, 3, 9, 255]]


def colored(indices: np.ndarray, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(FOUR.colors[indices]).convert(mode)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_color_masks_are_read_by_the_class_colors(tmp_path: Path, mode: str, kind: str) -> None:
    path = write(tmp_path, "mask", encode(colored(INDICES, mode), format=kind))
    indices, by_color, *_ = decode_mask(path, FOUR)
    assert (indices == INDICES).all() and indices.dtype == np.uint8
    assert by_color
    by_class, values, _ = count_mask(path, FOUR)
    assert by_class[:4].tolist() == [2, 2, 1, 1] and values == []


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("factor", [1, 256, 257])
def test_16_bit_color_masks(tmp_path: Path, suffix: str, channels: int, factor: int) -> None:
    """Programs store the 8-bit value v as v, 256 * v or 257 * v; Pillow keeps the upper half."""
    pixels = FOUR.colors[INDICES][..., ::-1].astype(np.uint16) * factor
    if channels == 4:
        alpha = np.full((2, 3, 1), 255 if factor == 1 else 65535, np.uint16)
        pixels = np.concatenate([pixels, alpha], axis=-1)
    path = tmp_path / f"mask.{suffix}"
    cv2.imwrite(str(path), pixels)
    assert (read_mask(path, FOUR) == INDICES).all()
    if factor == 257:  # the lower half counts: this is no 8-bit color
        pixels[0, 0, 0] = 1000
        cv2.imwrite(str(path), pixels)
        with pytest.raises(UserError, match=r"the 16-bit color \[0, 0, 1000\] at x=0, y=0"):
            read_mask(path, FOUR)


def test_vocs_void_color_is_void_in_color_masks(tmp_path: Path) -> None:
    path = write(tmp_path, "mask.png", encode(colored(np.array([[1, 255]])), format="PNG"))
    assert read_mask(path, FOUR).tolist() == [[1, 255]]


def test_unknown_mask_color_names_the_nearest_class(tmp_path: Path) -> None:
    pixels = FOUR.colors[INDICES]
    pixels[0, 0] = 127, 1, 0
    path = write(tmp_path, "mask.png", encode(pixels, format="PNG"))
    with pytest.raises(
        UserError,
        match=r"mask\.png: the color 127,1,0 \(1 pixels\) belongs to no class; the nearest is 'b', "
        r"128,0,0\. Add it to data\.classes, or .*--void 127,1,0",
    ):
        read_mask(path, FOUR)


def test_color_mask_of_classes_without_colors_lists_its_colors(tmp_path: Path) -> None:
    labels = LabelSet(FOUR.classes, colors_given=False)
    path = write(tmp_path, "mask.png", encode(colored(np.array([[1, 2]])), format="PNG"))
    with pytest.raises(UserError, match=r"the colors \[0, 128, 0\], .* has no colors\. Give"):
        read_mask(path, labels)
    ids = np.dstack([INDICES] * 3)  # ids saved as RGB
    path = write(tmp_path, "ids.png", encode(ids, format="PNG"))
    assert decode_mask(path, labels).by_color is False
    assert (read_mask(path, labels) == INDICES).all()


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA"])
def test_masks_with_alpha_must_be_opaque(tmp_path: Path, mode: str) -> None:
    options = {"format": "TIFF" if mode == "PA" else "PNG"}
    image = Image.fromarray(INDICES * 0).convert(mode)
    image.putalpha(255)
    assert not read_mask(write(tmp_path, "mask", encode(image, **options)), VOC).any()
    image.putalpha(254)
    with pytest.raises(UserError, match=r"mask: 6 pixels are transparent"):
        read_mask(write(tmp_path, "mask", encode(image, **options)), VOC)


@pytest.mark.parametrize("mode", ["CMYK", "F"])
def test_masks_of_other_types_are_rejected(tmp_path: Path, mode: str) -> None:
    path = write(tmp_path, "mask", encode(Image.new(mode, (4, 4)), format="TIFF"))
    with pytest.raises(UserError, match=f"mask of mode {mode}, expected one class id"):
        read_mask(path, VOC)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_ids(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mask.{suffix}"
    cv2.imwrite(str(path), np.array([[0, 7, 1000, 65535, 255, 900]], np.uint16))
    classes = [("a", 0), ("b", 7), ("c", 1000), ("d", 65535)]
    labels = LabelSet([LabelClass(n, (0, 0, 0), i) for n, i in classes], void_ids=[900])
    assert read_mask(path, labels).tolist() == [[0, 1, 2, 3, 255, 255]]
    assert count_mask(path, labels).values == [0, 7, 255, 900, 1000, 65535]
    assert read_mask_values(path).tolist() == [[0, 7, 1000, 65535, 255, 900]]
    with pytest.raises(UserError, match=r"mask values 900 \(1 pixels\) .* \[0, 7, 1000, 65535\]"):
        read_mask(path, LabelSet(labels.classes))


def test_id_255_and_several_ids_of_a_class(tmp_path: Path) -> None:
    path = write_mask(tmp_path, [[0, 128, 255, 3]])
    three = [LabelClass("a", (0, 0, 0), 0), LabelClass("b", (1, 1, 1), 128, (3,))]
    labels = LabelSet([*three, LabelClass("c", (2, 2, 2), 255)])
    assert read_mask(path, labels).tolist() == [[0, 1, 2, 1]]
    assert not labels.has_void
    with pytest.raises(UserError, match=r"expected \[0, 3, 128, 255\]\."):  # nothing is void
        read_mask(write_mask(tmp_path, [[1]]), labels)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.array([[0, 255, 1, 1]], np.uint8), [[0, 1, 1, 1]]),
        (np.array([[0, 255, 255, 40000]], np.uint16), [[0, 1, 1, 1]]),
        (np.array([[False, True]]), [[0, 1]]),
        (np.array([[[0, 0, 0], [255, 255, 255], [9, 0, 0]]], np.uint8), [[0, 1, 1]]),
    ],
    ids=["gray", "16 bits", "1 bit", "RGB"],
)
def test_binary_segmentation_counts_every_value_but_0(
    tmp_path: Path, image: np.ndarray, expected: list
) -> None:
    labels = binary_labels("crack", (230, 159, 0), colors_given=False)
    path = write(tmp_path, "mask.png", encode(image, format="PNG"))
    assert read_mask(path, labels).tolist() == expected
    if image.ndim == 3:
        assert sorted(count_mask(path, labels).values) == [(9, 0, 0), (255, 255, 255)]


def test_binary_segmentation_with_void_and_with_a_given_color(tmp_path: Path) -> None:
    path = write_mask(tmp_path, [[0, 255, 1, 128]])
    assert read_mask(path, binary_labels("a", (9, 9, 9), [128])).tolist() == [[0, 1, 1, 255]]
    assert read_mask(path, binary_labels("a", (9, 9, 9), [255])).tolist() == [[0, 255, 1, 1]]
    path = write(
        tmp_path, "rgb.png", encode(np.uint8([[[0] * 3, [255] * 3, [1] * 3]]), format="PNG")
    )
    labels = binary_labels("a", (9, 9, 9), [255], colors_given=False)
    assert read_mask(path, labels).tolist() == [[0, 255, 1]]
    with pytest.raises(UserError, match="0, which is background"):
        binary_labels("a", (9, 9, 9), [0])
    # A color that was given is the only one: another object's color is not the foreground.
    path = write(tmp_path, "mask.png", encode(colored(np.array([[0, 1, 2]])), format="PNG"))
    with pytest.raises(UserError, match=r"the color 0,128,0 .* belongs to no class"):
        read_mask(path, binary_labels("a", (128, 0, 0)))


def test_colors_of_a_mask_are_listed_if_the_classes_have_none(tmp_path: Path) -> None:
    path = write(tmp_path, "mask.png", encode(np.uint8([[WHITE, (9, 0, 1), RED]]), format="PNG"))
    with pytest.raises(UserError, match=r"colors \[9, 0, 1\], \[255, 0, 0\], \[255, 255, 255\]"):
        read_mask(path, custom_labels([ClassConfig("a"), ClassConfig("b")], []))


def test_truncated_mask_is_rejected_or_complete(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 21, (12, 9))
    raw = encode(palette_mask(values), format="PNG")
    for cut in cuts(raw):
        try:
            mask = read_mask(write(tmp_path, "mask.png", cut), VOC)
        except UserError as error:
            assert "mask.png: " in str(error)
            continue
        np.testing.assert_array_equal(mask, values)
        assert len(cut) >= len(raw) - PNG_END - 2


def test_mask_of_another_size_than_its_image_is_rejected(tmp_path: Path) -> None:
    path = write_mask(tmp_path, np.zeros((3, 5)))
    np.testing.assert_array_equal(read_mask(path, VOC, (3, 5)), np.zeros((3, 5)))
    with pytest.raises(
        UserError,
        match=r"mask\.png: .*5x3 .*its image 6x3; they must agree\. One of the two was resized",
    ):
        read_mask(path, VOC, (3, 6))


def test_transposed_mask_suggests_an_exif_rotation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"5x3 .*its image 3x5; .*swapped.*EXIF"):
        read_mask(write_mask(tmp_path, np.zeros((3, 5))), VOC, (5, 3))


def test_equal_class_colors_are_an_error_in_color_masks(tmp_path: Path) -> None:
    labels = LabelSet([LabelClass("a", (0, 0, 0), 0), LabelClass("b", (0, 0, 0), 1)])
    path = write(tmp_path, "mask.png", encode(colored(INDICES), format="PNG"))
    with pytest.raises(UserError, match=r"mask\.png: the color 0,0,0 belongs to both class 'a'"):
        read_mask(path, labels)
