"""The EXIF orientation of photos, and what `data.exif` does with it."""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from segcoord.utils.errors import UserError

_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_TURNS = {  # EXIF orientation: whether to transpose, then the steps along rows and columns
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}

Exif = Literal["turn", "ignore", "error"]
"""What `data.exif` does with an image whose EXIF orientation is not 1 (upright)."""


def exif_orientation(header: Image.Image) -> int:
    """The EXIF orientation, 1 if absent; ignores a PNG's EXIF chunk after the pixel data."""
    if header.format not in ("JPEG", "MPO", "WEBP") and "exif" not in header.info:
        return 1
    try:
        return int(header.getexif().get(_ORIENTATION, 1) or 1)
    except Exception:  # malformed EXIF, which image viewers ignore too
        return 1


def swaps_axes(orientation: int) -> bool:
    """Whether an orientation swaps height and width."""
    return orientation in _TURNS and _TURNS[orientation][0]


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation to (H, W, 3) pixels; invalid values are ignored."""
    if orientation not in _TURNS:
        return pixels
    transpose, row_step, column_step = _TURNS[orientation]
    pixels = pixels.swapaxes(0, 1) if transpose else pixels
    return np.ascontiguousarray(pixels[::row_step, ::column_step])


def allowed_orientation(path: Path, header: Image.Image, exif: Exif) -> int:
    """The EXIF orientation; raises UserError if `exif` is error and the image is not upright."""
    orientation = exif_orientation(header)
    if exif == "error" and orientation in _TURNS:
        raise UserError(
            f"has EXIF orientation {orientation}, expected upright images (data.exif: error).",
            path=path,
            remedy="Set data.exif to turn if the mask was drawn on the image as viewers show it, "
            "to ignore if it was drawn on the stored pixels.",
            kind="images with an EXIF orientation",
        )
    return orientation
