"""Detect truncated, damaged and missing image files, and describe them in errors.

A PNG has checksums, which OpenCV verifies and Pillow skips for the pixel data, so `check_png` does.
A JPEG has none: libjpeg fills parts that it can't decode and only warns on stderr; simplejpeg turns
these warnings into errors.
"""

import io
import re
import warnings
import zlib
from pathlib import Path

import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLESPERPIXEL, ImageFileDirectory_v2

from segcoord.utils.errors import UserError

_PNG_SIGNATURE = 8  # bytes before the first chunk
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a damaged file."""


def is_complete(raw: bytes, image_format: str | None) -> bool:
    """Whether a JPEG or PNG ends with its end marker, a cheap test for truncation.

    Args:
        raw: the file, or at least its last 64 bytes.
        image_format: Pillow's name; False for other formats, which must be decoded to find out.
    """
    marker = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(image_format)
    return marker is not None and marker in raw[-64:]


def not_an_image_error(
    path: Path,
    start: bytes,
    error: Exception,
    remedy: str = "Download it again, or remove it from the split.",
) -> UserError:
    """The error for a file that Pillow can't open; `start` is empty if it can't be read."""
    if isinstance(error, Image.DecompressionBombError):
        return UserError(
            describe_too_large(error),
            path=path,
            remedy="Cut it, and its mask, into smaller images.",
            kind="images that are too large",
        )
    found = str(error)
    if isinstance(error, UnidentifiedImageError):
        if start[:4] in _TIFF_SIGNATURES and (channels := _tiff_channels(path, start)):
            return _channels_error(path, *channels)
        found = "it has no known format" if start else "the file is empty"
        if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
            found = "it is a web page or other markup"
    elif isinstance(error, OSError) and error.strerror:
        found = error.strerror
    return UserError(
        f"can't be read as an image: {found}.",
        path=path,
        remedy=remedy,
        kind="files that are not images",
    )


def describe_too_large(error: Image.DecompressionBombError) -> str:
    """How many pixels an image has and how many Pillow decodes at most."""
    pixels = re.search(r"\d+", str(error))  # Pillow gives them nowhere else
    found = f": {int(pixels[0]):,} pixels" if pixels else ""
    return f"too large{found}, expected at most {2 * (Image.MAX_IMAGE_PIXELS or 0):,}."


def _tiff_channels(path: Path, start: bytes) -> tuple[int, list[int]] | None:
    """Number of channels of a TIFF, and the bits of each; None if its header is damaged."""
    try:
        raw = path.read_bytes() if path.is_file() else start
        length = 16 if 43 in raw[2:4] else 8  # of the header, in BigTIFF or TIFF
        directory = ImageFileDirectory_v2(raw[:length])
        file = io.BytesIO(raw)
        file.seek(directory.next)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            directory.load(file)
        return int(directory[SAMPLESPERPIXEL]), [int(n) for n in directory[BITSPERSAMPLE]]
    except Exception:  # Pillow raises many types for damaged headers
        return None


def _channels_error(path: Path, channels: int, bits: list[int]) -> UserError:
    """The error for a TIFF whose channels have no meaning as colors."""
    remedy = (
        "Write its red, green and blue channels to an RGB file, for example with "
        "gdal_translate -b 1 -b 2 -b 3 -co PHOTOMETRIC=RGB IN.tif OUT.tif."
    )
    if channels < 3:
        remedy = (
            "Write the channel that shows the image to a gray file, for example with "
            "gdal_translate -b 1 IN.tif OUT.tif."
        )
    per_channel = " and ".join(f"{n}" for n in sorted({*bits}))
    return UserError(
        f"a TIFF with {channels} channel{'s' * (channels != 1)} of {per_channel} bits that are not "
        "marked as gray or RGB; expected 1 channel (gray) or 3 (RGB), transparency aside.",
        path=path,
        remedy=remedy,
        kind="TIFFs with other channels than gray or RGB",
    )


def missing_error(path: Path) -> UserError:
    """The error for a file that does not exist, or a broken link."""
    broken_link = path.is_symlink()
    return UserError(
        "a link to a file that does not exist." if broken_link else "no such file.",
        path=path,
        remedy=f"{'Fix the link' if broken_link else 'Add it'}, or remove it from the split.",
        kind="missing files",
    )


def damaged_error(path: Path, cause: object, remedy: str = "Download it again.") -> UserError:
    """The error for an image file that is truncated or damaged."""
    found = f"truncated or damaged ({cause})."
    return UserError(found, path=path, remedy=remedy, kind="damaged files")


def check_png(path: Path, raw: bytes) -> None:
    """Verify the checksum of each chunk and the presence of the last one; raise UserError.

    Source: PNG specification, section 5.3: length, type, data, CRC-32 of type and data.
    """
    start, view = _PNG_SIGNATURE, memoryview(raw)
    while start + 8 <= len(raw):
        end = start + 8 + int.from_bytes(raw[start : start + 4], "big")
        chunk, checksum = raw[start + 4 : start + 8], raw[end : end + 4]
        if len(checksum) < 4:
            break
        if zlib.crc32(view[start + 4 : end]) != int.from_bytes(checksum, "big"):
            raise damaged_error(path, f"wrong checksum in chunk {chunk.decode('latin-1')!r}")
        if chunk == b"IEND":
            return
        start = end + 4
    raise damaged_error(path, "its end is missing")


def check_jpeg(path: Path, raw: bytes, mode: str) -> None:
    """Raise UserError if libjpeg warns about data that it can't decode and fills by guessing."""
    try:
        simplejpeg.decode_jpeg_header(raw)
    except ValueError:  # valid, but with a rare subsampling that simplejpeg does not support
        return
    try:
        # Scaling to 1/8 still decodes the whole file, but computes fewer pixels.
        color = "CMYK" if mode == "CMYK" else "RGB"
        simplejpeg.decode_jpeg(raw, color, min_height=1, min_width=1, strict=True)
    except ValueError as error:
        remedy = (
            "Download it again; if the original is damaged too, save it again in an image viewer."
        )
        raise damaged_error(path, error, remedy) from error
