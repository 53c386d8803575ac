"""Images and masks as arrays, refusing whatever would silently train something wrong.

Images are decoded by OpenCV, which is fast, after looking for what it hands out silently in some
version: a truncated file, a CMYK or a 16-bit one. Masks are decoded by Pillow, because OpenCV turns
palette indices into colours. Nothing here rotates by EXIF: masks are drawn on the pixels as stored.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segcoord.errors import UserError
from segcoord.labels import UNKNOWN, LabelSet

_IMAGE_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
_DIRECT_MODES = {"L", "RGB"}  # what OpenCV decodes as Pillow does
_PNG_DEPTH, _PNG_COLOR = 24, 25  # where IHDR has the bits per sample and the kind of colour
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a damaged file."""
_DECODE = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Grey, palette and CMYK images are converted, alpha is dropped.

    Raises:
        UserError: unreadable, truncated, or more than 8 bits per channel.
    """
    raw, header = _open(path)
    check_image_depth(path, header, raw)
    if header.mode in _DIRECT_MODES and is_complete(raw, header.format):
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), _DECODE)
        if image is not None:
            return image
    return np.array(_decode(path, header).convert("RGB"))


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) from the header; UserError where there is none."""
    try:
        with Image.open(path) as header:
            return header.size[::-1]
    except UNREADABLE as error:
        raise UserError(f"{path}: can't be read as an image: {error}") from error


def read_mask(path: Path, labels: LabelSet, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W) uint8 class indices, 255 where void.

    Args:
        path: an 8-bit palette or grey file.
        labels: which mask value stands for which class.
        size: (H, W) of the image that the mask belongs to.

    Raises:
        UserError: unreadable, not a map of ids, of another size, or with values of no class.
    """
    values = read_mask_values(path)
    if size is not None and values.shape != tuple(size):
        raise UserError(size_message(path, values.shape, size))
    indices = cv2.LUT(values, labels.to_index)
    if (indices == UNKNOWN).any():
        raise UserError(f"{path}: {diagnose(np.bincount(values.ravel(), minlength=256), labels)}")
    return indices


def read_mask_values(path: Path) -> np.ndarray:
    """(H, W) uint8: the values as the file holds them, palette indices not colours."""
    raw, header = _open(path)
    check_mask_mode(path, header.mode)
    if header.format == "PNG" and raw[_PNG_COLOR] == 0 and raw[_PNG_DEPTH] in (2, 4):
        raise UserError(
            f"{path}: a grey mask of {raw[_PNG_DEPTH]} bits, whose ids would be read as shades; "
            "expected 8 bits. Save it as an 8-bit grey or a palette PNG."
        )
    return np.array(_decode(path, header)).astype(np.uint8, copy=False)


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
            f"{path}: an image of mode {header.mode} with more than 8 bits per channel, "
            "expected 8. Convert it once, choosing how its range maps to 0..255."
        )


def check_mask_mode(path: Path, mode: str) -> None:
    """Raises UserError unless a mask of this Pillow mode can be a map of ids."""
    if mode not in {"P", "L", "1"}:
        kind = "a colour picture" if mode.startswith(("RGB", "CMYK", "LA")) else "not 8 bits deep"
        raise UserError(
            f"{path}: a mask of mode {mode} ({kind}), expected one 8-bit class id per pixel "
            "(a palette or grey PNG). Write the class ids instead of their colours."
        )


def size_message(path: Path, mask: tuple[int, ...], image: tuple[int, int]) -> str:
    """What to say of a mask whose (H, W) isn't its image's."""
    hint = ""
    if tuple(mask) == tuple(image)[::-1]:
        hint = " They are each other's transpose: was the image rotated by its EXIF tag?"
    return (
        f"{path}: the mask is {mask[1]}x{mask[0]} (width x height), its image "
        f"{image[1]}x{image[0]}; they must agree.{hint}"
    )


def diagnose(histogram: np.ndarray, labels: LabelSet) -> str:
    """Names the mask values that no class claims, and the likely mistake.

    Args:
        histogram: (256,) pixel counts by mask value.
        labels: the classes that were expected.
    """
    found = [int(v) for v in np.flatnonzero(histogram)]
    unknown = [v for v in found if labels.to_index[v] == UNKNOWN]
    pixels = int(histogram[unknown].sum())
    ids = sorted(c.id for c in labels.classes)
    expected = f"{ids[0]} to {ids[-1]}" if ids == list(range(len(ids))) else str(ids)
    shown = ", ".join(map(str, unknown[:8])) + (", ..." if len(unknown) > 8 else "")
    k = len(labels)
    if len(found) == 2 and found[0] == 0 and found[1] >= 127:
        hint = "It looks like a 0/255 binary mask: write 0 and 1, for 255 is void."
    elif ids == list(range(19)) and unknown != [19] and max(unknown) <= 33:
        hint = "It looks like raw Cityscapes label ids: use layout cityscapes, which maps them."
    elif unknown == [k] and 0 not in found:
        hint = f"It looks as if its ids count from 1: subtract 1, or give the classes ids 1 to {k}."
    elif len(found) > 40:
        hint = "So many values look like a grey photograph, or colours that were made grey."
    else:
        hint = "Correct the mask, or name the values in data.classes (id) or data.void_ids."
    return (
        f"mask values {shown} ({pixels} pixels) belong to no class; "
        f"expected {expected} and 255 for void. {hint}"
    )


def is_complete(raw: bytes, kind: str | None) -> bool:
    """False if the file's end marker is missing, which is how a truncated file shows cheaply."""
    if kind == "JPEG":
        return b"\xff\xd9" in raw[-64:]
    if kind == "PNG":
        return b"IEND" in raw[-64:]
    return False  # other formats take Pillow's way, which checks for itself


def _open(path: Path) -> tuple[bytes, Image.Image]:
    try:
        raw = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return raw, Image.open(io.BytesIO(raw))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: can't be read as an image: {error}") from error


def _decode(path: Path, header: Image.Image) -> Image.Image:
    try:
        header.load()
    except UNREADABLE as error:
        raise UserError(f"{path}: truncated or damaged ({error}). Fetch it anew.") from error
    return header
