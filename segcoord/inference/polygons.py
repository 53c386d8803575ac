"""Convert a class mask to polygons, and polygons to run lengths. Imports no torch.

Coordinates are continuous: the pixel in column x and row y covers [x, x + 1) x [y, y + 1), so the
boundary between two regions runs along the edges of pixels. All boundaries of a mask are traced at
once with NumPy: a corner is a point where a boundary turns or where three or four regions meet, a
half-edge leads from a corner along a boundary to the next one with a region on its right, and the
pixels around its end say which half-edge of this region follows. `_trace` needs a loop in Python
only to put the half-edges into the order of their cycles.

Two neighbors share the part of their boundaries between two corners where more than two regions
meet. It is simplified once, so that the polygons of neighbors leave no gap and don't overlap.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from segcoord.data.image_io import histogram


@dataclass(frozen=True, slots=True)
class Region:
    """Connected pixels of a class; pixels that touch at a corner are connected."""

    index: int
    """Its class index."""
    pixels: int
    """Its number of pixels, before the simplification."""
    rings: tuple[np.ndarray, ...]
    """The outer boundary, clockwise as displayed, then those of the holes, counterclockwise. Each
    (N, 2) int64, x and y of the vertices, which are corners of pixels, N >= 3. A pixel is inside if
    its center is, by the even-odd rule over all rings."""
    score: float | None
    """Mean probability of its class over its pixels, 0 to 1, or None."""


class Regions(NamedTuple):
    """The regions of an image, by class index, and the number of dropped ones."""

    regions: list[Region]
    dropped: int


def find_regions(
    classes: np.ndarray,
    tolerance: float = 0.0,
    min_area: int = 0,
    skipped: Collection[int] = (),
    probabilities: np.ndarray | None = None,
) -> Regions:
    """Convert a class mask to polygons with holes, one for each connected region.

    Args:
        classes: (H, W) uint8 class indices.
        tolerance: largest distance in pixels of the boundary of a region from its polygon, by the
            algorithm of Douglas and Peucker, 1973. At 0, a polygon covers exactly its pixels. A
            region whose polygon would have no area keeps its exact boundary.
        min_area: regions of fewer pixels are dropped: the neighbor with the longest common boundary
            takes their pixels, so that they leave no holes. If all regions are smaller, none is
            left.
        skipped: class indices whose regions are left out.
        probabilities: (K, H, W), for the scores of the regions.
    """
    dropped: list[int] = []
    if min_area > 1:
        classes, dropped = _absorb_small(classes, min_area)
    components, class_of = _label(classes)
    boundaries = _trace(components)
    cycles = _simplify(boundaries, tolerance)
    areas = boundaries.areas
    owner = boundaries.right[boundaries.begins]
    order = np.lexsort((-areas, owner))
    pixels = np.bincount(owner, weights=areas).astype(int).tolist()
    scores = _scores(classes, components, probabilities)
    regions = []
    for group in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
        component = int(owner[group[0]])
        index = int(class_of[component])
        if pixels[component] < min_area:
            dropped.append(index)
        elif index not in skipped:
            rings = tuple(cycles[cycle] for cycle in group)
            score = None if scores is None else float(scores[component])
            regions.append(Region(index, pixels[component], rings, score))
    return Regions(regions, sum(index not in skipped for index in dropped))


def join_rings(rings: tuple[np.ndarray, ...]) -> np.ndarray:
    """Join the rings of a region to one, for formats whose polygons have no holes.

    A line from the leftmost vertex of each hole to the boundary on its left is passed in both
    directions. It has no width: by the even-odd rule and by the nonzero rule, the same pixels are
    inside.

    Args:
        rings: of a `Region`.

    Returns:
        (N, 2) float64, x and y.
    """
    joined = rings[0].astype(float)
    for ring in sorted(rings[1:], key=lambda ring: ring[:, 0].min()):
        hole = np.roll(ring, -np.lexsort((ring[:, 1], ring[:, 0]))[0], axis=0).astype(float)
        x, y = hole[0]
        ends = np.roll(joined, -1, axis=0)
        rise = ends[:, 1] - joined[:, 1]
        share = (y - joined[:, 1]) / np.where(rise == 0, 1, rise)
        at = joined[:, 0] + share * (ends[:, 0] - joined[:, 0])
        hits = (rise != 0) & (share >= 0) & (share <= 1) & (at <= x)
        if hits.any():
            k = int(np.argmax(np.where(hits, at, -np.inf)))
            joint = np.array([at[k], y])
        else:  # a simplified hole may leave the outer boundary
            k = int(np.argmin(np.hypot(*(joined - hole[0]).T)))
            joint = joined[k]
        parts = [joined[: k + 1], [joint], hole, hole[:1], [joint], joined[k + 1 :]]
        joined = np.concatenate(parts)
        joined = joined[np.any(joined != np.roll(joined, 1, axis=0), axis=1)]
    return joined


def run_lengths(rings: tuple[np.ndarray, ...], size: tuple[int, int]) -> list[int]:
    """Rasterize a region as COCO's uncompressed run lengths, by the even-odd rule.

    Args:
        rings: of a `Region`.
        size: (H, W) of the image.

    Returns:
        Lengths of the runs outside and inside in turn, column by column from the left; the first
        one is outside and may be 0.
    """
    height, width = size
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    swapped = (starts[:, 0] > ends[:, 0])[:, None]
    (x0, y0), (x1, y1) = np.where(swapped, ends, starts).T, np.where(swapped, starts, ends).T
    edge = np.repeat(np.arange(len(x0)), x1 - x0)  # once for each column center that it crosses
    column = np.arange(len(edge)) - np.repeat(np.cumsum(x1 - x0) - (x1 - x0), x1 - x0) + x0[edge]
    # In whole numbers, so that neighbors share no pixel: the center of the first row below it.
    rise, run = (y1 - y0)[edge], (x1 - x0)[edge]
    row = y0[edge] - ((run - (2 * (column - x0[edge]) + 1) * rise) // (2 * run))
    places, counts = np.unique(column * height + row, return_counts=True)
    toggles = places[counts % 2 == 1]
    lengths = np.diff(np.concatenate([[0], toggles, [height * width]]))
    return lengths[: len(lengths) - (lengths[-1] == 0)].tolist()


class _Boundaries(NamedTuple):
    """The boundaries of all components, as cycles of half-edges."""

    corners: np.ndarray  # (n, 2) int64, x and y
    fixed: np.ndarray  # (n,) bool: where more than two components meet, and the image's corners
    path: np.ndarray  # (m,) the corners of all cycles, one cycle after the other
    right: np.ndarray  # (m,) the component to the right of the half-edge that leaves each of them
    left: np.ndarray  # (m,) and to its left; 0 is outside of the image
    ends: np.ndarray  # (k,) where each cycle ends in `path`

    @property
    def begins(self) -> np.ndarray:
        return np.concatenate([[0], self.ends[:-1]])

    @property
    def cycle(self) -> np.ndarray:
        """(m,) the cycle of each element of `path`."""
        return np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))

    @property
    def areas(self) -> np.ndarray:
        """(k,) float64, the area that each cycle encloses, negative for holes."""
        return _doubled_areas(self.corners[self.path], self.cycle, len(self.ends)) / 2


def _label(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected components from 1.

    Returns:
        (H + 2, W + 2) int32, 0 around the image; the class of each number, uint8, 255 for 0.
    """
    padded = np.zeros((classes.shape[0] + 2, classes.shape[1] + 2), np.int32)
    inside, class_of = padded[1:-1, 1:-1], [255]
    for index in np.flatnonzero(histogram(classes)).tolist():
        count, labels = cv2.connectedComponents((classes == index).astype(np.uint8), connectivity=8)
        np.add(labels, len(class_of) - 1, out=inside, where=labels > 0)
        class_of += [index] * (count - 1)
    return padded, np.array(class_of, np.uint8)


