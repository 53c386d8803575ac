"""Rings of boxes and ellipses.

Coordinates are continuous, y points down, and angles are in degrees clockwise as seen.
"""

from __future__ import annotations

import math

import numpy as np

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
