"""Images and masks as arrays: what is read, and what is refused instead of read wrongly."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segcoord.data.corruption import is_complete
from segcoord.data.image_io import read_colors, read_header, read_image, read_mask, read_mask_values
from segcoord.data.labels import (
    CITYSCAPES,
    CITYSCAPES_TRAIN_IDS,
    VOC,
    LabelClass,
    LabelSet,
    numbered_labels,
)
from segcoord.utils.errors import UserError

RED, BLUE = (200, 40, 30), (20, 60, 210)
PNG_END = 12 + 4 + 4  # the chunk that marks the end, and two checksums before it
ROTATE = 6  # EXIF: turn by 90 degrees to show
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
    """(H, W, 3): smooth, so that JPEG keeps it, and different in each channel and direction."""
    y, x = np.mgrid[:height, :width]
    channels = 40 + 150 * x / width, 30 + 200 * y / height, 220 - 100 * (x + y) / (height + width)
    return np.stack(channels, axis=-1).astype(np.uint8)


def two_colors() -> Image.Image:
    """8x8, left half red, right half blue; flat, so that every mode can hold it."""
    image = Image.new("RGB", (8, 8), RED)
    image.paste(BLUE, (4, 0, 8, 8))
    return image


def encode(image: Image.Image | np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, **options)
    return buffer.getvalue()


def write(folder: Path, name: str, raw: bytes) -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


def palette_mask(values: np.ndarray) -> Image.Image:
    """As VOC's own masks: indices into VOC's colours."""
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(VOC.colors.tobytes())
    return image


def write_mask(folder: Path, values: object, name: str = "mask.png") -> Path:
    return write(folder, name, encode(np.array(values, dtype=np.uint8), format="PNG"))


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_by_hand(
    width: int, height: int, depth: int, color_type: int, raw: bytes, between: bytes = b""
) -> bytes:
    """A PNG of a kind that Pillow doesn't write; its pixels in two parts, `between` them."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    data = zlib.compress(raw)
    parts = chunk(b"IDAT", data[:5]), between, chunk(b"IDAT", data[5:]), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(parts)


def cuts(raw: bytes) -> Iterator[bytes]:
    """A file cut short: at every place near its end, here and there before."""
    for length in sorted({*range(0, len(raw), 11), *range(len(raw) - 40, len(raw))}):
        yield raw[:length]


def distance(image: np.ndarray, expected: np.ndarray) -> int:
    """The largest difference of any value."""
    assert image.shape == expected.shape
    return int(np.abs(image.astype(int) - expected.astype(int)).max())


# -- images


