"""Drawing shapes into label maps."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

from segcoord.data.annotations.rasterize import (
    CUT,
    EMPTY,
    NOT_FINITE,
    OVERLAP_PIXELS,
    TOO_FEW,
    UNLABELLED,
    draw_shapes,
    polygon_mask,
)
from segcoord.data.annotations.records import Shape
from segcoord.utils.errors import UserError

INDICES = {"a": 0, "b": 1, "left out": UNLABELLED}


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def draw(*shapes: Shape, size=(6, 8), overlap: str | None = None):
    counts: Counter[str] = Counter()
    return draw_shapes(shapes, INDICES, size, overlap, counts), +counts


def boundary(mask: np.ndarray) -> np.ndarray:
    """The pixels beside which, or diagonally, the mask changes."""
    kernel = np.ones((3, 3), np.uint8)
    values = mask.astype(np.uint8)
    return cv2.dilate(values, kernel) != cv2.erode(values, kernel)


def test_a_pixel_belongs_to_a_polygon_if_its_center_is_inside() -> None:
    mask = polygon_mask(box(1.4, 0.6, 3.6, 3.4), (5, 5))
    expected = np.zeros((5, 5), bool)
    expected[1:3, 1:4] = True
    assert np.array_equal(mask, expected)
    assert polygon_mask(box(0, 0, 5, 5), (5, 5)).all()


def test_random_polygons_are_filled_by_the_even_odd_rule_of_each_center() -> None:
    """Against a plain test of each pixel: how many edges a ray to the left crosses."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        ring = rng.uniform(-5, 25, (int(rng.integers(3, 12)), 2))
        y, x = np.mgrid[:18, :20] + 0.5
        inside = np.zeros((18, 20), bool)
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0)):
            spans = (y0 <= y) != (y1 <= y)
            inside ^= spans & (x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x)
        assert np.array_equal(polygon_mask(ring, (18, 20)), inside)


def test_polygons_agree_with_pycocotools_up_to_the_boundary() -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    rng = np.random.default_rng(1)
    differing = total = 0
    for _ in range(30):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        radii = rng.uniform(10, 45, 12)
        ring = np.stack([50 + radii * np.cos(angles), 40 + radii * np.sin(angles)], 1)
        theirs = coco.decode(coco.frPyObjects([ring.ravel().tolist()], 80, 100))[..., 0] > 0
        ours = polygon_mask(ring, (80, 100))
        differs = ours != theirs
        assert not (differs & ~(boundary(ours) | boundary(theirs))).any()
        differing += int(differs.sum())
        total += int(theirs.sum())
    assert differing < 0.02 * total


def test_shapes_that_share_an_edge_neither_overlap_nor_leave_a_gap() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        (ax, ay), (bx, by) = a, b = rng.uniform(0, 20, (2, 2))
        left = np.array([[-1, -1], a, b, [-1, 21]])
        right = np.array([[21, -1], [21, 21], [-1, 21], b, a, [-1, -1]])
        label, counts = draw(Shape("a", (left,)), Shape("b", (right,)), size=(20, 20))
        assert not counts[OVERLAP_PIXELS], (ax, ay, bx, by)
        assert (label != UNLABELLED).all()


def test_a_ring_in_a_ring_is_a_hole() -> None:
    label, counts = draw(Shape("a", (box(0, 0, 8, 6), box(2, 2, 5, 4))))
    assert (label[2:4, 2:5] == UNLABELLED).all()
    assert (label == 0).sum() == 48 - 6
    assert not counts


def test_what_can_not_be_drawn_is_counted() -> None:
    nan = box(0, 0, 4, 4)
    nan[0, 0] = np.nan
    label, counts = draw(
        Shape("a", (nan,)),
        Shape("a", (box(0, 0, 1, 1)[:2],)),
        Shape("a", (box(0, 2.6, 8, 3.4),)),
        Shape("b", (box(6, -20, 3000, 2),)),
        Shape("a", (box(20, 20, 30, 30),)),
        Shape("a", (box(0, 4, 1, 5)[:2], box(0, 4, 2, 6))),
    )
    assert counts == {NOT_FINITE: 1, TOO_FEW: 2, EMPTY: 2, CUT: 2}
    assert (label[:2, 6:] == 1).all() and (label == 1).sum() == 4
    assert (label[4:, :2] == 0).all() and (label == 0).sum() == 4


