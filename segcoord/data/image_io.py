"""Images and masks as arrays, refusing whatever would silently train something wrong.

Images are decoded by OpenCV, which is fast, after looking for what it hands out silently in some
version: a truncated file, a CMYK or a 16-bit one. Masks are decoded by Pillow, because OpenCV turns
palette indices into colours. Nothing here rotates by EXIF: masks are drawn on the pixels as stored.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from segcoord.data.corruption import (
    DECODE_ERRORS,
    check_jpeg,
    check_png,
    damaged_error,
    is_complete,
    missing_error,
    not_an_image_error,
)
from segcoord.data.labels import UNKNOWN, LabelSet
from segcoord.data.mask_diagnosis import (
    CONVERT,
    palette_error,
    palette_matches,
    unknown_values_error,
)
from segcoord.utils.errors import UserError

_IMAGE_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
_DIRECT_MODES = {"L", "RGB"}  # what OpenCV decodes as Pillow does
_LOSSY = {"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"}
_PNG_DEPTH, _PNG_COLOR = 24, 25  # where IHDR has the bits per sample and the kind of colour
_START, _END = 32, 64  # bytes of a file that tell what it is, and whether it is all there
_ORIENTATION = 0x0112  # of EXIF; 1 is upright
_DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class Header(NamedTuple):
    """What an image file tells without being decoded.

    Args:
        size: (H, W).
        orientation: EXIF's, by which viewers turn it; 1 where there is none.
        complete: False where the file's end may be missing, which decoding then tells.
    """

    size: tuple[int, int]
    orientation: int
    complete: bool


def read_image(path: Path, strict: bool = False) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Grey, palette and CMYK images are converted, alpha is dropped.

    Args:
        path: of the file.
        strict: also refuse a JPEG of which libjpeg has to guess a part; takes half as long again.

    Raises:
        UserError: unreadable, truncated, or more than 8 bits per channel.
    """
    raw, header = _open(path)
    check_image_depth(path, header, raw)
    if strict and header.format in ("JPEG", "MPO"):
        check_jpeg(path, raw, header.mode)
    if header.mode in _DIRECT_MODES and is_complete(raw, header.format):
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), _DECODE)
        if image is not None:
            return image
    return np.array(_decode(path, raw, header).convert("RGB"))


def read_header(path: Path) -> Header:
    """Of an image; UserError for one that can't be opened, or of more than 8 bits per channel."""
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(_START)
            file.seek(-min(_END, file.seek(0, os.SEEK_END)), os.SEEK_END)
            end = file.read()
            file.seek(0)
            with _opened(file) as header:
                check_image_depth(path, header, start)
                size, kind = header.size[::-1], header.format
                return Header(size, exif_orientation(header), is_complete(end, kind))
    except FileNotFoundError:
        raise missing_error(path) from None
    except DECODE_ERRORS as error:
        raise not_an_image_error(path, start, error) from error


def read_mask(path: Path, labels: LabelSet, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W) uint8 class indices, 255 where void.

    Args:
        path: an 8-bit palette or grey file.
        labels: which mask value stands for which class.
        size: (H, W) of the image that the mask belongs to.

    Raises:
        UserError: unreadable, not a map of ids, of another size, or with values of no class.
    """
    values, palette = _read_values(path, size)
    indices = cv2.LUT(values, labels.to_index)
    if (indices == UNKNOWN).any() or (palette is not None and not palette_matches(palette, labels)):
        _check_values(path, histogram(values), palette, labels)
    return indices


def count_mask(path: Path, labels: LabelSet, size: tuple[int, int] | None = None) -> np.ndarray:
    """(256,) int64 pixels by class index, 255 for void; otherwise as `read_mask`."""
    values, palette = _read_values(path, size)
    found = histogram(values)
    _check_values(path, found, palette, labels)
    counts = np.zeros(256, np.int64)
    np.add.at(counts, labels.to_index, found)
    return counts


def _read_values(path: Path, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray | None]:
    """As `_read_values_and_palette`; UserError where the size is another."""
    values, palette = _read_values_and_palette(path)
    if size is not None and values.shape != tuple(size):
        raise size_mismatch_error(path, values.shape, size)
    return values, palette


def histogram(values: np.ndarray) -> np.ndarray:
    """(256,) int64: how often each value occurs."""
    # OpenCV counts in float32, which is exact up to 2**24.
    parts = np.array_split(values.ravel(), values.size // 2**24 + 1)
    counts = (cv2.calcHist([p], [0], None, [256], [0, 256]).astype(np.int64) for p in parts)
    return sum(counts).ravel()


def _check_values(
    path: Path, histogram: np.ndarray, palette: np.ndarray | None, labels: LabelSet
) -> None:
    """Raises UserError where a mask's values are not the ids of classes, or not meant as such."""
    if palette is not None:
        error = palette_error(path, histogram, palette, labels)
        if error is not None:
            raise error
    if histogram[labels.to_index == UNKNOWN].any():
        raise unknown_values_error(path, histogram, labels)


def read_mask_values(path: Path) -> np.ndarray:
    """(H, W) uint8: the values as the file holds them, palette indices not colours."""
    return _read_values_and_palette(path)[0]