def _absorb_small(classes: np.ndarray, min_area: int) -> tuple[np.ndarray, list[int]]:
    """Give small components to neighbors; returns the new classes, and the classes of the small."""
    dropped: list[int] = []
    while True:
        components, class_of = _label(classes)
        inside = components[1:-1, 1:-1]
        small = np.bincount(inside.ravel(), minlength=len(class_of)) < min_area
        pairs = []
        for a, b in ((inside[:, :-1], inside[:, 1:]), (inside[:-1], inside[1:])):
            border = a != b
            pairs += [np.stack([a[border], b[border]]), np.stack([b[border], a[border]])]
        old, new = np.concatenate(pairs, axis=1).astype(np.int64)
        joins = small[old] & ~small[new]
        keys, lengths = np.unique(old[joins] * len(small) + new[joins], return_counts=True)
        if not len(keys):
            return classes, dropped
        old, new = np.divmod(keys, len(small))
        order = np.lexsort((-lengths, old))
        longest = order[np.unique(old[order], return_index=True)[1]]
        old, new = old[longest], new[longest]
        dropped += class_of[old].tolist()
        class_of[old] = class_of[new]
        classes = class_of[inside]


def _trace(components: np.ndarray) -> _Boundaries:
    """Trace the boundaries of components, (H + 2, W + 2) with 0 around them.

    Directions are 0 east, 1 south, 2 west, 3 north. A half-edge is numbered by its direction times
    the number of corners, plus the corner that it leaves.
    """
    same_row = components[:, :-1] == components[:, 1:]
    same_column = components[:-1] == components[1:]
    straight = (same_row[:-1] & same_row[1:]) | (same_column[:, :-1] & same_column[:, 1:])
    y, x = np.nonzero(~straight)
    n = len(x)
    # The pixel ahead on the left of each direction: north-east, south-east, south-west, north-west.
    left = np.stack(
        [components[y, x + 1], components[y + 1, x + 1], components[y + 1, x], components[y, x]]
    )
    right = np.roll(left, -1, axis=0)
    corner = np.arange(n)
    by_column = np.lexsort((y, x))
    place = np.empty(n, np.int64)
    place[by_column] = corner
    below, above = by_column[np.minimum(place + 1, n - 1)], by_column[np.maximum(place - 1, 0)]
    end = np.stack([np.minimum(corner + 1, n - 1), below, np.maximum(corner - 1, 0), above])
    direction = np.arange(4)[:, None]
    # Left is first, so that pixels of a component that touch at a corner have one boundary.
    turn = np.where(
        left[direction, end] == right, 3, np.where(right[direction, end] == right, 0, 1)
    )
    following = (direction + turn) % 4 * n + end
    fixed = np.count_nonzero(left != right, axis=0) > 2
    fixed |= np.count_nonzero(left == 0, axis=0) == 3
    half_edges = np.flatnonzero((left != right) & (right != 0))
    # Cycles start at a fixed corner if they have one.
    starts = half_edges[np.argsort(~fixed[half_edges % n], kind="stable")]
    path, ends = _follow(following.ravel().tolist(), starts.tolist())
    corners = np.stack([x, y], axis=1)
    return _Boundaries(corners, fixed, path % n, right.ravel()[path], left.ravel()[path], ends)