@pytest.mark.parametrize("kind", KINDS)
def test_rgb_files_are_read_as_rgb(tmp_path: Path, kind: str) -> None:
    image = read_image(write(tmp_path, "image", encode(picture(), **KINDS[kind])))
    assert image.dtype == np.uint8
    # A jpeg's own loss is 3 here; swapped channels or a wrong colour space are off by 100.
    assert distance(image, picture()) <= (6 if "jpeg" in kind else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_decoded_like_pillow(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, "image", encode(picture(37, 53), **KINDS[kind]))
    # Both decoders' JPEG libraries may round differently.
    assert distance(read_image(path), np.array(Image.open(path).convert("RGB"))) <= 2


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
def test_colour_modes_keep_their_colours(
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
def test_grey_becomes_three_equal_channels(tmp_path: Path, mode: str, kind: str) -> None:
    grey = picture()[..., 0]
    source = Image.fromarray(grey).convert(mode)
    image = read_image(write(tmp_path, "image", encode(source, **KINDS[kind])))
    assert distance(image, np.stack([grey] * 3, axis=-1)) <= (3 if kind == "jpeg" else 0)
    assert (image[..., 0] == image[..., 1]).all()


def test_black_and_white_becomes_0_and_255(tmp_path: Path) -> None:
    bits = np.eye(5, dtype=bool)
    image = read_image(write(tmp_path, "image.png", encode(Image.fromarray(bits), format="PNG")))
    np.testing.assert_array_equal(image, np.stack([bits * 255] * 3, axis=-1))


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_alpha_is_dropped_not_blended(tmp_path: Path, alpha: int) -> None:
    image = two_colors()
    image.putalpha(alpha)
    path = write(tmp_path, "image.png", encode(image, format="PNG"))
    np.testing.assert_array_equal(read_image(path), np.array(two_colors()))


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize("junk", [b"", b"\0" * 200], ids=["whole", "with trailing junk"])
def test_exif_does_not_rotate(tmp_path: Path, kind: str, junk: bytes) -> None:
    """Masks are drawn on the stored pixels. The junk leads to the other of the two decoders."""
    exif = Image.Exif()
    exif[0x0112] = ROTATE
    raw = encode(picture(), exif=exif, **KINDS[kind])
    assert Image.open(io.BytesIO(raw)).getexif()[0x0112] == ROTATE
    assert distance(read_image(write(tmp_path, "image", raw + junk)), picture()) <= 6


@pytest.mark.parametrize("length", [1, 10, 64, 65, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_trailing_junk_is_ignored(tmp_path: Path, kind: str, length: int) -> None:
    """Cameras and upload tools append things."""
    raw = encode(picture(), **KINDS[kind])
    clean = read_image(write(tmp_path, "clean", raw))
    assert distance(read_image(write(tmp_path, "junk", raw + b"\7" * length)), clean) == 0


# -- images that are refused


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_is_refused(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), picture()[..., :channels].astype(np.uint16) * 257)
    with pytest.raises(UserError, match=r"deep\.png: .*more than 8 bits per channel"):
        read_image(path)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_grey_tiff_is_refused(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (4, 4))
    with pytest.raises(UserError, match=r"deep\.tif: .*more than 8 bits per channel"):
        read_image(write(tmp_path, "deep.tif", encode(image, format="TIFF")))


def test_16_bit_rgb_tiff_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    cv2.imwrite(str(path), picture().astype(np.uint16) * 257)
    with pytest.raises(UserError, match="more than 8 bits per channel"):
        read_image(path)


@pytest.mark.parametrize("kind", KINDS)
def test_image_cut_to_60_percent_is_refused(tmp_path: Path, kind: str) -> None:
    raw = encode(picture(), **KINDS[kind])
    with pytest.raises(UserError, match=r"cut\.img: "):
        read_image(write(tmp_path, "cut.img", raw[: len(raw) * 6 // 10]))


@pytest.mark.parametrize("kind", KINDS)
def test_image_without_its_last_10_bytes_of_pixels_is_refused(tmp_path: Path, kind: str) -> None:
    raw = encode(picture(), **KINDS[kind])
    lost = 10 + (PNG_END if kind == "png" else 0)
    with pytest.raises(UserError, match=r"cut\.img: "):
        read_image(write(tmp_path, "cut.img", raw[:-lost]))


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "png"])
def test_cut_anywhere_it_is_refused_or_read_whole(tmp_path: Path, kind: str) -> None:
    """Where only an end marker is missing, the pixels are all there; grey stripes never come."""
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
def test_is_complete_looks_for_the_end_mark(kind: str) -> None:
    """The cheap test that spares `data check` the decoding; other formats are decoded."""
    raw, name = encode(picture(), **KINDS[kind]), str(KINDS[kind]["format"])
    has_mark = name in {"JPEG", "PNG"}
    assert is_complete(raw, name) is has_mark
    assert is_complete(raw + b"\0" * 50, name) is has_mark
    for cut in (raw[:-20], raw[: len(raw) // 2], b""):
        assert not is_complete(cut, name)


def test_png_damaged_between_its_pixels(tmp_path: Path) -> None:
    black = b"\0" * 65
    whole = write(tmp_path, "whole.png", png_by_hand(8, 8, 8, 0, black + b"\0" * 7))
    assert read_image(whole).tolist() == np.zeros((8, 8, 3)).tolist()
    damaged = png_by_hand(8, 8, 8, 0, black + b"\0" * 7, between=chunk(b"\xbd\1\2\3", b""))
    for read in (read_image, read_mask_values):
        with pytest.raises(UserError, match=r"damaged\.png: truncated or damaged"):
            read(write(tmp_path, "damaged.png", damaged))


@pytest.mark.parametrize("read", [read_image, read_mask_values])
def test_png_with_a_chunk_that_pillow_refuses(
    tmp_path: Path, read: Callable[[Path], np.ndarray]
) -> None:
    """A colour profile above 1 MiB, or a damaged chunk before the pixels."""
    grey = Image.new("L", (4, 4))
    plain = encode(grey, format="PNG")
    after_header = 8 + 25
    for raw in (
        encode(grey, format="PNG", icc_profile=bytes(2_000_000)),
        plain[:after_header] + chunk(b"gAMA", b"") + plain[after_header:],
    ):
        with pytest.raises(UserError, match=r"image\.png: "):
            read(write(tmp_path, "image.png", raw))


@settings(derandomize=True, deadline=None, max_examples=120)
@given(
    st.sampled_from(list(KINDS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    st.floats(0.5, 1),
)
def test_damaged_files_never_crash(kind: str, flips: list[tuple[float, int]], kept: float) -> None:
    """A PNG, which has checksums, is read as it was or refused."""
    mask = Image.fromarray(picture()[..., 0]) if kind == "png" else picture()
    for read, source in ((read_image, picture()), (read_mask_values, mask)):
        whole = encode(source, **KINDS[kind])
        raw = bytearray(whole)
        for where, value in flips:
            raw[int(where * len(raw))] = value
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
def test_no_flipped_bit_of_a_png_passes(tmp_path: Path, mode: str) -> None:
    """Pillow skips the checksums of the pixels, and hands out others."""
    values = np.random.default_rng(0).integers(0, 21, (24, 30)).astype(np.uint8)
    source = palette_mask(values) if mode == "P" else Image.fromarray(picture()).convert(mode)
    readers = [read_image] + [read_mask_values] * (mode in "LP") + [read_colors] * (mode != "L")
    raw = encode(source, format="PNG")
    rng = np.random.default_rng(1)
    for read in readers:
        whole = read(write(tmp_path, "whole.png", raw))
        for place in rng.integers(8, len(raw), 120):
            damaged = bytearray(raw)
            damaged[place] ^= 1 << rng.integers(8)
            try:
                array = read(write(tmp_path, "damaged.png", bytes(damaged)))
            except UserError as error:
                assert "damaged.png: " in str(error)
            else:
                assert (array == whole).all()


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "cmyk", "grey"])
def test_strict_reading_refuses_what_libjpeg_guesses(tmp_path: Path, kind: str) -> None:
    source = Image.fromarray(picture(200, 300))
    source = source.convert({"cmyk": "CMYK", "grey": "L"}.get(kind, "RGB"))
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


def test_a_jpeg_of_rare_subsampling_is_not_called_damaged(tmp_path: Path) -> None:
    """2x2, 2x1, 1x1, which turbojpeg doesn't take and libjpeg does; here over other pixels."""
    raw = bytearray(encode(picture(), **JPEG))
    frame = raw.index(b"\xff\xc0")
    raw[frame + 11], raw[frame + 14] = 0x22, 0x21
    path = write(tmp_path, "photo.jpg", bytes(raw))
    assert (read_image(path, strict=True) == read_image(path)).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"format": "JPEG"}, "a JPEG file"),
        ({"format": "WEBP"}, "a WEBP file"),
        ({"format": "JPEG2000"}, "a JPEG2000 file"),
        ({"format": "TIFF", "compression": "jpeg"}, "a JPEG-compressed TIFF file"),
    ],
)
def test_a_mask_compressed_with_loss_is_refused_whatever_its_suffix(
    tmp_path: Path, options: dict, told: str
) -> None:
    path = write(tmp_path, "mask.png", encode(Image.new("L", (16, 16)), **options))
    with pytest.raises(UserError, match=rf"mask\.png: {told}, whose compression changes ids"):
        read_mask(path, numbered_labels(256 - 2))
    with pytest.raises(UserError, match=rf"mask\.png: {told}, whose compression changes colours"):
        read_colors(path)


def test_a_palette_whose_indices_are_not_ids_is_refused(tmp_path: Path) -> None:
    """As a program saves colours, numbering them as it likes; the indices are ids of others."""
    values = np.array([[0, 1], [1, 0]], np.uint8)
    picture = Image.fromarray(values)
    picture.putpalette(VOC.colors[[15, 7]].tobytes())
    with pytest.raises(UserError, match="0 has the colour of person, whose id is 15"):
        read_mask(write(tmp_path, "mask.png", encode(picture, format="PNG")), VOC)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_the_header_tells_the_exif_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path, "image", encode(picture(), exif=exif, **KINDS[kind]))
    assert read_header(path) == (picture().shape[:2], orientation, kind != "webp")
    assert read_header(write(tmp_path, "plain", encode(picture(), **KINDS[kind]))).orientation == 1


def test_a_malformed_exif_block_is_no_mistake(tmp_path: Path) -> None:
    path = write(tmp_path, "image.jpg", encode(picture(), exif=b"Exif\0\0garbage", **JPEG))
    assert read_header(path).orientation == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b"\n <!DOCTYPE html><html>", "it is a web page"),
        (b"\xef\xbb\xbf<svg/>", "it is a web page, or other text in <...>"),
        (b"no image", "it is of no known format"),
    ],
)
def test_what_is_no_image_is_told_in_words(tmp_path: Path, content: bytes, told: str) -> None:
    path = write(tmp_path, "image.jpg", content)
    for read in (read_image, read_header, read_mask_values):
        with pytest.raises(UserError, match=f"can't be read as an image: {told}"):
            read(path)


