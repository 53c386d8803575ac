"""Read photos of any kind as upright 8-bit RGB.

Datasets are read by `segcoord.data.image_io`, which keeps pixels where their masks have them. Here
EXIF orientation is always applied, and 16 bits become 8. For an upright file of 8 bits both give
the same pixels; both composite transparency on white.

Plain JPEG and PNG are decoded by OpenCV, which is fast and is what training uses. All other files
are decoded by Pillow, which handles palettes, alpha, CMYK and a TIFF's orientation. Embedded color
profiles are ignored, as in training.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from segcoord.data.corruption import (
    check_jpeg,
    check_png,
    damaged_error,
    describe_too_large,
    is_complete,
    not_an_image_error,
)
from segcoord.data.image_io import on_white
from segcoord.data.orientation import exif_orientation, upright
from segcoord.utils.errors import UserError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "HEIF")
"""Pillow's names; HEIF needs a registered plug-in such as pillow-heif."""

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}  # ISO 23008-12
_RAW = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}
_OPENCV_MODES = {"L", "RGB"}  # modes that OpenCV decodes as Pillow does
_REMEDY = "Download or save it again."
_DARK = 4096  # values of a 12-bit camera that are not scaled to 16 bits stay below this
_OPENCV_PIXELS = 2**30  # OpenCV refuses larger images
_COLOR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


WHITE_NOTE = "its transparent pixels were replaced by white"


class Photo(NamedTuple):
    """A photo's pixels, with notes about conversions that users may not expect."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB, upright; or `strips.PhotoStrips`
    notes: Sequence[str]  # usually empty


def read_photo(path: Path) -> Photo:
    """Decode a photo by its content, whatever its suffix.

    Gray, palette, CMYK, alpha and 16 bits (PNG, TIFF, JPEG 2000) become 8-bit RGB. Of several
    frames or pages, the first is read.

    Raises:
        UserError: not an image of `FORMATS`, truncated, damaged, with values of unknown range, or
            with more than 2 * `PIL.Image.MAX_IMAGE_PIXELS` pixels, 179 million by default
            (`allow_pixels` sets another limit).
    """
    return decode_photo(_content(path), path)


def decode_photo(raw: bytes, path: Path) -> Photo:
    """`read_photo` for a file's content; `path` names it in errors."""
    header = _open(path, raw)
    notes = []
    try:
        frames = 1 if header.format == "MPO" else getattr(header, "n_frames", 1)
        if frames > 1:
            notes.append(f"the first of its {frames} frames")
        if header.format == "PNG":
            check_png(path, raw)
        if header.format in ("JPEG", "MPO"):
            try:
                check_jpeg(path, raw, header.mode)
            except UserError as error:  # damage that libjpeg tolerates
                notes.append(f"{error.found} It was predicted as image viewers show it")
        pixels = upright(_decode(path, raw, header, notes), exif_orientation(header))
    except UserError as error:
        raise UserError(error.found, path=path, remedy=_REMEDY) from error
    except MemoryError as error:
        raise UserError("out of memory while reading it.", path=path) from error
    except Exception as error:  # Pillow's decoders raise many types for damaged files
        raise damaged_error(path, str(error) or type(error).__name__, _REMEDY) from error
    return Photo(pixels, tuple(notes))


def _content(path: Path) -> bytes:
    if path.suffix.lower() in _RAW:
        raise UserError(
            "a camera's raw file, which has to be developed first.",
            path=path,
            remedy="Convert it to JPEG, PNG or TIFF with the camera's software or darktable.",
        )
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "neither a file nor a folder"
        raise UserError(f"{kind}, expected an image file.", path=path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        found = "a link to a file that is not there." if path.is_symlink() else "no such file."
        raise UserError(found, path=path) from None
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror or error}.", path=path) from error


@contextmanager
def allow_pixels(limit: int | None) -> Iterator[None]:
    """Read photos of up to so many pixels, in all threads; None for Pillow's limit."""
    before = Image.MAX_IMAGE_PIXELS
    if limit is not None:
        Image.MAX_IMAGE_PIXELS = -(-limit // 2)  # Pillow refuses more than twice as many
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def known_formats() -> list[str]:
    """The `FORMATS` that the installed Pillow can read."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _open(path: Path, raw: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(raw), formats=known_formats())
    except Image.DecompressionBombError as error:
        raise UserError(
            describe_too_large(error),
            path=path,
            remedy="If you trust the file, allow more: segcoord predict --allow-pixels N, or in "
            "Python a higher PIL.Image.MAX_IMAGE_PIXELS.",
        ) from error
    except Exception as error:
        if raw[4:8] == b"ftyp" and raw[8:12] in _HEIC:
            raise UserError(
                "a HEIC photo, which is not supported.",
                path=path,
                remedy="Convert it to JPEG, for example with heif-convert of libheif.",
            ) from error
        if isinstance(error, OSError):
            raise not_an_image_error(path, raw, error, _REMEDY) from error
        raise damaged_error(path, error, _REMEDY) from error


def _decode(path: Path, raw: bytes, header: Image.Image, notes: list[str]) -> np.ndarray:
    """(H, W, 3) uint8 RGB as stored, except a TIFF, which Pillow rotates; appends to `notes`."""
    kind = header.format
    by_opencv = kind in ("JPEG", "MPO", "PNG") and header.mode in _OPENCV_MODES
    by_opencv = by_opencv and header.width * header.height <= _OPENCV_PIXELS
    if by_opencv and not header.has_transparency_data and is_complete(raw, kind):
        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), _COLOR)
        if pixels is not None:
            return pixels
    header.load()
    if header.mode.startswith(("I", "F")):
        return _gray_16_bit(path, header, notes)
    image, transparent = on_white(header)
    if transparent:
        notes.append(WHITE_NOTE)
    return np.array(image.convert("RGB"))  # of 16-bit colors, Pillow keeps the upper 8 bits


def _gray_16_bit(path: Path, image: Image.Image, notes: list[str]) -> np.ndarray:
    int32 = image.mode == "I" and image.format in ("PNG", "PPM")  # 16 bits in some Pillow versions
    if not (image.mode.startswith("I;16") or int32):
        found = f"values of mode {image.mode}, whose range is unknown; expected 8 or 16 bits."
        raise UserError(found, path=path)
    values = np.array(image).astype(np.uint16)
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0:
        values = 65535 - values  # 0 is white, as in 8 bits, which Pillow inverts
    brightest = int(values.max())
    if brightest < _DARK:
        notes.append(f"its brightest value is {brightest} of 65535, so it is almost black")
    gray = cv2.convertScaleAbs(values, alpha=1 / 257)  # 65535 becomes 255
    return cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)
