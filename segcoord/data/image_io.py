"""Read images as arrays, and reject files that would silently train something wrong.

OpenCV decodes images, for speed, after checks for files that some of its versions decode wrongly:
truncated, CMYK or 16-bit ones. EXIF rotation is never applied: masks are drawn on the stored
pixels. `data.mask_reader` reads masks.
"""

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
from segcoord.utils.errors import UserError

_IMAGE_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
_OPENCV_MODES = {"L", "RGB"}  # decoded by OpenCV exactly as by Pillow
PNG_DEPTH = 24  # offset of the bit depth in IHDR
_START, _END = 32, 64  # bytes that identify the format, and that hold the end marker
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


class Header(NamedTuple):
    """Properties of an image file that are known without decoding it."""

    size: tuple[int, int]  # (H, W)
    orientation: int  # EXIF orientation, which image viewers apply; 1 if absent
    complete: bool  # False if the file may be truncated; decoding it finds out


def read_image(path: Path, strict: bool = False) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 RGB; converts gray, palette and CMYK, drops alpha.

    Args:
        path: the image file.
        strict: also reject a JPEG with parts that libjpeg fills by guessing; 1.5 times as slow.

    Raises:
        UserError: unreadable, truncated, or more than 8 bits per channel.
    """
    raw, header = open_image(path)
    check_image_depth(path, header, raw)
    if strict and header.format in ("JPEG", "MPO"):
        check_jpeg(path, raw, header.mode)
    if header.mode in _OPENCV_MODES and is_complete(raw, header.format):
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), _DECODE)
        if image is not None:
            return image
    return np.array(decode(path, raw, header).convert("RGB"))


def read_header(path: Path) -> Header:
    """Read an image's header without decoding its pixels.

    Raises:
        UserError: unreadable, or more than 8 bits per channel.
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
                return Header(header.size[::-1], exif_orientation(header), complete)
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
        depth = max(header.tag_v2.get(258, (8,)))  # BitsPerSample
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
        remedy = "Width and height are swapped: was the image rotated by its EXIF tag?"
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
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
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


def exif_orientation(header: Image.Image) -> int:
    """The EXIF orientation, 1 if absent; ignores a PNG's EXIF chunk after the pixel data."""
    if header.format not in ("JPEG", "MPO", "WEBP") and "exif" not in header.info:
        return 1
    try:
        return int(header.getexif().get(_ORIENTATION, 1) or 1)
    except Exception:  # malformed EXIF, which image viewers ignore too
        return 1
