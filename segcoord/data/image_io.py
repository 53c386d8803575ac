"""Read images and masks as arrays, and reject files that would silently train something wrong.

OpenCV decodes images, for speed, after checks for files that some of its versions decode wrongly:
truncated, CMYK or 16-bit ones. Pillow decodes masks, because OpenCV turns palette indices into
colors. Images with transparency are composited on white, as `segcoord predict` does. EXIF
orientation is applied only on request: masks are usually drawn on the stored pixels.
"""

import io
import logging
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
from segcoord.data.orientation import Exif, allowed_orientation, swaps_axes, upright
from segcoord.utils.errors import UserError

# Pillow logs an error before it raises it, which Python prints if nothing handles it.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_IMAGE_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
_OPENCV_MODES = {"L", "RGB"}  # decoded by OpenCV exactly as by Pillow
_LOSSY = {"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"}
_PNG_DEPTH, _PNG_COLOR = 24, 25  # offsets of the bit depth and the color type in IHDR
_START, _END = 32, 64  # bytes that identify the format, and that hold the end marker
_DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class Header(NamedTuple):
    """Properties of an image file that are known without decoding it."""

    size: tuple[int, int]  # (H, W), of the turned image if EXIF orientation is applied
    orientation: int  # EXIF orientation, which image viewers apply; 1 if absent
    complete: bool  # False if the file may be truncated; decoding it finds out


class DecodedImage(NamedTuple):
    """The pixels of an image file."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB
    transparent: bool  # whether transparent pixels were composited on white


def read_image(path: Path, strict: bool = False, exif: Exif = "ignore") -> np.ndarray:
    """Read an image as (H, W, 3) uint8 RGB.

    Gray, palette and CMYK become RGB. Transparent pixels are composited on white.

    Args:
        path: the image file.
        strict: also reject a JPEG with parts that libjpeg fills by guessing; 1.5 times as slow.
        exif: turn applies the EXIF orientation; error raises if it is not 1. Pillow always applies
            the orientation of a TIFF, which is not EXIF.

    Raises:
        UserError: unreadable, truncated, more than 8 bits per channel, or with an EXIF orientation
            that `exif` does not allow.
    """
    return decode_image(path, strict, exif).pixels


def decode_image(path: Path, strict: bool = False, exif: Exif = "ignore") -> DecodedImage:
    """`read_image`, which also tells whether the image has transparent pixels."""
    raw, header = _open(path)
    orientation = 1 if exif == "ignore" else allowed_orientation(path, header, exif)
    pixels, transparent = _decode_pixels(path, raw, header, strict)
    return DecodedImage(upright(pixels, orientation), transparent)


def _decode_pixels(
    path: Path, raw: bytes, header: Image.Image, strict: bool
) -> tuple[np.ndarray, bool]:
    """(H, W, 3) uint8 RGB as stored, and whether any pixel was transparent."""
    check_image_depth(path, header, raw)
    if strict and header.format in ("JPEG", "MPO"):
        check_jpeg(path, raw, header.mode)
    by_opencv = header.mode in _OPENCV_MODES and not header.has_transparency_data
    if by_opencv and is_complete(raw, header.format):
        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), _DECODE)
        if pixels is not None:
            return pixels, False
    image, transparent = on_white(_decode(path, raw, header))
    return np.array(image.convert("RGB")), transparent


def on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """Composite a decoded image on white.

    Returns:
        The image without transparency, in any mode; whether any pixel was transparent.
    """
    if not image.has_transparency_data:
        return image, False
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image, False
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=alpha)
    return white, True


def has_transparency(path: Path) -> bool:
    """Whether an image has an alpha channel or a transparent color; False if it can't be read."""
    try:
        with path.open("rb") as file, _opened(file) as header:
            return header.has_transparency_data
    except DECODE_ERRORS:
        return False


