"""A user's photo, whatever kind of file it is, as people see it.

Evaluation and training read with `segcoord.data.reading`, where pixels must stay where their masks
have them. Here a photo is turned upright by EXIF, what is transparent lies on white, and 16 bits
become 8. An ordinary upright file gives the same pixels in both.

Plain JPEG and PNG are decoded by OpenCV, which is fast and gives what training sees. All else is
Pillow's, which knows palettes, alpha, CMYK and a TIFF's orientation. Embedded colour profiles are
ignored, as in training.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from segcoord.data.corruption import (
    check_jpeg,
    check_png,
    damaged_error,
    is_complete,
    not_an_image_error,
)
from segcoord.data.image_io import exif_orientation
from segcoord.utils.errors import UserError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "HEIF")
"""Pillow's names; HEIF where a plug-in for it was registered, pillow-heif say."""

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}  # ISO 23008-12
_RAW = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"}
_DIRECT = {"L", "RGB"}  # modes that OpenCV decodes as Pillow does
_DARK = 4096  # a camera of 12 bits stays below this where it doesn't use all 16
_INTERPRETATION = 262  # of a TIFF's values; 0: white is 0
_COLOR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_TURNS = {  # EXIF's orientation: swap rows and columns, then their directions
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}


class Photo(NamedTuple):
    """What `read_photo` makes of a file.

    Args:
        pixels: (H, W, 3) uint8 RGB, upright.
        notes: what its owner may not expect of them, in words; mostly none.
    """

    pixels: np.ndarray
    notes: tuple[str, ...]


def read_photo(path: Path) -> Photo:
    """Decodes a photo by what it holds, whatever its name ends in.

    Grey, palette, CMYK, alpha, 16 bits of PNG, TIFF and JPEG 2000: all become 8-bit RGB. Of several
    frames or pages the first is taken.

    Raises:
        UserError: not an image of `FORMATS`, truncated, damaged, of values without a known range,
            or of more pixels than twice `PIL.Image.MAX_IMAGE_PIXELS`, 179 million unless changed.
    """
    return decode_photo(_content(path), path)


def decode_photo(raw: bytes, path: Path) -> Photo:
    """As `read_photo`, of a file's content; `path` names it in errors."""
    header = _opened(path, raw)
    notes = []
    try:
        frames = 1 if header.format == "MPO" else getattr(header, "n_frames", 1)
        if frames > 1:
            notes.append(f"the first of its {frames} frames")
        if header.format == "PNG":
            check_png(path, raw)
        if header.format in ("JPEG", "MPO"):
            notes += _guessed(path, raw, header.mode)
        pixels = _decoded(path, raw, header, notes)
        pixels = _upright(pixels, exif_orientation(header))
    except UserError as error:
        raise UserError(error.found, path=path, remedy="Fetch or save it anew.") from error
    except MemoryError as error:
        raise UserError("the memory is not enough to read it.", path=path) from error
    except Exception as error:  # Pillow's decoders raise all kinds for damaged files
        told = str(error) or type(error).__name__
        found = damaged_error(path, told).found
        raise UserError(found, path=path, remedy="Fetch or save it anew.") from error
    return Photo(pixels, tuple(notes))


def _content(path: Path) -> bytes:
    if path.suffix.lower() in _RAW:
        raise UserError(
            "a camera's raw file, which has to be developed first.",
            path=path,
            remedy="Save it as JPEG, PNG or TIFF with the camera's program, or darktable.",
        )
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "neither a file nor a folder"
        raise UserError(f"{kind}, expected an image file.", path=path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        link = path.is_symlink()
        raise UserError(
            "a link to a file that is not there." if link else "no such file.", path=path
        ) from None
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror or error}.", path=path) from error


def known_formats() -> list[str]:
    """Those of `FORMATS` that this Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _opened(path: Path, raw: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(raw), formats=known_formats())
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UserError(
            f"too large ({error}), expected at most {most / 1e6:.0f} million pixels.",
            path=path,
            remedy="Cut it into parts; or in Python raise PIL.Image.MAX_IMAGE_PIXELS.",
        ) from error
    except Exception as error:
        if raw[4:8] == b"ftyp" and raw[8:12] in _HEIC:
            raise UserError(
                "a HEIC photo, a kind that is not read.",
                path=path,
                remedy="Save it as JPEG, by heif-convert of libheif say.",
            ) from error
        if isinstance(error, OSError):
            found = not_an_image_error(path, raw[:32], error).found
        else:
            found = damaged_error(path, error).found
        raise UserError(found, path=path, remedy="Fetch or save it anew.") from error


def _guessed(path: Path, raw: bytes, mode: str) -> list[str]:
    """What is said of a JPEG in which libjpeg meets damage that it can bridge."""
    try:
        check_jpeg(path, raw, mode)
    except UserError as error:
        return [f"{error.found} It was predicted as viewers show it"]
    return []


def _decoded(path: Path, raw: bytes, header: Image.Image, notes: list[str]) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as stored but for a TIFF, which Pillow turns; adds to the notes."""
    kind = header.format
    direct = kind in ("JPEG", "MPO", "PNG") and header.mode in _DIRECT
    if direct and not header.has_transparency_data and is_complete(raw, kind):
        pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), _COLOR)
        if pixels is not None:
            return pixels
    header.load()
    if header.mode.startswith(("I", "F")):
        return _grey_of_16_bits(path, header, notes)
    image = header
    if image.has_transparency_data:
        image = _on_white(image.convert("RGBA"), notes)
    return np.array(image.convert("RGB"))  # of colours with 16 bits Pillow took the upper 8


def _on_white(image: Image.Image, notes: list[str]) -> Image.Image:
    """An image of mode RGBA without its transparency."""
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image
    notes.append("what is transparent in it was taken for white")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=alpha)
    return white


def _grey_of_16_bits(path: Path, image: Image.Image, notes: list[str]) -> np.ndarray:
    wide = image.mode == "I" and image.format in ("PNG", "PPM")  # how some Pillows hold 16 bits
    if not (image.mode.startswith("I;16") or wide):
        raise UserError(
            f"values of mode {image.mode}, whose range is not known; expected 8 or 16 bits.",
            path=path,
        )
    values = np.array(image).astype(np.uint16)
    if image.format == "TIFF" and image.tag_v2.get(_INTERPRETATION) == 0:
        values = 65535 - values  # as Pillow does where there are 8 bits
    brightest = int(values.max())
    if brightest < _DARK:
        notes.append(f"its brightest value is {brightest} of 65535, so it was seen as almost black")
    grey = cv2.convertScaleAbs(values, alpha=1 / 257)  # 65535 becomes 255
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


def _upright(pixels: np.ndarray, exif: int) -> np.ndarray:
    """Turned and mirrored as EXIF's orientation says; what is none of its values turns nothing."""
    if exif not in _TURNS:
        return pixels
    swap, rows, columns = _TURNS[exif]
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    return np.ascontiguousarray(pixels[::rows, ::columns])
