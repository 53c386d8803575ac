"""Read images as arrays, and reject files that would silently train something wrong.

OpenCV decodes images, for speed, after checks for files that some of its versions decode wrongly:
truncated, CMYK or 16-bit ones. Images with transparency are composited on white, as
`segcoord predict` does. EXIF orientation is applied only on request: masks are usually drawn on
the stored pixels. `data.mask_reader` reads masks.
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
from PIL.TiffImagePlugin import BITSPERSAMPLE

from segcoord.data.corruption import (
    DECODE_ERRORS,
    check_jpeg,
    check_png,
    damaged_error,
    is_complete,
    missing_error,
    not_an_image_error,
)
from segcoord.data.orientation import Exif, allowed_orientation, swaps_axes, upright
from segcoord.utils.errors import UserError

# Pillow logs an error before it raises it, which Python prints if nothing handles it.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_IMAGE_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
_OPENCV_MODES = {"L", "RGB"}  # decoded by OpenCV exactly as by Pillow
PNG_DEPTH = 24  # offset of the bit depth in IHDR
_START, _END = 32, 64  # bytes that identify the format, and that hold the end marker
_DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class Header(NamedTuple):
    """Properties of an image file that are known without decoding it."""

    size: tuple[int, int]  # (H, W), of the turned image if EXIF orientation is applied
    orientation: int  # EXIF orientation, which image viewers apply; 1 if absent
    alpha: bool  # whether pixels may be transparent
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
    raw, header = open_image(path)
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
    image, transparent = on_white(decode(path, raw, header))
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
                return Header(size, orientation, header.has_transparency_data, complete)
    except FileNotFoundError:
        raise missing_error(path) from None
    except DECODE_ERRORS as error:
        raise not_an_image_error(path, start, error) from error


def histogram(values: np.ndarray) -> np.ndarray:
    """Count each value of a uint8 array, as (256,) int64."""
    # OpenCV counts in float32, which is exact up to 2**24.
    parts = np.array_split(values.ravel(), values.size // 2**24 + 1)
    counts = (cv2.calcHist([p], [0], None, [256], [0, 256]).astype(np.int64) for p in parts)
    return sum(counts).ravel()


def check_image_depth(path: Path, header: Image.Image, start: bytes) -> None:
    """Raise UserError for more than 8 bits per channel; `start` is the file's first 32 bytes."""
    depth = 8
    if header.format == "PNG":
        depth = start[PNG_DEPTH]  # Pillow's mode of a 16-bit color PNG is RGB too
    elif header.format == "TIFF":
        depth = max(header.tag_v2.get(BITSPERSAMPLE, (8,)))
    if depth > 8 or header.mode not in _IMAGE_MODES:
        raise UserError(
            f"an image of mode {header.mode} with more than 8 bits per channel, expected 8.",
            path=path,
            remedy="Convert it to 8 bits, choosing how its range maps to 0..255.",
            kind="images with more than 8 bits per channel",
        )


def same_ratio(mask: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether two sizes (H, W) have the same aspect ratio, up to rounding to whole pixels."""
    scale = image[0] / mask[0]
    return abs(scale * mask[1] - image[1]) <= max(1, scale)


def size_mismatch_error(path: Path, mask: tuple[int, ...], image: tuple[int, int]) -> UserError:
    """The error for a mask whose (H, W) differs from its image's."""
    swapped = tuple(mask) == tuple(image)[::-1]
    remedy = (
        "One of the two was cropped, or they belong to different images: find the original. "
        "segcoord data check --write-lists DIR lists the other samples for data.lists, and "
        "data.skip_bad: true leaves such samples out."
    )
    if swapped:
        remedy = (
            "Width and height are swapped: was the image rotated by its EXIF tag? data.exif: turn "
            "reads images as viewers show them, ignore as they are stored."
        )
    elif same_ratio(mask, image):
        remedy = (
            "One of the two was resized. Use the original, or resize the masks by nearest neighbor "
            "with segcoord data check --write-lists DIR --resize-masks DIR. data.skip_bad: true "
            "leaves such samples out."
        )
    return UserError(
        f"the mask is {mask[1]}x{mask[0]} (width x height), its image {image[1]}x{image[0]}; "
        "they must agree.",
        path=path,
        remedy=remedy,
        kind="masks that don't match the image size",
    )


def open_image(path: Path) -> tuple[bytes, Image.Image]:
    """Read a file and parse its image header; UserError if it is missing or not an image."""
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


def decode(path: Path, raw: bytes, header: Image.Image) -> Image.Image:
    """Decode the pixels of an opened image; UserError if the file is damaged."""
    if header.format == "PNG":
        check_png(path, raw)
    try:
        header.load()
    except DECODE_ERRORS as error:
        raise damaged_error(path, error) from error
    return header
