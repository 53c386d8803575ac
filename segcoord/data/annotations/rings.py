"""Rings of points, boxes and ellipses, and parts of masks.

Coordinates are continuous, y points down, and angles are in degrees clockwise as seen.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segcoord.data.annotations.source_files import shown
from segcoord.utils.errors import UserError

_TOLERANCE = 0.05  # largest distance in pixels between an ellipse and its ring
_MAX_POINTS = 4096


def rotate(ring: np.ndarray, degrees: float, pivot: tuple[float, float]) -> np.ndarray:
    """Turn a ring (N, 2) around a point."""
    if degrees == 0:
        return ring
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (ring - pivot) @ np.array([[cos, sin], [-sin, cos]]) + pivot


def box_ring(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """The corners (4, 2) of a box, clockwise from the top left."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)


def ellipse_ring(
    center: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> np.ndarray:
    """Points (N, 2) on an ellipse of finite radii, at most 0.05 pixels from it in between.

    N is a multiple of 4, and the first point is the end of the first radius.
    """
    # N segments on a circle deviate by less than radius * (pi / N)^2 / 2.
    quarter = math.ceil(math.pi * math.sqrt(max(map(abs, radii)) / (2 * _TOLERANCE)) / 4)
    count = min(4 * max(quarter, 2), _MAX_POINTS)
    angles = np.linspace(0, 2 * math.pi, count, endpoint=False)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii + center
    return rotate(points, degrees, center)


def paired_ring(points: object, where: str) -> np.ndarray:
    """Convert [[x, y], ...] to (N, 2) float64; raise UserError for another structure."""
    if points == []:
        return np.empty((0, 2))
    try:
        ring = np.array(points, np.float64)
    except (TypeError, ValueError, OverflowError):
        ring = np.empty(0)
    if ring.ndim != 2 or ring.shape[1] != 2:
        raise UserError(f"found {shown(points)}, expected points [[x, y], ...].", path=where)
    return ring


def flat_ring(values: object, where: Path | str) -> np.ndarray:
    """Convert [x, y, x, y, ...] to (N, 2) float64; UserError for anything but finite numbers."""
    is_list = isinstance(values, Sequence)
    if not is_list or len(values) % 2 or not all(map(_is_finite, values)):
        raise UserError(
            f"found {shown(values)}, expected a list of finite numbers: x and y of each point.",
            path=where,
        )
    return np.array(values, np.float64).reshape(-1, 2)


def _is_finite(value: object) -> bool:
    """Whether a value of a JSON file is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def crop_mask(mask: np.ndarray) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Cut an (H, W) bool mask to its bounding box.

    Returns:
        The (h, w) part, and the column and row of its top left pixel; None for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return part.copy(), (int(columns[0]), int(rows[0]))
