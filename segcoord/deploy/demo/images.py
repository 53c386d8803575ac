"""Decodes uploads within size limits and encodes images as data URLs."""

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


class RequestError(UserError):
    """A request that the page can't fulfill; the page shows the message, so it names no path."""


def decode(content: bytes) -> np.ndarray:
    """Decodes an uploaded file as `segcoord predict` does.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        RequestError: over MAX_BYTES or MAX_PIXELS, or not a supported image.
    """
    if len(content) > MAX_BYTES:
        raise RequestError(
            f"The file has {len(content) / 2**20:.1f} MB; the limit is {MAX_BYTES // 2**20} MB."
        )
    _check_pixels(content)
    try:
        return decode_photo(content, Path("upload")).pixels
    except UserError as error:
        raise RequestError(
            f"The file can't be used: {error.found} {error.remedy}".rstrip()
        ) from error


def _check_pixels(content: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = Image.open(io.BytesIO(content), formats=known_formats()).size
    except Image.DecompressionBombError as error:
        raise RequestError(
            f"The image has more than {MAX_PIXELS // 10**6} million pixels."
        ) from error
    except Exception:  # Pillow raises many types; `decode_photo` reports the reason
        return
    if width * height > MAX_PIXELS:
        raise RequestError(
            f"The image has {width} x {height} pixels, {width * height / 1e6:.0f} million; the "
            f"limit is {MAX_PIXELS // 10**6} million. Downscale it."
        )


def encode(image: np.ndarray | Image.Image) -> str:
    """A data URL: a PNG of a Pillow image or of (H, W) uint8, a JPEG of (H, W, 3) uint8 RGB."""
    if isinstance(image, Image.Image):
        content = io.BytesIO()
        image.save(content, format="PNG", compress_level=2)
        return _data_url("png", content.getvalue())
    if image.ndim == 2:
        return _data_url("png", cv2.imencode(".png", image)[1])
    options = [cv2.IMWRITE_JPEG_QUALITY, 92]
    return _data_url("jpeg", cv2.imencode(".jpg", image[..., ::-1], options)[1])


def thumbnail(image: np.ndarray, height: int = 96) -> str:
    """A data URL of (H, W, 3) uint8 RGB, resized to `height`."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return encode(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def _data_url(kind: str, content: bytes | np.ndarray) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
