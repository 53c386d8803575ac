"""Pictures between the page and the models: decoded within bounds, encoded as data addresses."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segcoord.inference.photo import decode_photo, known_formats
from segcoord.utils.errors import UserError

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 16 * 10**6


class RefusedImage(UserError):
    """What the page tells its user; it names nothing of the machine that serves it."""


def decode(content: bytes) -> np.ndarray:
    """An uploaded file, read as `segcoord predict` reads it, so that it gets the same mask.

    Args:
        content: of the file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        Refusal: more bytes or pixels than are taken, or not an image.
    """
    if len(content) > MAX_BYTES:
        raise RefusedImage(
            f"The file has {len(content) / 2**20:.1f} MB; at most {MAX_BYTES // 2**20} are taken."
        )
    _check_pixels(content)
    try:
        return decode_photo(content, Path("upload")).pixels
    except UserError as error:
        raise RefusedImage(
            f"The file is not taken: {error.found} {error.remedy}".rstrip()
        ) from error


def _check_pixels(content: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = Image.open(io.BytesIO(content), formats=known_formats()).size
    except Image.DecompressionBombError as error:
        raise RefusedImage(
            f"The image has more than {MAX_PIXELS // 10**6} million pixels."
        ) from error
    except Exception:  # Pillow's readers raise all kinds; `decode_photo` says why
        return
    if width * height > MAX_PIXELS:
        raise RefusedImage(
            f"The image has {width} x {height} pixels, {width * height / 1e6:.0f} million; at "
            f"most {MAX_PIXELS // 10**6} million are taken. Scale it down."
        )


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