@pytest.mark.parametrize("read", [read_image, read_header, read_mask_values])
def test_a_link_that_leads_nowhere(tmp_path: Path, read: Callable) -> None:
    path = tmp_path / "image.jpg"
    path.symlink_to("gone.jpg")
    with pytest.raises(UserError, match=r"image\.jpg: a link to a file that is not there"):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_mask_values])
@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_no_image_at_all(
    tmp_path: Path, read: Callable[[Path], np.ndarray], content: bytes
) -> None:
    with pytest.raises(UserError, match=r"file\.png: can't be read as an image"):
        read(write(tmp_path, "file.png", content))


@pytest.mark.parametrize("read", [read_image, read_mask_values])
def test_no_such_file_and_a_folder(tmp_path: Path, read: Callable[[Path], np.ndarray]) -> None:
    with pytest.raises(UserError, match=r"gone\.png: no such file"):
        read(tmp_path / "gone.png")
    with pytest.raises(UserError, match="can't be read as an image"):
        read(tmp_path)


def test_header_of_a_huge_image_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path, "bomb.png", png_by_hand(60000, 60000, 8, 2, b""))
    with pytest.raises(UserError, match=r"bomb\.png: can't be read as an image"):
        read_image(path)


# -- masks


def test_palette_mask_is_read_as_indices(tmp_path: Path) -> None:
    values = np.array([[*range(21), 255]] * 2)
    path = write(tmp_path, "mask.png", encode(palette_mask(values), format="PNG"))
    assert Image.open(path).mode == "P"
    mask = read_mask(path, VOC)
    np.testing.assert_array_equal(mask, values)
    assert mask.dtype == np.uint8


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_masks_of_few_bits(tmp_path: Path, bits: int) -> None:
    """Savers pack few classes into fewer bits."""
    values = np.arange(15).reshape(3, 5) % 2**bits
    raw = encode(palette_mask(values), format="PNG", bits=bits)
    assert raw[24] == bits
    np.testing.assert_array_equal(read_mask(write(tmp_path, "mask.png", raw), VOC), values)


