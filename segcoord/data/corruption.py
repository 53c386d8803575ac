"""How it shows that an image file is not whole, and what is said of it.

That depends on its format. A PNG has checksums, which OpenCV looks at and Pillow does not for the
pixels, so that is done here. A JPEG has none: libjpeg notices some damage, which it tells on stderr
and fills with something; only simplejpeg hands that on.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import simplejpeg
from PIL import Image, UnidentifiedImageError

from segcoord.utils.errors import UserError

_PNG_START = 8  # bytes before the first chunk
DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a damaged file."""


def is_complete(raw: bytes, kind: str | None) -> bool:
    """False if the file's end marker is missing, which is how a truncated file shows cheaply."""
    if kind == "JPEG":
        return b"\xff\xd9" in raw[-64:]
    if kind == "PNG":
        return b"IEND" in raw[-64:]
    return False  # other formats take Pillow's way, which checks for itself


def not_an_image_error(path: Path, start: bytes, error: Exception) -> UserError:
    """What to say of a file that Pillow can't even open.

    Args:
        path: of the file.
        start: its first bytes; none if it can't be read at all.
        error: of Pillow or the system.
    """
    found = str(error)
    if isinstance(error, UnidentifiedImageError):
        found = "it is of no known format" if start else "the file is empty"
        if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
            found = "it is a web page, or other text in <...>"
    elif isinstance(error, OSError) and error.strerror:
        found = error.strerror
    return UserError(
        f"can't be read as an image: {found}.",
        path=path,
        remedy="Fetch it anew, or take it out of the split.",
        kind="files that are no images",
    )


def missing_error(path: Path) -> UserError:
    """What to say where there is no file."""
    link = path.is_symlink()
    return UserError(
        "a link to a file that is not there." if link else "no such file.",
        path=path,
        remedy=f"{'Mend the link' if link else 'Fetch it'}, or take it out of the split.",
        kind="missing files",
    )


def damaged_error(path: Path, found: object, remedy: str = "Fetch it anew.") -> UserError:
    """What to say of a file that begins as an image and doesn't go on so."""
    return UserError(
        f"truncated or damaged ({found}).",
        path=path,
        remedy=remedy,
        kind="damaged files",
    )


def check_png(path: Path, raw: bytes) -> None:
    """Raises UserError unless each chunk has its checksum and the last one is there.

    Source: the PNG specification, section 5.3: length, kind, data, CRC-32 of kind and data.
    """
    place, view = _PNG_START, memoryview(raw)
    while place + 8 <= len(raw):
        end = place + 8 + int.from_bytes(raw[place : place + 4], "big")
        kind, checksum = raw[place + 4 : place + 8], raw[end : end + 4]
        if len(checksum) < 4:
            break
        if zlib.crc32(view[place + 4 : end]) != int.from_bytes(checksum, "big"):
            raise damaged_error(
                path, f"the checksum of its chunk {kind.decode('latin-1')!r} is wrong"
            )
        if kind == b"IEND":
            return
        place = end + 4
    raise damaged_error(path, "its end is missing")


def check_jpeg(path: Path, raw: bytes, mode: str) -> None:
    """Raises UserError where libjpeg warns: of a part that it can't make sense of and guesses.

    Args:
        path: for the message.
        raw: the file.
        mode: Pillow's, for the image.
    """
    try:
        simplejpeg.decode_jpeg_header(raw)
    except ValueError:  # of a kind that its library doesn't take: rare subsampling, which is fine
        return
    try:
        # All of the file is read at an eighth of the size too, with less work for pixels.
        color = "CMYK" if mode == "CMYK" else "RGB"
        simplejpeg.decode_jpeg(raw, color, min_height=1, min_width=1, strict=True)
    except ValueError as error:
        remedy = "Fetch it anew; if its owner's copy is so too, save it anew as a program shows it."
        raise damaged_error(path, error, remedy) from error
