"""Rasterize polygons plainly, to compare with what is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def winding(rings: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(H, W) int: how often rings wind around each pixel's center.

    Not 0 is inside by the nonzero rule, and odd is inside by the even-odd rule.
    """
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    count = np.zeros(size, int)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0)):
            if y0 != y1:
                at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                count += ((y > y0).astype(int) - (y > y1)) * (x < at)
    return count
