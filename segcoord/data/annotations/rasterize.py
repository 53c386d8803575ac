"""Draw shapes into a label map. A pixel belongs to a shape if its center is inside.

Shapes that share an edge therefore neither overlap nor leave a gap. `cv2.fillPoly` also draws the
outline, which adds half a pixel on all sides.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from segcoord.data.annotations.records import Shape
from segcoord.data.labels import VOID
from segcoord.utils.errors import UserError

UNLABELLED = 254
"""Value of pixels without a shape; classes have smaller ones."""
OVERLAPS = ("order", "smaller", "last", "error")
"""Which of two overlapping shapes is on top: by the tool's order, the smaller one, the later one in
the file; or an error."""

OVERLAP_PIXELS = "pixels where shapes of different classes overlap"
OVERLAP_IMAGES = "images where shapes of different classes overlap"
NOT_FINITE = "polygons with a coordinate that is not a finite number: left out"
TOO_FEW = "polygons with fewer than 3 points: left out"
CUT = "shapes that leave the image: cut at its border"
EMPTY = "shapes that contain the center of no pixel of the image: left out"
_SHIFT = 4  # fractional bits of the coordinates of lines
_FAR = 1 << 20  # pixels, from which coordinates are cut; OpenCV has 32-bit integers


class _Region(NamedTuple):
    """The pixels of a shape as runs in the flattened image, in rising order."""

    value: int  # of the label map
    shape: Shape
    starts: np.ndarray  # (N,) int64
    ends: np.ndarray  # (N,) int64, exclusive

    @property
    def area(self) -> int:
        return int((self.ends - self.starts).sum())


def draw_shapes(
    shapes: Sequence[Shape],
    indices: Mapping[str, int],
    size: tuple[int, int],
    overlap: str | None,
    counts: Counter[str],
) -> np.ndarray:
    """Draw shapes into a label map, (H, W) uint8.

    Args:
        shapes: of an image.
        indices: class index of each label; `UNLABELLED` for classes that are not chosen, which
            still cover what is below them.
        size: (H, W) of the image.
        overlap: one of `OVERLAPS`; None for the tool's order, or smaller if it has none.
        counts: counts what was left out, cut or decided, by its description.

    Returns:
        Class indices, `UNLABELLED` where no shape is, 255 where void shapes are on top.

    Raises:
        UserError: a label without an index; overlapping shapes of different classes with overlap
            error; no order with overlap order.
    """
    regions = _stacked(_regions(shapes, indices, size, counts), overlap)
    top = _paint(regions, size)
    covered = size[0] * size[1] - int(np.count_nonzero(top == UNLABELLED))
    if any(r.value == UNLABELLED for r in regions) or sum(r.area for r in regions) > covered:
        conflicts = _conflicts(regions, size)
        if conflicts and overlap == "error":
            raise _overlap_error(regions, size, conflicts)
        counts[OVERLAP_PIXELS] += conflicts
        counts[OVERLAP_IMAGES] += conflicts > 0
    return top


def polygon_mask(ring: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centers are inside a ring, (N, 2) float64: (H, W) bool."""
    mask = np.zeros(size[0] * size[1], bool)
    ((starts, ends),) = _polygon_runs([ring], [0], 1, size)
    for start, end in zip(starts.tolist(), ends.tolist()):
        mask[start:end] = True
    return mask.reshape(size)


def _regions(
    shapes: Sequence[Shape],
    indices: Mapping[str, int],
    size: tuple[int, int],
    counts: Counter[str],
) -> list[_Region]:
    """The pixels of each shape that has any, in the order of the shapes."""
    runs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    rings: list[np.ndarray] = []
    owners: list[int] = []
    for number, shape in enumerate(shapes):
        if not shape.void and shape.label not in indices:
            raise UserError(
                f"a shape of class {shape.label!r}, which is not among the classes of the export."
            )
        if shape.mask is not None:
            runs[number] = _mask_runs(shape.mask, shape.offset, size, counts)
            continue
        usable = _usable_rings(shape, size, counts)
        if not usable:
            continue
        if shape.stroke:
            runs[number] = _mask_runs(_line_mask(usable, shape.stroke, size), (0, 0), size, counts)
            continue
        rings += usable
        owners += [number] * len(usable)
    if rings:
        filled = _polygon_runs(rings, owners, len(shapes), size)
        runs |= {number: filled[number] for number in owners}
    regions = []
    for number, shape in enumerate(shapes):
        if number in runs and len(runs[number][0]):
            value = VOID if shape.void else indices[shape.label]
            regions.append(_Region(value, shape, *runs[number]))
        elif number in runs:
            counts[EMPTY] += 1
    return regions