def _read_values_and_palette(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """As `read_mask_values`, and the palette: (N, 3) uint8 RGB, None for a grey mask."""
    raw, header = _open(path)
    _refuse_lossy(path, header, "ids")
    check_mask_mode(path, header.mode)
    if header.format == "PNG" and raw[_PNG_COLOR] == 0 and raw[_PNG_DEPTH] in (2, 4):
        raise UserError(
            f"a grey mask of {raw[_PNG_DEPTH]} bits, whose ids would be read as shades; "
            "expected 8 bits.",
            path=path,
            remedy="Save it as an 8-bit grey or a palette PNG.",
            kind="masks that are not 8 bits deep",
        )
    values = np.array(_decode(path, raw, header)).astype(np.uint8, copy=False)
    if header.mode != "P":
        return values, None
    return values, np.array(header.getpalette("RGB"), np.uint8).reshape(-1, 3)


def read_colors(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a mask whose colours stand for classes, exact to the bit.

    Raises:
        UserError: unreadable; without colours; of a kind whose colours are not exact; transparent.
    """
    raw, header = _open(path)
    check_image_depth(path, header, raw)
    _refuse_lossy(path, header, "colours")
    mistake = {"path": path, "kind": "masks without exact colours"}
    if header.mode not in {"P", "RGB", "RGBA"}:
        raise UserError(
            f"a mask of mode {header.mode}, expected colours (RGB, RGBA or a palette).",
            remedy="If its values are ids already, it needs no conversion; segcoord data check "
            "tells. If its colours were made grey, take the masks as they were before.",
            **mistake,
        )
    colors = np.array(_decode(path, raw, header).convert("RGBA"))
    through = int((colors[..., 3] != 255).sum())
    if through:
        raise UserError(
            f"{through} pixels are transparent; expected a colour everywhere.",
            remedy="Flatten it onto the colour that such pixels stand for.",
            **mistake,
        )
    return colors[..., :3]


def check_image_depth(path: Path, header: Image.Image, start: bytes) -> None:
    """Raises UserError for an image of more than 8 bits per channel.

    Args:
        path: for the message.
        header: of the file, opened.
        start: its first bytes, 32 or more.
    """
    depth = 8
    if header.format == "PNG":
        depth = start[_PNG_DEPTH]  # Pillow calls 16 bits of red, green and blue just RGB
    elif header.format == "TIFF":
        depth = max(header.tag_v2.get(258, (8,)))  # BitsPerSample
    if depth > 8 or header.mode not in _IMAGE_MODES:
        raise UserError(
            f"an image of mode {header.mode} with more than 8 bits per channel, expected 8.",
            path=path,
            remedy="Convert it once, choosing how its range maps to 0..255.",
            kind="more than 8 bits per channel",
        )


def check_mask_mode(path: Path, mode: str) -> None:
    """Raises UserError unless a mask of this Pillow mode can be a map of ids."""
    if mode in {"P", "L", "1"}:
        return
    told, kind, remedy = "not 8 bits deep", "masks that are not 8 bits deep", "Save it with 8 bits."
    if mode in {"LA", "La", "PA"}:
        told = "ids or greys, with transparency"
        kind = "masks with transparency"
        remedy = "If its values are ids, save it without its alpha channel."
    elif mode.startswith(("RGB", "CMYK")):
        told, kind = "a colour picture", "masks in colours"
        remedy = f"Write the class ids instead of their colours: {CONVERT}"
    raise UserError(
        f"a mask of mode {mode} ({told}), expected one 8-bit class id per pixel "
        "(a palette or grey PNG).",
        path=path,
        remedy=remedy,
        kind=kind,
    )


def _refuse_lossy(path: Path, header: Image.Image, what: str) -> None:
    """Raises UserError for a mask whose values are only nearly those that were saved."""
    kind = header.format
    if kind == "TIFF" and header.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        kind = "JPEG-compressed TIFF"
    elif kind not in _LOSSY:
        return
    raise UserError(
        f"a {kind} file, whose compression changes {what}; expected a PNG.",
        path=path,
        remedy="Take the masks as they were before.",
        kind="masks that were compressed with loss",
    )


def size_mismatch_error(path: Path, mask: tuple[int, ...], image: tuple[int, int]) -> UserError:
    """What to say of a mask whose (H, W) isn't its image's."""
    remedy = ""
    if tuple(mask) == tuple(image)[::-1]:
        remedy = "They are each other's transpose: was the image rotated by its EXIF tag?"
    return UserError(
        f"the mask is {mask[1]}x{mask[0]} (width x height), its image {image[1]}x{image[0]}; "
        "they must agree.",
        path=path,
        remedy=remedy,
        kind="a mask of another size than its image",
    )


def _open(path: Path) -> tuple[bytes, Image.Image]:
    raw = b""
    try:
        raw = path.read_bytes()
        return raw, _opened(io.BytesIO(raw))
    except FileNotFoundError:
        raise missing_error(path) from None
    except DECODE_ERRORS as error:
        raise not_an_image_error(path, raw[:_START], error) from error


def _opened(file: io.BufferedIOBase) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file)


def _decode(path: Path, raw: bytes, header: Image.Image) -> Image.Image:
    if header.format == "PNG":
        check_png(path, raw)
    try:
        header.load()
    except DECODE_ERRORS as error:
        raise damaged_error(path, error) from error
    return header


def exif_orientation(header: Image.Image) -> int:
    """EXIF's; a PNG that has it behind its pixels, which would have to be read first, has none."""
    if header.format not in ("JPEG", "MPO", "WEBP") and "exif" not in header.info:
        return 1
    try:
        return int(header.getexif().get(_ORIENTATION, 1) or 1)
    except Exception:  # malformed in any way, so that no viewer turns it either
        return 1