def read_header(path: Path, exif: Exif = "ignore") -> Header:
    """Read an image's header without decoding its pixels.

    Raises:
        UserError: unreadable, more than 8 bits per channel, or with an EXIF orientation that `exif`
            does not allow.
    """
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(_START)
            file.seek(-min(_END, file.seek(0, os.SEEK_END)), os.SEEK_END)
            end = file.read()
            file.seek(0)
            with _opened(file) as header:
                check_image_depth(path, header, start)
                complete = is_complete(end, header.format)
                orientation = allowed_orientation(path, header, exif)
                swapped = exif == "turn" and swaps_axes(orientation)
                size = header.size if swapped else header.size[::-1]
                return Header(size, orientation, complete)
    except FileNotFoundError:
        raise missing_error(path) from None
    except DECODE_ERRORS as error:
        raise not_an_image_error(path, start, error) from error


def read_mask(path: Path, labels: LabelSet, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a mask as (H, W) uint8 class indices, 255 for void.

    Args:
        path: an 8-bit palette or gray file.
        labels: map mask values to class indices.
        size: expected (H, W), that of the image; None accepts any.

    Raises:
        UserError: unreadable, not a map of class ids, of another size, or with unknown values.
    """
    values, palette = _read_values_and_palette(path, size)
    indices = cv2.LUT(values, labels.to_index)
    if (indices == UNKNOWN).any() or (palette is not None and not palette_matches(palette, labels)):
        _check_values(path, histogram(values), palette, labels)
    return indices


def count_mask(path: Path, labels: LabelSet, size: tuple[int, int] | None = None) -> np.ndarray:
    """Count a mask's pixels by class index, as (256,) int64. Args and errors as in `read_mask`."""
    values, palette = _read_values_and_palette(path, size)
    value_counts = histogram(values)
    _check_values(path, value_counts, palette, labels)
    counts = np.zeros(256, np.int64)
    np.add.at(counts, labels.to_index, value_counts)
    return counts


def histogram(values: np.ndarray) -> np.ndarray:
    """Count each value of a uint8 array, as (256,) int64."""
    # OpenCV counts in float32, which is exact up to 2**24.
    parts = np.array_split(values.ravel(), values.size // 2**24 + 1)
    counts = (cv2.calcHist([p], [0], None, [256], [0, 256]).astype(np.int64) for p in parts)
    return sum(counts).ravel()


def _check_values(
    path: Path, histogram: np.ndarray, palette: np.ndarray | None, labels: LabelSet
) -> None:
    """Raise UserError for unknown values, or palette colors that contradict the class ids."""
    if palette is not None and (error := palette_error(path, histogram, palette, labels)):
        raise error
    if histogram[labels.to_index == UNKNOWN].any():
        raise unknown_values_error(path, histogram, labels)


def read_mask_values(path: Path) -> np.ndarray:
    """Read a mask's stored values as (H, W) uint8; palette indices, not colors."""
    return _read_values_and_palette(path)[0]


def _read_values_and_palette(
    path: Path, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """A mask's values (H, W) uint8, and its palette (N, 3) uint8 RGB or None for a gray mask."""
    raw, header = _open(path)
    _reject_lossy(path, header, "ids")
    check_mask_mode(path, header.mode)
    if header.format == "PNG" and raw[_PNG_COLOR] == 0 and raw[_PNG_DEPTH] in (2, 4):
        raise UserError(
            f"a {raw[_PNG_DEPTH]}-bit gray mask, whose ids would be scaled to gray levels; "
            "expected 8 bits.",
            path=path,
            remedy="Save it as an 8-bit gray or a palette PNG.",
            kind="masks that are not 8-bit",
        )
    values = np.array(_decode(path, raw, header)).astype(np.uint8, copy=False)
    if size is not None and values.shape != tuple(size):
        raise size_mismatch_error(path, values.shape, size)
    if header.mode != "P":
        return values, None
    return values, np.array(header.getpalette("RGB"), np.uint8).reshape(-1, 3)


def read_colors(path: Path) -> np.ndarray:
    """Read a color mask as (H, W, 3) uint8 RGB with the exact colors.

    Raises:
        UserError: unreadable, not a color image, lossily compressed, or transparent.
    """
    raw, header = _open(path)
    check_image_depth(path, header, raw)
    _reject_lossy(path, header, "colors")
    kind = "masks without exact colors"
    if header.mode not in {"P", "RGB", "RGBA"}:
        raise UserError(
            f"a mask of mode {header.mode}, expected colors (RGB, RGBA or a palette).",
            path=path,
            remedy="If its values are class ids, it needs no conversion: run segcoord data check. "
            "If it was converted to gray, use the original color mask.",
            kind=kind,
        )
    colors = np.array(_decode(path, raw, header).convert("RGBA"))
    transparent = int((colors[..., 3] != 255).sum())
    if transparent:
        raise UserError(
            f"{transparent} pixels are transparent; expected opaque colors.",
            path=path,
            remedy="Fill them with the color of their class, or of void.",
            kind=kind,
        )
    return colors[..., :3]


def check_image_depth(path: Path, header: Image.Image, start: bytes) -> None:
    """Raise UserError for more than 8 bits per channel; `start` is the file's first 32 bytes."""
    depth = 8
    if header.format == "PNG":
        depth = start[_PNG_DEPTH]  # Pillow's mode of a 16-bit color PNG is RGB too
    elif header.format == "TIFF":
        depth = max(header.tag_v2.get(258, (8,)))  # BitsPerSample
    if depth > 8 or header.mode not in _IMAGE_MODES:
        raise UserError(
            f"an image of mode {header.mode} with more than 8 bits per channel, expected 8.",
            path=path,
            remedy="Convert it to 8 bits, choosing how its range maps to 0..255.",
            kind="images with more than 8 bits per channel",
        )


def check_mask_mode(path: Path, mode: str) -> None:
    """Raise UserError unless a mask of this Pillow mode can hold class ids."""
    if mode in {"P", "L", "1"}:
        return
    found, kind, remedy = "not 8-bit", "masks that are not 8-bit", "Save it with 8 bits per pixel."
    if mode in {"LA", "La", "PA"}:
        found, kind = "with transparency", "masks with transparency"
        remedy = "If its values are class ids, save it without the alpha channel."
    elif mode.startswith(("RGB", "CMYK")):
        found, kind = "a color image", "color masks"
        remedy = f"Replace the colors with class ids: {CONVERT}"
    raise UserError(
        f"a mask of mode {mode} ({found}), expected one 8-bit class id per pixel "
        "(a palette or gray PNG).",
        path=path,
        remedy=remedy,
        kind=kind,
    )


def _reject_lossy(path: Path, header: Image.Image, what: str) -> None:
    """Raise UserError for a mask in a format whose compression changes its values."""
    name = header.format
    if name == "TIFF" and header.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        name = "JPEG-compressed TIFF"
    elif name not in _LOSSY:
        return
    raise UserError(
        f"a {name} file, whose lossy compression changes {what}; expected a PNG.",
        path=path,
        remedy="Use the original masks.",
        kind="masks with lossy compression",
    )


def size_mismatch_error(path: Path, mask: tuple[int, ...], image: tuple[int, int]) -> UserError:
    """The error for a mask whose (H, W) differs from its image's."""
    swapped = tuple(mask) == tuple(image)[::-1]
    remedy = (
        "Width and height are swapped: was the image rotated by its EXIF tag? data.exif: turn "
        "reads images as viewers show them, ignore as they are stored."
    )
    return UserError(
        f"the mask is {mask[1]}x{mask[0]} (width x height), its image {image[1]}x{image[0]}; "
        "they must agree.",
        path=path,
        remedy=remedy if swapped else "",
        kind="masks that don't match the image size",
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
        warnings.simplefilter("ignore")  # of sizes and metadata; damage raises an error
        return Image.open(file)


def _decode(path: Path, raw: bytes, header: Image.Image) -> Image.Image:
    if header.format == "PNG":
        check_png(path, raw)
    try:
        header.load()
    except DECODE_ERRORS as error:
        raise damaged_error(path, error) from error
    return header