BIG, SMALL_BOX = box(0, 0, 8, 6), box(1, 1, 3, 3)


@pytest.mark.parametrize(
    ("overlap", "orders", "on_top"),
    [
        (None, (None, None), 1),
        ("smaller", (None, None), 1),
        ("last", (None, None), 0),
        (None, (2, 1), 0),
        (None, (1, 2), 1),
        ("order", (2, 1), 0),
        ("smaller", (2, 1), 1),
    ],
)
def test_which_of_two_overlapping_shapes_is_on_top(
    overlap: str | None, orders: tuple, on_top: int
) -> None:
    small = Shape("b", (SMALL_BOX,), order=orders[1])
    large = Shape("a", (BIG,), order=orders[0])
    label, counts = draw(small, large, overlap=overlap)
    assert (label[1:3, 1:3] == on_top).all()
    assert counts[OVERLAP_PIXELS] == 4


def test_overlap_error_names_both_classes_and_the_place() -> None:
    shapes = Shape("a", (BIG,)), Shape("b", (SMALL_BOX,))
    with pytest.raises(UserError, match="shapes of 'a' and 'b' overlap at x=1, y=1; 4 pixels"):
        draw(*shapes, overlap="error")
    draw(shapes[0], Shape("a", (SMALL_BOX,)), overlap="error")  # of the same class
    between = Shape("a", (SMALL_BOX,)), Shape("b", (SMALL_BOX,)), Shape("a", (SMALL_BOX,))
    with pytest.raises(UserError, match="shapes of 'a' and 'b' overlap"):
        draw(*between, overlap="error")
    with pytest.raises(UserError, match="no order of shapes"):
        draw(*shapes, overlap="order")


def test_classes_that_are_left_out_cover_what_is_below_them() -> None:
    label, _ = draw(Shape("a", (BIG,)), Shape("left out", (SMALL_BOX,)))
    assert (label[1:3, 1:3] == UNLABELLED).all()
    with pytest.raises(UserError, match="class 'c', which is not among the classes"):
        draw(Shape("c", (BIG,)))


def test_void_shapes_need_no_class() -> None:
    label, _ = draw(Shape("a", (BIG,)), Shape("crowd", (SMALL_BOX,), void=True))
    assert (label == 255).sum() == 4


def test_masks_are_placed_and_cut_at_the_border() -> None:
    mask = np.array([[1, 0, 1], [1, 1, 1]], bool)
    label, counts = draw(
        Shape("a", mask=mask, offset=(2, 1)), Shape("b", mask=mask, offset=(-1, 5))
    )
    assert np.array_equal(label[1:3, 2:5] == 0, mask)
    assert (label[5] == 1).tolist() == [False, True] + [False] * 6
    assert counts == {CUT: 1}
    _, counts = draw(Shape("a", mask=mask, offset=(50, 50)))
    assert counts == {CUT: 1, EMPTY: 1}


def test_lines_have_their_width() -> None:
    line = np.array([[2, 10], [28, 10.0]])
    label, counts = draw(Shape("a", (line,), stroke=4), size=(20, 30))
    rows = np.flatnonzero((label == 0)[:, 15])
    assert len(rows) in (4, 5) and abs(rows.mean() + 0.5 - 10) <= 0.5
    assert not counts


def test_pixels_of_different_classes_are_counted_once() -> None:
    """Also a shape that lies between two of another class."""
    rng = np.random.default_rng(3)
    for _ in range(10):
        shapes = [
            Shape(str(rng.choice(["a", "b", "left out"])), (rng.uniform(-5, 25, (4, 2)),))
            for _ in range(6)
        ]
        _, counts = draw(*shapes, size=(20, 20))
        covered = np.zeros((3, 20, 20), bool)
        for each in shapes:
            covered[[*INDICES].index(each.label)] |= polygon_mask(each.rings[0], (20, 20))
        assert counts[OVERLAP_PIXELS] == (covered.sum(0) > 1).sum()
