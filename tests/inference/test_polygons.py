"""Polygons of class masks, against a plain rasterizer."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from polygon_masks import winding

from segcoord.inference.polygons import Region, find_regions, join_rings, run_lengths


@st.composite
def label_maps(draw: st.DrawFn) -> np.ndarray:
    """Noise, noise of larger squares, or stripes between slanted lines."""
    if draw(st.booleans()):
        shape = st.tuples(st.integers(1, 7), st.integers(1, 7))
        noise = draw(arrays(np.uint8, shape, elements=st.integers(0, 2)))
        size = draw(st.integers(1, 3))
        return noise.repeat(size, axis=0).repeat(size, axis=1)
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    y, x = np.mgrid[:height, :width]
    line = st.tuples(st.integers(-5, 5), st.integers(-5, 5), st.integers(-60, 60))
    lines = draw(st.lists(line, min_size=1, max_size=3))
    return sum((a * x + b * y > c).astype(np.uint8) for a, b, c in lines)


def area(ring: np.ndarray) -> float:
    """Of a ring; positive if it is clockwise as displayed."""
    (x, y), (u, v) = ring.T, np.roll(ring, -1, axis=0).T
    return float((x * v - u * y).sum()) / 2


def distance(point: np.ndarray, ring: np.ndarray) -> float:
    """Of a point from the nearest edge."""
    nearest = np.inf
    for start, end in zip(ring.astype(float), np.roll(ring, -1, axis=0).astype(float)):
        along = end - start
        length = float(along @ along)
        share = min(1, max(0, float((point - start) @ along) / length)) if length else 0
        nearest = min(nearest, float(np.hypot(*(start + share * along - point))))
    return nearest


def decoded(lengths: list[int], size: tuple[int, int]) -> np.ndarray:
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(size[::-1]).T


@given(label_maps())
@settings(deadline=None)
def test_exact_polygons_cover_their_pixels_and_no_others(classes: np.ndarray) -> None:
    """Also as a single ring, by both rules for what is inside, and as run lengths."""
    found, size = find_regions(classes), classes.shape
    covered, count = np.zeros(size, int), 0
    for region in found.regions:
        inside = winding(region.rings, size)
        np.testing.assert_array_equal(inside, inside == 1)
        np.testing.assert_array_equal(winding([join_rings(region.rings)], size), inside)
        np.testing.assert_array_equal(decoded(run_lengths(region.rings, size), size), inside)
        assert inside.sum() == region.pixels
        assert (classes[inside == 1] == region.index).all()
        assert [area(ring) > 0 for ring in region.rings] == [
            n == 0 for n in range(len(region.rings))
        ]
        covered += inside
    assert (covered == 1).all()
    for index in np.unique(classes):
        count += cv2.connectedComponents((classes == index).astype(np.uint8), connectivity=8)[0] - 1
    assert len(found.regions) == count
    assert found.dropped == 0


@given(label_maps(), st.sampled_from([0.5, 1.0, 1.5, 2.0, 4.0]))
@settings(deadline=None)
def test_simplified_polygons_are_within_the_tolerance(
    classes: np.ndarray, tolerance: float
) -> None:
    """Neighbors share their boundaries: the areas add up to that of the image."""
    exact, simplified = find_regions(classes).regions, find_regions(classes, tolerance).regions
    assert len(exact) == len(simplified)
    total = 0.0
    for before, after in zip(exact, simplified):
        assert (before.index, before.pixels) == (after.index, after.pixels)
        assert len(before.rings) == len(after.rings)
        for ring, short in zip(before.rings, after.rings):
            assert len(short) >= 3 and area(short) != 0
            assert all(distance(vertex, short) <= tolerance + 1e-9 for vertex in ring)
            assert all(distance(vertex, ring) == 0 for vertex in short)
            total += area(short)
    assert total == classes.size


@given(label_maps(), st.sampled_from([1.0, 2.0, 4.0]))
@settings(deadline=None)
def test_joined_rings_cover_the_same_pixels(classes: np.ndarray, tolerance: float) -> None:
    """Except pixels whose center is on an edge, to which rounding gives either side."""
    size = classes.shape
    for region in find_regions(classes, tolerance).regions:
        expected = winding(region.rings, size) % 2
        others = (
            winding([join_rings(region.rings)], size) % 2,
            decoded(run_lengths(region.rings, size), size),
        )
        for other in others:
            for y, x in np.argwhere(other != expected):
                center = np.array([x + 0.5, y + 0.5])
                assert min(distance(center, ring) for ring in region.rings) < 1e-9


def test_vertices_are_corners_of_pixels() -> None:
    classes = np.zeros((5, 6), np.uint8)
    classes[1:4, 1:5] = 1
    classes[2, 2:4] = 0
    outside, frame, inside = sorted(find_regions(classes).regions, key=lambda r: -r.pixels)[:3]
    assert (outside.pixels, frame.pixels, inside.pixels) == (18, 10, 2)
    assert [ring.tolist() for ring in frame.rings] == [
        [[1, 1], [5, 1], [5, 4], [1, 4]],
        [[2, 3], [4, 3], [4, 2], [2, 2]],
    ]
    assert sorted(map(tuple, inside.rings[0].tolist())) == [(2, 2), (2, 3), (4, 2), (4, 3)]
    assert sorted(map(tuple, outside.rings[0].tolist())) == [(0, 0), (0, 5), (6, 0), (6, 5)]
    assert len(outside.rings) == len(frame.rings) == 2


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    """Of both classes; each is a ring that passes the common corner twice."""
    classes = np.array([[0, 1], [1, 0]], np.uint8)
    regions = find_regions(classes).regions
    assert [(r.index, r.pixels, len(r.rings)) for r in regions] == [(0, 2, 1), (1, 2, 1)]
    assert all(r.rings[0].tolist().count([1, 1]) == 2 for r in regions)


def test_a_slanted_edge_becomes_one_line() -> None:
    y, x = np.mgrid[:40, :60]
    classes = (2 * x + 3 * y > 100).astype(np.uint8)
    for region in find_regions(classes, 1.0).regions:
        assert len(region.rings) == 1 and len(region.rings[0]) <= 6
    assert max(len(r.rings[0]) for r in find_regions(classes).regions) > 40


def test_a_region_that_would_have_no_area_stays_exact() -> None:
    classes = np.zeros((9, 9), np.uint8)
    classes[4, 1:8] = 1
    background, line = find_regions(classes, 5.0).regions
    assert sorted(map(tuple, line.rings[0].tolist())) == [(1, 4), (1, 5), (8, 4), (8, 5)]
    assert len(background.rings[1]) == 4


def ring_of(low: int, high: int) -> np.ndarray:
    return np.array([[low, low], [high, low], [high, high], [low, high]])


def test_holes_are_joined_from_left_to_right() -> None:
    outer = np.array([[0, 0], [20, 0], [20, 9], [0, 9]])
    holes = [np.add(ring_of(4, 6)[::-1], (shift, 0)) for shift in (10, 0)]
    joined = join_rings((outer, *holes))
    assert {tuple(p) for p in joined.tolist()} >= {(0.0, 4.0), (6.0, 4.0)}
    # Each line is passed in both directions.
    edges = [(tuple(a), tuple(b)) for a, b in pairwise([*joined.tolist(), joined[0].tolist()])]
    for edge in (((0.0, 4.0), (4.0, 4.0)), ((6.0, 4.0), (14.0, 4.0))):
        assert edge in edges and edge[::-1] in edges
    np.testing.assert_array_equal(winding([joined], (9, 20)), winding((outer, *holes), (9, 20)))


def test_a_hole_that_leaves_the_outer_boundary_is_joined_too() -> None:
    """Simplification may move a hole across it."""
    rings = (ring_of(5, 9), ring_of(2, 7)[::-1])
    expected = winding(rings, (10, 10)) % 2
    np.testing.assert_array_equal(winding([join_rings(rings)], (10, 10)) % 2, expected)


def by_class(regions: list[Region]) -> list[tuple[int, int]]:
    return sorted((region.index, region.pixels) for region in regions)


def test_small_regions_go_to_the_neighbor_with_the_longest_common_boundary() -> None:
    classes = np.zeros((10, 20), np.uint8)
    classes[:, 10:] = 1
    classes[2:4, 9:12] = 2  # 6 pixels with 4 edges on class 0, 6 on class 1
    classes[7, 3] = 3
    classes[7, 4] = 4  # a neighbor that is small too
    found = find_regions(classes, min_area=7)
    assert by_class(found.regions) == [(0, 98), (1, 102)]
    assert found.dropped == 3
    assert all(len(region.rings) == 1 for region in found.regions)
    assert by_class(find_regions(classes, min_area=6).regions)[-1] == (2, 6)


def test_specks_inside_specks_are_dropped_in_turn() -> None:
    classes = np.zeros((9, 9), np.uint8)
    classes[3:6, 3:6] = 1
    classes[4, 4] = 2
    found = find_regions(classes, min_area=20)
    assert by_class(found.regions) == [(0, 81)]
    assert found.dropped == 2


def test_nothing_is_left_if_all_regions_are_small() -> None:
    found = find_regions(np.array([[0, 1, 1]], np.uint8), min_area=5)
    assert found == ([], 2)


@given(label_maps(), st.integers(2, 12))
@settings(deadline=None)
def test_dropped_regions_leave_no_gap(classes: np.ndarray, min_area: int) -> None:
    found = find_regions(classes, min_area=min_area)
    before = len(find_regions(classes).regions)
    assert all(region.pixels >= min_area for region in found.regions)
    assert sum(region.pixels for region in found.regions) in (0, classes.size)
    assert found.dropped <= before
    assert found.dropped > 0 or len(found.regions) == before


def test_skipped_classes_are_left_out() -> None:
    classes = np.zeros((6, 6), np.uint8)
    classes[1:5, 1:5] = 1
    classes[2:4, 2:4] = 0
    found = find_regions(classes, skipped={0})
    assert [(r.index, r.pixels, len(r.rings)) for r in found.regions] == [(1, 12, 2)]
    found = find_regions(classes, min_area=5, skipped={0})  # fills the hole
    assert [(r.index, r.pixels, len(r.rings)) for r in found.regions] == [(1, 16, 1)]
    assert found.dropped == 0


def test_scores_are_mean_probabilities() -> None:
    classes = np.array([[0, 0, 1], [0, 0, 1]], np.uint8)
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0, 1, (2, 2, 3)).astype(np.float16)
    scores = [region.score for region in find_regions(classes, probabilities=probabilities).regions]
    expected = [probabilities[0, :, :2].mean(dtype=float), probabilities[1, :, 2].mean(dtype=float)]
    assert scores == pytest.approx(expected, abs=1e-6)
    assert find_regions(classes).regions[0].score is None
