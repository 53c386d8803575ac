"""A contact sheet: one row per image, with a caption beside pictures of equal width."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from segcoord.data.labels import LabelSet
from segcoord.inference.visualize import INK, PAPER, sheet
from segcoord.utils.fonts import load_font

WIDTH = 320
"""Pixels of a picture and of its caption."""

TALLEST = 1.5
"""Height / width of a row; taller pictures get narrower. The JPEG of 100 rows, the highest --top,
stays below the format's limit of 65535 rows of pixels."""

_TEXT, _CHARACTERS, _MARGIN = 14, 38, 8
_OUTLINE = ((0, 0, 0), 4), ((255, 255, 0), 2)  # colors and widths, from below


def contact_sheet(
    rows: Sequence[tuple[Sequence[str], Sequence[np.ndarray]]],
    titles: Sequence[str],
    labels: LabelSet,
) -> np.ndarray:
    """Draws the rows below the titles, with a legend of the classes.

    Args:
        rows: the paragraphs of the caption, and (H, W, 3) uint8 RGB pictures from `fitted`, all of
            the same size.
        titles: of the pictures.
        labels: the classes of the legend.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    drawn = [[_caption(text, pictures[0].shape[0]), *pictures] for text, pictures in rows]
    return sheet(drawn, ("", *titles), labels, width=WIDTH)


def fitted(picture: np.ndarray) -> np.ndarray:
    """Scales (H, W, 3) uint8 RGB to `WIDTH`, or to the tallest row with margins at its sides."""
    height, width = picture.shape[:2]
    scale = _scale((height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(np.ascontiguousarray(picture), size, interpolation=method)
    left = (WIDTH - size[0]) // 2
    sides = left, WIDTH - size[0] - left
    return cv2.copyMakeBorder(scaled, 0, 0, *sides, cv2.BORDER_CONSTANT, value=PAPER)


def outline(picture: np.ndarray, mask: np.ndarray) -> None:
    """Draws the outline of a region, and a box around it, on a picture from `fitted`.

    Args:
        picture: (h, `WIDTH`, 3) uint8 RGB, changed in place.
        mask: (H, W) uint8 at the size that the picture had before, 1 in the region.
    """
    scale = _scale(mask.shape)
    shift = (WIDTH - max(1, round(mask.shape[1] * scale))) // 2, 0
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    lines = [((c + 0.5) * scale + shift).round().astype(np.int32) for c in contours]
    if not lines:
        return
    x, y, width, height = cv2.boundingRect(np.concatenate(lines))
    corners = (x - 5, y - 5), (x + width + 4, y + height + 4)
    for color, thickness in _OUTLINE:
        cv2.rectangle(picture, *corners, color, thickness)
        cv2.polylines(picture, lines, True, color, thickness // 2)


def _scale(size: tuple[int, ...]) -> float:
    """Of a picture of size (H, W) on the sheet."""
    height, width = size
    return min(WIDTH / width, TALLEST * WIDTH / height)


def _caption(paragraphs: Sequence[str], height: int) -> np.ndarray:
    """(height, `WIDTH`, 3) uint8 RGB; lines that don't fit are cut off."""
    page = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(page)
    y = _MARGIN
    for paragraph in paragraphs:
        for line in textwrap.wrap(paragraph, _CHARACTERS):
            draw.text((0, y), line, INK, load_font(line, _TEXT))
            y += round(1.4 * _TEXT)
    return np.asarray(page)