def test_grey_and_black_and_white_masks(tmp_path: Path) -> None:
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
def test_grey_mask_of_few_bits_is_refused(tmp_path: Path, depth: int) -> None:
    row = bytes([0b00011000 if depth == 2 else 0x01])  # ids 0, 1, ... from the left
    path = write(tmp_path, "mask.png", png_by_hand(2, 1, depth, 0, b"\0" + row))
    with pytest.raises(UserError, match=f"a grey mask of {depth} bits"):
        read_mask(path, VOC if depth == 4 else numbered_labels(86))


def test_mask_values_become_class_indices(tmp_path: Path) -> None:
    path = write_mask(tmp_path, [[7, 8, 33, 0], [26, 11, 3, 255]])
    assert read_mask(path, CITYSCAPES).tolist() == [[0, 1, 18, 255], [13, 2, 255, 255]]
    own = LabelSet([LabelClass("a", (0, 0, 0), 200), LabelClass("b", (0, 0, 0), 3)], [9])
    path = write_mask(tmp_path, [[200, 3, 9, 255]])
    assert read_mask(path, own).tolist() == [[0, 1, 255, 255]]
    assert read_mask_values(path).tolist() == [[200, 3, 9, 255]]


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_mask_with_transparency_is_refused(tmp_path: Path, mode: str) -> None:
    options = {"format": "TIFF" if mode == "PA" else "PNG"}
    path = write(tmp_path, "mask", encode(Image.new(mode, (4, 4)), **options))
    with pytest.raises(
        UserError, match=f"mask of mode {mode} .* without its alpha channel"
    ) as told:
        read_mask(path, VOC)
    assert "data ids" not in str(told.value)  # which takes colours alone


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
def test_colour_mask_is_refused(tmp_path: Path, mode: str) -> None:
    options = {"format": "TIFF"} if mode == "CMYK" else {"format": "PNG"}
    path = write(tmp_path, "mask", encode(Image.new(mode, (4, 4)), **options))
    with pytest.raises(UserError, match=f"mask of mode {mode} .*colour picture.*class ids"):
        read_mask(path, VOC)


