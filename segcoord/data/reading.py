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

from segcoord.data.diagnosis import CONVERT, unknown_values
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
        raise other_size(path, values.shape, size)
    indices = cv2.LUT(values, labels.to_index)
    if (indices == UNKNOWN).any():
        raise unknown_values(path, np.bincount(values.ravel(), minlength=256), labels)
    return indices


def read_mask_values(path: Path) -> np.ndarray:
    """(H, W) uint8: the values as the file holds them, palette indices not colours."""
    return read_mask_palette(path)[0]


def read_mask_palette(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """As `read_mask_values`, and the palette: (N, 3) uint8 RGB, None for a grey mask."""
    raw, header = _open(path)
    check_mask_mode(path, header.mode)
    if header.format == "PNG" and raw[_PNG_COLOR] == 0 and raw[_PNG_DEPTH] in (2, 4):
        raise UserError(
            f"a grey mask of {raw[_PNG_DEPTH]} bits, whose ids would be read as shades; "
            "expected 8 bits.",
            path=path,
            remedy="Save it as an 8-bit grey or a palette PNG.",
            kind="masks that are not 8 bits deep",
        )
    values = np.array(_decode(path, header)).astype(np.uint8, copy=False)
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
    mistake = {"path": path, "kind": "masks without exact colours"}
    if header.format in ("JPEG", "WEBP"):
        raise UserError(
            f"a {header.format} file, whose compression changes colours; expected a PNG.",
            remedy="Take the masks as they were before.",
            **mistake,
        )
    if header.mode not in {"P", "RGB", "RGBA"}:
        raise UserError(
            f"a mask of mode {header.mode}, expected colours (RGB, RGBA or a palette).",
            remedy="If its values are ids already, it needs no conversion; segcoord data check "
            "tells. If its colours were made grey, take the masks as they were before.",
            **mistake,
        )
    colors = np.array(_decode(path, header).convert("RGBA"))
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
    if mode not in {"P", "L", "1"}:
        colored = mode.startswith(("RGB", "CMYK", "LA"))
        kind = "a colour picture" if colored else "not 8 bits deep"
        raise UserError(
            f"a mask of mode {mode} ({kind}), expected one 8-bit class id per pixel "
            "(a palette or grey PNG).",
            path=path,
            remedy=f"Write the class ids instead of their colours: {CONVERT}"
            if colored
            else "Save it with 8 bits.",
            kind="masks in colours" if colored else "masks that are not 8 bits deep",
        )


def other_size(path: Path, mask: tuple[int, ...], image: tuple[int, int]) -> UserError:
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


def is_complete(raw: bytes, kind: str | None) -> bool:
    """False if the file's end marker is missing, which is how a truncated file shows cheaply."""
    if kind == "JPEG":
        return b"\xff\xd9" in raw[-64:]
    if kind == "PNG":
        return b"IEND" in raw[-64:]
    return False  # other formats take Pillow's way, which checks for itself


def not_an_image(path: Path, error: Exception) -> UserError:
    """What to say of a file that Pillow can't even open."""
    return UserError(
        f"can't be read as an image: {error}.",
        path=path,
        remedy="Fetch it anew, or take it out of the split.",
        kind="files that are no images",
    )


def _open(path: Path) -> tuple[bytes, Image.Image]:
    try:
        raw = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return raw, Image.open(io.BytesIO(raw))
    except FileNotFoundError:
        raise UserError("no such file", path=path, kind="missing files") from None
    except UNREADABLE as error:
        raise not_an_image(path, error) from error


def _decode(path: Path, header: Image.Image) -> Image.Image:
    try:
        header.load()
    except UNREADABLE as error:
        raise UserError(
            f"truncated or damaged ({error}).",
            path=path,
            remedy="Fetch it anew.",
            kind="damaged files",
        ) from error
    return header
