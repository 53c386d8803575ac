"""Reading images and masks: exact pixels, and rejection of files that would be read wrongly."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import tiff_of_channels
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import PNG_END, chunk, cuts, encode, palette_mask, png_by_hand, write
from PIL import Image, ImageOps

from segcoord.data.corruption import is_complete
from segcoord.data.image_io import (
    decode_image,
    has_transparency,
    read_header,
    read_image,
)
from segcoord.data.mask_reader import read_mask_values, read_stored_mask
from segcoord.inference.photo import read_photo
from segcoord.utils.errors import UserError

RED, BLUE = (200, 40, 30), (20, 60, 210)
ROTATE = 6  # EXIF orientation: rotate by 90 degrees
JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
KINDS = {
    "jpeg": JPEG,
    "progressive jpeg": JPEG | {"progressive": True},
    "png": {"format": "PNG"},
    "bmp": {"format": "BMP"},
    "tiff": {"format": "TIFF"},
    "webp": {"format": "WEBP", "lossless": True},
}


def picture(height: int = 24, width: int = 32) -> np.ndarray:
    """(H, W, 3), smooth to survive JPEG, and different in each channel and direction."""
    y, x = np.mgrid[:height, :width]
    channels = 40 + 150 * x / width, 30 + 200 * y / height, 220 - 100 * (x + y) / (height + width)
    return np.stack(channels, axis=-1).astype(np.uint8)


def two_colors() -> Image.Image:
    """8x8, left half red, right half blue, so that every mode can represent it."""
    image = Image.new("RGB", (8, 8), RED)
    image.paste(BLUE, (4, 0, 8, 8))
    return image


def read_mask_pixels(path: Path) -> np.ndarray:
    return read_stored_mask(path).pixels


def distance(image: np.ndarray, expected: np.ndarray) -> int:
    """The maximum absolute difference."""
    assert image.shape == expected.shape
    return int(np.abs(image.astype(int) - expected.astype(int)).max())


# -- images


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_decoded_to_rgb_like_pillow_does(tmp_path: Path, kind: str) -> None:
    source = picture(37, 53)
    path = write(tmp_path, "image", encode(source, **KINDS[kind]))
    image = read_image(path)
    assert image.dtype == np.uint8
    # JPEG loses up to 3 here; swapped channels or a wrong color space differ by 100.
    assert distance(image, source) <= (6 if "jpeg" in kind else 0)
    # The two JPEG libraries may round differently.
    assert distance(image, np.array(Image.open(path).convert("RGB"))) <= 2


@pytest.mark.parametrize(
    ("mode", "options", "tolerance"),
    [
        ("P", {"format": "PNG"}, 0),
        ("P", {"format": "BMP"}, 0),
        ("RGBA", {"format": "PNG"}, 0),
        ("RGBA", {"format": "TIFF"}, 0),
        ("CMYK", {"format": "TIFF"}, 1),
        ("CMYK", JPEG, 6),
        ("YCbCr", JPEG, 6),
    ],
)
def test_color_modes_are_converted_to_rgb(
    tmp_path: Path, mode: str, options: dict, tolerance: int
) -> None:
    source = two_colors().quantize(2) if mode == "P" else two_colors().convert(mode)
    path = write(tmp_path, "image", encode(source, **options))
    image = read_image(path)
    assert distance(image, np.array(two_colors())) <= tolerance
    assert distance(image, np.array(Image.open(path).convert("RGB"))) == 0


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "png"), ("L", "tiff"), ("L", "jpeg"), ("LA", "png"), ("LA", "tiff")]
)
def test_gray_images_become_three_equal_channels(tmp_path: Path, mode: str, kind: str) -> None:
    gray = picture()[..., 0]
    source = Image.fromarray(gray).convert(mode)
    image = read_image(write(tmp_path, "image", encode(source, **KINDS[kind])))
    assert distance(image, np.stack([gray] * 3, axis=-1)) <= (3 if kind == "jpeg" else 0)
    assert (image[..., 0] == image[..., 1]).all()


def test_1_bit_images_become_0_and_255(tmp_path: Path) -> None:
    bits = np.eye(5, dtype=bool)
    image = read_image(write(tmp_path, "image.png", encode(Image.fromarray(bits), format="PNG")))
    np.testing.assert_array_equal(image, np.stack([bits * 255] * 3, axis=-1))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGB", "PNG"),
        ("RGBA", "TIFF"),
        ("RGBA", "WEBP"),
    ],
)
def test_transparent_images_are_composited_on_white(tmp_path: Path, mode: str, kind: str) -> None:
    """By training, evaluation, the check and prediction alike; opaque ones keep their colors."""
    colors, alpha = picture(16, 20), np.tile(np.uint8([0, 100, 255, 255]), (16, 5))
    image = Image.fromarray(colors)
    options = {"lossless": True} if kind == "WEBP" else {}
    if mode in ("P", "RGB"):  # a color stands for transparency
        image = two_colors()
        image = image.quantize(2) if mode == "P" else image
        options["transparency"] = 0 if mode == "P" else RED
        expected = np.array(image.convert("RGB"))
        expected[(expected == expected[0, 0]).all(-1)] = 255
    else:
        image = image.convert(mode)
        opacity = alpha[..., None] / 255
        expected = np.array(image.convert("RGB")) * opacity + 255 * (1 - opacity)
        image.putalpha(Image.fromarray(alpha))
    path = write(tmp_path, "image", encode(image, format=kind, **options))
    pixels, transparent = decode_image(path)
    assert transparent
    assert has_transparency(path)
    assert np.abs(pixels - expected).max() <= 1
    np.testing.assert_array_equal(pixels, read_photo(path).pixels)
    if mode in ("RGBA", "LA"):
        image.putalpha(255)
        path = write(tmp_path, "opaque", encode(image, format=kind, **options))
        pixels, transparent = decode_image(path)
        assert not transparent
        np.testing.assert_array_equal(pixels, np.array(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied_on_request(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path, "image", encode(picture(16, 24), format=kind, exif=exif))
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    turned = read_image(path, exif="turn")
    np.testing.assert_array_equal(turned, expected)
    np.testing.assert_array_equal(turned, read_photo(path).pixels)
    assert read_header(path, "turn").size == turned.shape[:2]
    assert read_header(path).size == read_image(path).shape[:2] == (16, 24)
    for read in (read_image, read_header):
        if orientation == 1:
            read(path, exif="error")
            continue
        with pytest.raises(UserError, match=rf"orientation {orientation}, expected upright.*turn"):
            read(path, exif="error")


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize("junk", [b"", b"\0" * 200], ids=["whole", "with trailing junk"])
def test_exif_orientation_is_not_applied(tmp_path: Path, kind: str, junk: bytes) -> None:
    """Masks are drawn on the stored pixels. Trailing junk switches to the other decoder."""
    exif = Image.Exif()
    exif[0x0112] = ROTATE
    raw = encode(picture(), exif=exif, **KINDS[kind])
    assert Image.open(io.BytesIO(raw)).getexif()[0x0112] == ROTATE
    assert distance(read_image(write(tmp_path, "image", raw + junk)), picture()) <= 6


@pytest.mark.parametrize("length", [1, 64, 65, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_trailing_junk_is_ignored(tmp_path: Path, kind: str, length: int) -> None:
    """Cameras and upload tools append data."""
    raw = encode(picture(), **KINDS[kind])
    clean = read_image(write(tmp_path, "clean", raw))
    assert distance(read_image(write(tmp_path, "junk", raw + b"\7" * length)), clean) == 0


# -- rejected images


@pytest.mark.parametrize(("name", "channels"), [("a.png", 1), ("a.png", 3), ("a.tif", 3)])
def test_16_bit_png_and_tiff_are_rejected(tmp_path: Path, name: str, channels: int) -> None:
    path = tmp_path / name
    cv2.imwrite(str(path), picture()[..., :channels].astype(np.uint16) * 257)
    with pytest.raises(UserError, match=rf"{name}: .*more than 8 bits per channel"):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 3, 4, 5, 7])
def test_tiffs_of_other_channels_are_named(tmp_path: Path, channels: int, dtype: type) -> None:
    raw = tiff_of_channels(np.ones((8, 9, channels), dtype))
    path, bits = write(tmp_path, "bands.tif", raw), 8 * np.dtype(dtype).itemsize
    message = (
        rf"bands\.tif: a TIFF with {channels} channels of {bits} bits .* 1 channel \(gray\) or 3"
    )
    for read in (read_image, read_header, read_mask_values, read_photo):
        with pytest.raises(UserError, match=message):
            read(path)
    path.write_bytes(raw[:-9])  # of the pixels: the header still tells
    with pytest.raises(UserError, match="a TIFF with"):
        read_image(path)
    path.write_bytes(raw[:40])
    with pytest.raises(UserError, match=r"can't be read as an image|truncated or damaged"):
        read_image(path)


@pytest.mark.parametrize(("channels", "extra"), [(3, ()), (5, (0, 0))])
def test_tiffs_marked_as_rgb_are_read(tmp_path: Path, channels: int, extra: tuple) -> None:
    values = np.random.default_rng(0).integers(0, 256, (8, 9, channels), np.uint8)
    path = write(tmp_path, "rgb.tif", tiff_of_channels(values, 2, extra))
    for pixels in (read_image(path), read_photo(path).pixels):
        np.testing.assert_array_equal(pixels, values[..., :3])


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_gray_tiff_of_more_than_8_bits_is_rejected(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (4, 4))
    with pytest.raises(UserError, match=r"deep\.tif: .*more than 8 bits per channel"):
        read_image(write(tmp_path, "deep.tif", encode(image, format="TIFF")))


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_image_is_rejected(tmp_path: Path, kind: str) -> None:
    raw = encode(picture(), **KINDS[kind])
    last_pixels = 10 + (PNG_END if kind == "png" else 0)
    for length in (len(raw) * 6 // 10, len(raw) - last_pixels):
        with pytest.raises(UserError, match=r"cut\.img: "):
            read_image(write(tmp_path, "cut.img", raw[:length]))


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "png"])
def test_truncated_image_is_rejected_or_complete(tmp_path: Path, kind: str) -> None:
    """If only the end marker is missing, all pixels are there; gray stripes never appear."""
    raw = encode(picture(), **KINDS[kind])
    whole = read_image(write(tmp_path, "whole", raw))
    for cut in cuts(raw):
        path = write(tmp_path, "cut.img", cut)
        try:
            assert distance(read_image(path), whole) == 0
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert kind == "png"
            assert len(cut) >= len(raw) - PNG_END - 2


@pytest.mark.parametrize("kind", KINDS)
def test_is_complete_finds_the_end_marker_of_jpeg_and_png(kind: str) -> None:
    raw, name = encode(picture(), **KINDS[kind]), str(KINDS[kind]["format"])
    has_marker = name in {"JPEG", "PNG"}
    assert is_complete(raw, name) is has_marker
    assert is_complete(raw + b"\0" * 50, name) is has_marker
    for cut in (raw[:-20], raw[: len(raw) // 2], b""):
        assert not is_complete(cut, name)


def test_png_with_a_damaged_chunk_between_its_pixels_is_rejected(tmp_path: Path) -> None:
    black = b"\0" * 65
    whole = write(tmp_path, "whole.png", png_by_hand(8, 8, 8, 0, black + b"\0" * 7))
    assert read_image(whole).tolist() == np.zeros((8, 8, 3)).tolist()
    damaged = png_by_hand(8, 8, 8, 0, black + b"\0" * 7, between=chunk(b"\xbd\1\2\3", b""))
    for read in (read_image, read_mask_values):
        with pytest.raises(UserError, match=r"damaged\.png: truncated or damaged"):
            read(write(tmp_path, "damaged.png", damaged))


@pytest.mark.parametrize("read", [read_image, read_mask_values])
def test_png_with_a_chunk_that_pillow_rejects(
    tmp_path: Path, read: Callable[[Path], np.ndarray]
) -> None:
    """A color profile above 1 MiB, or a damaged chunk before the pixels."""
    gray = Image.new("L", (4, 4))
    plain = encode(gray, format="PNG")
    after_header = 8 + 25
    for raw in (
        encode(gray, format="PNG", icc_profile=bytes(2_000_000)),
        plain[:after_header] + chunk(b"gAMA", b"") + plain[after_header:],
    ):
        with pytest.raises(UserError, match=r"image\.png: "):
            read(write(tmp_path, "image.png", raw))


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    st.sampled_from(list(KINDS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    st.floats(0.5, 1),
)
def test_damaged_files_never_crash(kind: str, flips: list[tuple[float, int]], kept: float) -> None:
    """A PNG, which has checksums, is read without changes or rejected."""
    mask = Image.fromarray(picture()[..., 0]) if kind == "png" else picture()
    for read, source in ((read_image, picture()), (read_mask_values, mask)):
        whole = encode(source, **KINDS[kind])
        raw = bytearray(whole)
        for position, value in flips:
            raw[int(position * len(raw))] = value
        with tempfile.TemporaryDirectory() as folder:
            path = write(Path(folder), "damaged", bytes(raw[: int(kept * len(raw))]))
            try:
                array = read(path)
            except UserError as error:
                assert str(path) in str(error)
                continue
            assert array.dtype == np.uint8
            assert array.ndim == (3 if read is read_image else 2)
            if kind == "png":
                assert (array == np.array(source)).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_flipped_bit_in_a_png_never_changes_its_pixels(tmp_path: Path, mode: str) -> None:
    """Pillow does not verify the checksums of the pixels."""
    values = np.random.default_rng(0).integers(0, 21, (24, 30)).astype(np.uint8)
    source = palette_mask(values) if mode == "P" else Image.fromarray(picture()).convert(mode)
    readers = [read_image, read_mask_pixels]
    raw = encode(source, format="PNG")
    rng = np.random.default_rng(1)
    for read in readers:
        whole = read(write(tmp_path, "whole.png", raw))
        for position in rng.integers(8, len(raw), 60):
            damaged = bytearray(raw)
            damaged[position] ^= 1 << rng.integers(8)
            try:
                array = read(write(tmp_path, "damaged.png", bytes(damaged)))
            except UserError as error:
                assert "damaged.png: " in str(error)
            else:
                assert (array == whole).all()


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "cmyk", "gray"])
def test_strict_reading_rejects_a_jpeg_that_libjpeg_has_to_guess(tmp_path: Path, kind: str) -> None:
    source = Image.fromarray(picture(200, 300))
    source = source.convert({"cmyk": "CMYK", "gray": "L"}.get(kind, "RGB"))
    raw = encode(source, **KINDS.get(kind, JPEG))
    path = write(tmp_path, "photo.jpg", raw)
    assert (read_image(path, strict=True) == read_image(path)).all()
    for junk in (b"\0" * 70, b"\xff\xd9" * 2):
        read_image(write(tmp_path, "junk.jpg", raw + junk), strict=True)
    middle = len(raw) * 2 // 3
    path = write(tmp_path, "damaged.jpg", raw[:middle] + b"\xff\xd3" + raw[middle + 2 :])
    read_image(path)
    with pytest.raises(UserError, match=r"damaged\.jpg: truncated or damaged .*Corrupt JPEG data"):
        read_image(path, strict=True)


def test_jpeg_with_rare_subsampling_is_not_reported_as_damaged(tmp_path: Path) -> None:
    """2x2, 2x1, 1x1, which libjpeg supports and turbojpeg does not."""
    raw = bytearray(encode(picture(), **JPEG))
    frame = raw.index(b"\xff\xc0")
    raw[frame + 11], raw[frame + 14] = 0x22, 0x21
    path = write(tmp_path, "photo.jpg", bytes(raw))
    assert (read_image(path, strict=True) == read_image(path)).all()


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_header_has_size_orientation_and_completeness(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path, "image", encode(picture(), exif=exif, **KINDS[kind]))
    assert read_header(path) == (picture().shape[:2], orientation, False, kind != "webp")
    assert read_header(write(tmp_path, "plain", encode(picture(), **KINDS[kind]))).orientation == 1


def test_malformed_exif_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, "image.jpg", encode(picture(), exif=b"Exif\0\0garbage", **JPEG))
    assert read_header(path).orientation == 1


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "the file is empty"),
        (b"\n <!DOCTYPE html><html>", "it is a web page or other markup"),
        (b"\xef\xbb\xbf<svg/>", "it is a web page or other markup"),
        (b"no image", "it has no known format"),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"\xff\xd8\xff", ""),
    ],
)
def test_files_that_are_not_images_are_rejected(tmp_path: Path, content: bytes, found: str) -> None:
    path = write(tmp_path, "image.jpg", content)
    for read in (read_image, read_header, read_mask_values):
        with pytest.raises(UserError, match=f"can't be read as an image: {found}"):
            read(path)


@pytest.mark.parametrize("read", [read_image, read_header, read_mask_values])
def test_broken_link_is_rejected(tmp_path: Path, read: Callable) -> None:
    path = tmp_path / "image.jpg"
    path.symlink_to("gone.jpg")
    with pytest.raises(UserError, match=r"image\.jpg: a link to a file that does not exist"):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_mask_values])
def test_missing_file_and_folder_are_rejected(
    tmp_path: Path, read: Callable[[Path], np.ndarray]
) -> None:
    with pytest.raises(UserError, match=r"gone\.png: no such file"):
        read(tmp_path / "gone.png")
    with pytest.raises(UserError, match="can't be read as an image"):
        read(tmp_path)


def test_decompression_bomb_is_rejected_before_decoding(tmp_path: Path) -> None:
    path = write(tmp_path, "bomb.png", png_by_hand(60000, 60000, 8, 2, b""))
    with pytest.raises(UserError, match=r"bomb\.png: too large: 3,600,000,000 pixels, expected at"):
        read_image(path)