def test_16_bit_mask_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), np.ones((4, 4), np.uint16))
    with pytest.raises(UserError, match=r"mask\.png: a mask of mode I;16 \(not 8 bits deep\)"):
        read_mask(path, VOC)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_mask_is_refused(tmp_path: Path, share: float) -> None:
    values = np.random.default_rng(0).integers(0, 21, (30, 40))
    raw = encode(palette_mask(values), format="PNG")
    path = write(tmp_path, "mask.png", raw[: int(len(raw) * share)])
    with pytest.raises(UserError, match=r"mask\.png: "):
        read_mask(path, VOC)


def test_mask_cut_anywhere_is_refused_or_read_whole(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 21, (12, 9))
    raw = encode(palette_mask(values), format="PNG")
    for cut in cuts(raw):
        try:
            mask = read_mask(write(tmp_path, "mask.png", cut), VOC)
        except UserError:
            continue
        np.testing.assert_array_equal(mask, values)
        assert len(cut) >= len(raw) - PNG_END - 2


def test_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    path = write_mask(tmp_path, np.zeros((3, 5)))
    np.testing.assert_array_equal(read_mask(path, VOC, (3, 5)), np.zeros((3, 5)))
    with pytest.raises(UserError, match=r"mask\.png: .*5x3 .*its image 6x3; they must agree\.$"):
        read_mask(path, VOC, (3, 6))


def test_transposed_mask_points_to_exif(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"5x3 .*its image 3x5; .*transpose.*EXIF"):
        read_mask(write_mask(tmp_path, np.zeros((3, 5))), VOC, (5, 3))


@pytest.mark.parametrize(
    ("labels", "values", "unknown", "hint"),
    [
        # Raw ids where train ids were expected, and in an own table of 19 classes.
        (CITYSCAPES_TRAIN_IDS, [0, 7, 7, 26, 33], r"26, 33 \(2 pixels\)", "raw Cityscapes"),
        (numbered_labels(19), [3, 7, 11, 21, 23], r"21, 23 \(2 pixels\)", "use layout cityscapes"),
        (
            numbered_labels(2),
            [0, 0, 254, 254],
            r"254 \(2 pixels\)",
            "0/255 binary mask: write 0 and 1",
        ),
        (numbered_labels(5), [0, 128], r"128 \(1 pixels\)", "0/255 binary mask"),
        (numbered_labels(3), [1, 2, 3, 3], r"3 \(2 pixels\)", "count from 1: .* ids 1 to 3"),
        (numbered_labels(3), [3, 1, 255], r"3 \(1 pixels\)", "count from 1"),
        (
            numbered_labels(8),
            list(range(60)),
            r"8, 9, .*, 15, \.\.\. \(52 pixels\)",
            "grey photograph",
        ),
        (VOC, [0, 5, 21], r"21 \(1 pixels\)", "Correct the mask"),  # 0 is there: no shift by 1
        (numbered_labels(3), [1, 3, 4], r"3, 4 \(2 pixels\)", "Correct the mask"),
        (CITYSCAPES, [7, 50], r"50 \(1 pixels\)", "Correct the mask"),
    ],
)
def test_diagnosis_of_unknown_values(
    tmp_path: Path, labels: LabelSet, values: list[int], unknown: str, hint: str
) -> None:
    path = write_mask(tmp_path, [values])
    with pytest.raises(UserError, match=rf"mask\.png: mask values {unknown} .*{hint}"):
        read_mask(path, labels)


def test_diagnosis_says_what_was_expected(tmp_path: Path) -> None:
    path = write_mask(tmp_path, [[50]])
    with pytest.raises(UserError, match="expected 0 to 20 and 255 for void"):
        read_mask(path, VOC)
    with pytest.raises(UserError, match=r"expected \[7, 8, 11, .*33\] and 255 for void"):
        read_mask(path, CITYSCAPES)


def test_a_mask_of_zeros_is_not_called_binary(tmp_path: Path) -> None:
    """Classes with ids 1 to 3 whose background was forgotten in void_ids."""
    labels = LabelSet([LabelClass(f"c{i}", (0, 0, 0), i) for i in (1, 2, 3)])
    with pytest.raises(UserError, match="mask values 0 ") as caught:
        read_mask(write_mask(tmp_path, [[0, 0]]), labels)
    assert "binary" not in str(caught.value)