def _follow(following: list[int], starts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The cycles from each start that is in none before it, and where they end."""
    seen, path, ends = bytearray(len(following)), [], []
    for half_edge in starts:
        if seen[half_edge]:
            continue
        while not seen[half_edge]:
            seen[half_edge] = 1
            path.append(half_edge)
            half_edge = following[half_edge]
        ends.append(len(path))
    return np.array(path), np.array(ends)


def _simplify(boundaries: _Boundaries, tolerance: float) -> list[np.ndarray]:
    """The vertices of each cycle."""
    count = len(boundaries.ends)
    kept = _kept_corners(boundaries, tolerance)
    while True:
        on_path = kept[boundaries.path]
        vertices = boundaries.corners[boundaries.path[on_path]]
        points, cycle = _without_straight(vertices, boundaries.cycle[on_path])
        flat = _doubled_areas(points, cycle, count) == 0
        if not flat.any():
            return np.split(points, np.cumsum(np.bincount(cycle, minlength=count))[:-1])
        kept[boundaries.path[flat[boundaries.cycle]]] = True


def _kept_corners(boundaries: _Boundaries, tolerance: float) -> np.ndarray:
    """(n,) bool: Douglas and Peucker's algorithm on all boundaries between fixed corners at once.

    Each boundary has two sides, of which the one with the larger component on the right counts.
    """
    if tolerance == 0:
        return np.ones(len(boundaries.corners), bool)
    path = np.insert(boundaries.path, boundaries.ends, boundaries.path[boundaries.begins])
    counts = np.insert(boundaries.right > boundaries.left, boundaries.ends, False)
    ends = boundaries.ends + np.arange(len(boundaries.ends))  # in `path`, whose cycles are closed
    is_cut = boundaries.fixed[path]
    is_cut[ends] = is_cut[boundaries.begins + np.arange(len(ends))] = True
    cuts = np.flatnonzero(is_cut)
    chosen = counts[cuts[:-1]]
    low, high = cuts[:-1][chosen], cuts[1:][chosen]
    kept = boundaries.fixed.copy()
    kept[path[low]] = True
    points = boundaries.corners[path].astype(float)
    while True:
        longer = high - low > 1
        low, high = low[longer], high[longer]
        if not len(low):
            return kept
        lengths = high - low - 1
        starts = np.cumsum(lengths) - lengths
        part = np.repeat(np.arange(len(low)), lengths)
        inner = np.arange(len(part)) - starts[part] + low[part] + 1
        distance = _squared_distance(points[inner], points[low[part]], points[high[part]])
        farthest = np.maximum.reduceat(distance, starts)
        candidates = np.flatnonzero(distance == farthest[part])
        middle = inner[candidates[np.unique(part[candidates], return_index=True)[1]]]
        split = farthest > tolerance**2
        low, middle, high = low[split], middle[split], high[split]
        kept[path[middle]] = True
        low, high = np.concatenate([low, middle]), np.concatenate([middle, high])


def _squared_distance(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(N,) squared distance of points (N, 2) from segments between corners."""
    along, offset = ends - starts, points - starts
    length = np.maximum((along * along).sum(1), 1)
    share = np.clip((along * offset).sum(1) / length, 0, 1)
    rest = offset - share[:, None] * along
    return (rest * rest).sum(1)


def _without_straight(points: np.ndarray, cycle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out repeated vertices, then those where a ring goes straight on."""
    previous, _ = _neighbors(cycle)
    new = np.any(points != points[previous], axis=1)
    points, cycle = points[new], cycle[new]
    previous, following = _neighbors(cycle)
    before, after = points - points[previous], points[following] - points
    turns = (_cross(before, after) != 0) | ((before * after).sum(1) < 0)
    return points[turns], cycle[turns]


def _doubled_areas(points: np.ndarray, cycle: np.ndarray, count: int) -> np.ndarray:
    """(count,) float64, of rings whose points are in order."""
    _, following = _neighbors(cycle)
    return np.bincount(cycle, weights=_cross(points, points[following]), minlength=count)


def _neighbors(cycle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the previous and of the following element within each cycle."""
    first = np.flatnonzero(np.diff(cycle, prepend=-1))
    last = np.append(first[1:], len(cycle)) - 1
    previous, following = np.arange(len(cycle)) - 1, np.arange(len(cycle)) + 1
    previous[first], following[last] = last, first
    return previous, following


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _scores(
    classes: np.ndarray, components: np.ndarray, probabilities: np.ndarray | None
) -> np.ndarray | None:
    """Mean probability of each component's class."""
    if probabilities is None:
        return None
    picked = np.take_along_axis(probabilities, classes[None].astype(np.intp), 0).ravel()
    inside = components[1:-1, 1:-1].ravel()
    return np.bincount(inside, weights=picked) / np.maximum(np.bincount(inside), 1)
