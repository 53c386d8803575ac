"""Pictures between the page and the models: decoded within bounds, encoded as data addresses."""

from __future__ import annotations

import base64
import io
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps

from segcoord.data.damage import UNREADABLE
from segcoord.errors import UserError

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 16 * 10**6
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"}


class Refusal(UserError):
    """What the page tells its user; it names nothing of the machine that serves it."""


def decode(content: bytes) -> np.ndarray:
    """An uploaded file as viewers show it: EXIF's orientation honoured, transparency dropped.

    Args:
        content: of the file.

    Returns:
        (H, W, 3) uint8 RGB; the first picture of several, the upper 8 bits of 16.

    Raises:
        Refusal: more bytes or pixels than are taken, or not an image.
    """
    if len(content) > MAX_BYTES:
        raise Refusal(
            f"The file has {len(content) / 2**20:.1f} MB; at most {MAX_BYTES // 2**20} are taken."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise Refusal(
                f"The image has {width} x {height} pixels, {width * height / 1e6:.0f} million; at "
                f"most {MAX_PIXELS // 10**6} million are taken. Scale it down."
            )
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I;16"):
            return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, 2)
        if picture.mode not in _MODES:
            raise Refusal(f"The image has pixels of kind {picture.mode}; expected 8 or 16 bits.")
        return np.array(picture.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise Refusal(f"The image has more than {MAX_PIXELS // 10**6} million pixels.") from error
    except UNREADABLE as error:
        raise Refusal(
            "The file is not an image that can be read. JPEG, PNG, WebP, BMP, TIFF and GIF are."
        ) from error


def encode(picture: np.ndarray | Image.Image) -> str:
    """A data address: a PNG of a Pillow image or of (H, W) uint8, a JPEG of (H, W, 3) RGB."""
    if isinstance(picture, Image.Image):
        content = io.BytesIO()
        picture.save(content, format="PNG", compress_level=2)
        return _address("png", content.getvalue())
    if picture.ndim == 2:
        return _address("png", cv2.imencode(".png", picture)[1])
    options = [cv2.IMWRITE_JPEG_QUALITY, 92]
    return _address("jpeg", cv2.imencode(".jpg", picture[..., ::-1], options)[1])


def thumbnail(image: np.ndarray, height: int = 96) -> str:
    """A data address of (H, W, 3) uint8 RGB made so high."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return encode(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _address(kind: str, content: bytes | np.ndarray) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