def _usable_rings(shape: Shape, size: tuple[int, int], counts: Counter[str]) -> list[np.ndarray]:
    """The rings of a shape with finite coordinates and enough points."""
    usable = []
    cut = False
    for ring in shape.rings:
        if len(ring) < (2 if shape.stroke else 3):
            counts[TOO_FEW] += 1
            continue
        (x0, y0), (x1, y1) = ring.min(0).tolist(), ring.max(0).tolist()
        if not all(map(math.isfinite, (x0, y0, x1, y1))):
            counts[NOT_FINITE] += 1
            continue
        # Tools round to whole pixels, or let the last pixel's center be the border.
        cut |= x0 < -1 or y0 < -1 or x1 > size[1] + 1 or y1 > size[0] + 1
        usable.append(ring)
    counts[CUT] += cut
    return usable


def _polygon_runs(
    rings: Sequence[np.ndarray], owners: Sequence[int], shapes: int, size: tuple[int, int]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Runs of the pixels inside each shape, by the even-odd rule over its rings.

    Each edge crosses the center lines of some rows. The sorted crossings of a row begin and end its
    runs in turn.

    Args:
        rings: each (N, 2) float64.
        owners: index of the shape of each ring.
        shapes: number of shapes.
        size: (H, W).
    """
    height, width = size
    lengths = np.array([len(ring) for ring in rings])
    points = np.concatenate(rings).clip(-_FAR, _FAR)
    last = np.cumsum(lengths) - 1
    following = np.arange(1, len(points) + 1)
    following[last] = last - lengths + 1
    a, b = points, points[following]
    # From the upper to the lower end, so that shapes compute the same for an edge that they share.
    falls = (a[:, 1] < b[:, 1])[:, None]
    (x0, y0), (x1, y1) = np.where(falls, a, b).T, np.where(falls, b, a).T
    # Row r is crossed if y0 <= r + 0.5 < y1.
    first = np.ceil(y0 - 0.5).clip(0, height).astype(np.int64)
    stop = np.ceil(y1 - 0.5).clip(0, height).astype(np.int64)
    edges = np.flatnonzero(stop > first)
    rows_of = (stop - first)[edges]
    slopes = (x1[edges] - x0[edges]) / (y1[edges] - y0[edges])
    offsets = x0[edges] + (first[edges] + 0.5 - y0[edges]) * slopes
    base = (np.repeat(owners, lengths)[edges] * height + first[edges]) * (width + 1)
    step = np.arange(rows_of.sum()) - np.repeat(np.cumsum(rows_of) - rows_of, rows_of)
    x = np.repeat(offsets, rows_of) + step * np.repeat(slopes, rows_of)
    columns = np.ceil(x - 0.5).clip(0, width).astype(np.int64)
    keys = np.repeat(base, rows_of) + step * (width + 1) + columns
    keys.sort()
    starts, ends = keys[0::2], keys[1::2]
    used = starts < ends
    starts, runs = starts[used], (ends - starts)[used]
    owner, inside = np.divmod(starts, height * (width + 1))
    flat = inside - inside // (width + 1)  # rows of `width` pixels instead of `width` + 1 borders
    bounds = np.searchsorted(owner, np.arange(shapes + 1))
    pairs = itertools.pairwise(bounds.tolist())
    return [(flat[a:b], flat[a:b] + runs[a:b]) for a, b in pairs]


def _mask_runs(
    mask: np.ndarray, offset: tuple[int, int], size: tuple[int, int], counts: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Runs of the true pixels of a mask, cut at the border of the image."""
    x, y = offset
    inside = mask[max(0, -y) : max(0, size[0] - y), max(0, -x) : max(0, size[1] - x)]
    if inside.shape != mask.shape:
        counts[CUT] += int(np.count_nonzero(inside)) < int(np.count_nonzero(mask))
    height, width = inside.shape
    padded = np.zeros((height, width + 2), bool)
    padded[:, 1:-1] = inside
    changes = np.flatnonzero(padded[:, 1:] != padded[:, :-1])
    rows, columns = np.divmod(changes, width + 1)
    flat = (rows + max(0, y)) * size[1] + columns + max(0, x)
    return flat[0::2], flat[1::2]


def _line_mask(rings: Sequence[np.ndarray], stroke: float, size: tuple[int, int]) -> np.ndarray:
    """The pixels of open lines of a width in pixels: (H, W) bool."""
    mask = np.zeros(size, np.uint8)
    width = max(1, min(round(stroke), max(size)))
    for ring in rings:  # OpenCV's whole coordinates are the centers of pixels
        points = np.rint((ring - 0.5).clip(-_FAR, _FAR) * (1 << _SHIFT)).astype(np.int32)
        cv2.polylines(mask, [points], False, 1, width, cv2.LINE_8, _SHIFT)
    return mask.astype(bool)


def _stacked(regions: list[_Region], overlap: str | None) -> list[_Region]:
    """The regions from the bottom to the top."""
    ordered = any(region.shape.order is not None for region in regions)
    if overlap is None:
        overlap = "order" if ordered else "smaller"
    if overlap == "order":
        if regions and not ordered:
            raise UserError(
                "the format has no order of shapes, which --overlap order asks for.",
                remedy="Use --overlap smaller, last or error.",
                kind="shapes without an order",
            )
        return sorted(regions, key=lambda r: -1 if r.shape.order is None else r.shape.order)
    if overlap == "smaller":
        return sorted(regions, key=lambda r: -r.area)
    return regions


def _conflicts(regions: Sequence[_Region], size: tuple[int, int]) -> int:
    """Number of pixels with shapes of two different classes or more."""
    pixels = size[0] * size[1]
    values = np.repeat([r.value for r in regions], [len(r.starts) for r in regions]) * pixels
    starts = np.concatenate([r.starts for r in regions]) + values
    ends = np.concatenate([r.ends for r in regions]) + values
    order = np.argsort(starts)
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    # Runs of a class that touch become one, so that the depth below counts classes.
    new = starts[1:] > ends[:-1]
    starts = starts[np.append(True, new)] % pixels
    ends = (ends[np.append(new, True)] - 1) % pixels + 1
    places = np.concatenate([starts, ends])
    order = np.argsort(places)
    depth = np.cumsum(np.where(order < len(starts), 1, -1))
    return int(np.diff(places[order])[depth[:-1] > 1].sum())


def _paint(regions: Sequence[_Region], size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 with the value of the last region at each pixel."""
    flat = np.full(size[0] * size[1], UNLABELLED, np.uint8)
    pixels = memoryview(flat)  # faster than slices of the array
    for region in regions:
        values = memoryview(bytes([region.value]) * size[1])
        for start, end in zip(region.starts.tolist(), region.ends.tolist()):
            pixels[start:end] = values[: end - start]
    return flat.reshape(size)


def _overlap_error(regions: Sequence[_Region], size: tuple[int, int], conflicts: int) -> UserError:
    names = ["void" if r.shape.void else r.shape.label for r in regions]
    values = np.array([r.value for r in regions])
    below = np.full(size[0] * size[1], -1)  # index of the last region at each pixel
    first = None
    for index, region in enumerate(regions):
        for start, end in zip(region.starts.tolist(), region.ends.tolist()):
            part = below[start:end]
            other = np.flatnonzero((part >= 0) & (values[part] != region.value))
            if len(other) and first is None:
                first = int(part[other[0]]), index, start + int(other[0])
            part[:] = index
    a, b, (y, x) = names[first[0]], names[first[1]], divmod(first[2], size[1])
    return UserError(
        f"shapes of {a!r} and {b!r} overlap at x={x}, y={y}; {conflicts} pixels have shapes of "
        "different classes (--overlap error).",
        remedy="Correct the shapes, or choose which is on top with --overlap smaller, last or "
        "order.",
        kind="overlapping shapes",
    )
