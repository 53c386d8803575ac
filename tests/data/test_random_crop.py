"""The crop alone, against scaling the whole image first and cropping then."""

from __future__ import annotations

import math
import os
from fractions import Fraction

import cv2
import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A

from segcoord.data.labels import VOID
from segcoord.data.random_crop import Window, crop_window, draw_window

FILL = (124, 116, 104)


def scaled_first(
    image: np.ndarray, mask: np.ndarray, window: Window, crop: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The plain way: scale everything, pad, crop, flip; the mask by the pixel a center lies in."""
    rows, columns = (
        [math.floor(Fraction(2 * x + 1, 2) * length / scaled) for x in range(scaled)]
        for length, scaled in zip(mask.shape, window.scaled)
    )
    mask = mask[np.ix_(rows, columns)]
    image = cv2.resize(image, window.scaled[::-1], interpolation=cv2.INTER_LINEAR)
    before = [max(0, -window.top), max(0, -window.left)]
    after = [max(0, o + c - s) for o, c, s in zip((window.top, window.left), crop, window.scaled)]
    sides = (before[0], after[0], before[1], after[1])
    image = cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=FILL)
    mask = cv2.copyMakeBorder(mask, *sides, cv2.BORDER_CONSTANT, value=VOID)
    top, left = window.top + before[0], window.left + before[1]
    image, mask = (x[top : top + crop[0], left : left + crop[1]] for x in (image, mask))
    return (image[:, ::-1], mask[:, ::-1]) if window.flip else (image, mask)


@pytest.mark.parametrize(
    ("size", "crop", "scale"),
    [
        ((96, 128), (48, 48), (0.5, 2.0)),
        ((97, 61), (64, 80), (0.5, 2.0)),
        ((40, 300), (33, 65), (0.1, 0.4)),
        ((31, 33), (100, 90), (0.2, 6.0)),
        ((300, 401), (1, 1), (0.3, 1.5)),
        ((64, 64), (64, 64), (1.0, 1.0)),
        ((2, 3), (16, 16), (0.5, 9.0)),
    ],
)
def test_equals_scaling_the_whole_image_first(size, crop, scale) -> None:
    """Noise is the hardest image: a shift by 1/32 pixel changes it by up to 8 gray levels."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = rng.integers(0, 19, size, dtype=np.uint8)
    for _ in range(150):
        window = draw_window(size, crop, scale, True, rng)
        found, ids = crop_window(image, mask, window, crop, FILL)
        expected, expected_ids = scaled_first(image, mask, window, crop)
        assert found.shape == (*crop, 3)
        assert found.dtype == ids.dtype == np.uint8
        assert (ids == expected_ids).all(), window
        assert np.abs(found.astype(int) - expected).max() <= 1, window


def test_a_ramp_is_not_shifted() -> None:
    """On ramps, where the mean difference over the slope is the shift in pixels.

    Rounding moves an upward and a downward ramp the same way, and a shift moves them apart; some
    noise makes the rounding of each pixel its own.
    """
    rng = np.random.default_rng(1)
    slope, size, crop = 4, (60, 60), (40, 40)
    ramp = np.arange(60)[None, :, None] * slope + rng.integers(0, slope, (60, 60, 3))
    across = ramp.astype(np.uint8)
    down = np.ascontiguousarray(across.transpose(1, 0, 2))
    mask = np.zeros(size, np.uint8)
    for _ in range(100):
        window = draw_window(size, crop, (0.7, 2.0), False, rng)

        def error(image: np.ndarray, window: Window = window) -> float:
            found, _ = crop_window(image, mask, window, crop, FILL)
            expected, _ = scaled_first(image, mask, window, crop)
            return float((found.astype(int) - expected).mean())

        for image in (across, down):
            shift = (error(image) - error(255 - image)) / 2 / slope
            assert abs(shift) < 0.01, window


RAMP = np.arange(251, dtype=np.uint8)  # a prime: at no scale a center lies right between two pixels


@pytest.mark.parametrize("scale", [0.6, 0.75, 1.3, 1.7, 2.0])
@pytest.mark.parametrize("flip", [False, True])
def test_mask_and_image_lie_at_the_same_place(scale: float, flip: bool) -> None:
    """Both show their own coordinate, which the image has exactly and the mask to the nearest."""
    scaled, crop = int(scale * 251), (90, 90)
    for down in (False, True):
        mask = np.broadcast_to(RAMP[:, None] if down else RAMP, (251, 251)).copy()
        image = np.repeat(mask[..., None], 3, axis=2)
        window = Window((scaled, scaled), 40, 50, flip)
        found, ids = crop_window(image, mask, window, crop, FILL)
        apart = ids - found[..., 0].astype(float)
        assert abs(apart.mean()) < 0.1  # pixels of the image; up to 0.8 by INTER_NEAREST
        assert np.abs(apart).max() <= 1


@pytest.mark.parametrize("scale", [0.3, 0.6, 0.75, 0.9173, 1.3, 1.7, 2.0, 3.3])
def test_the_mask_is_that_of_nearest_exact_and_of_pil(scale: float) -> None:
    scaled, crop = int(scale * 251), (200, 60)
    mask = np.random.default_rng(4).integers(0, 256, (251, 251), dtype=np.uint8)
    image = np.zeros((251, 251, 3), np.uint8)
    top, left = (min(0, scaled - part) for part in crop)
    _, ids = crop_window(image, mask, Window((scaled, scaled), top, left, False), crop, FILL)
    ids = ids[-top:, -left:]
    size = (scaled, scaled)
    for whole in (
        cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT),
        np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)),
    ):
        assert (ids == whole[: len(ids), : ids.shape[1]]).all()


def test_scale_one_is_a_copy() -> None:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
    mask = rng.integers(0, 19, (70, 90), dtype=np.uint8)
    found, ids = crop_window(image, mask, Window((70, 90), 11, 23, False), (32, 40), FILL)
    assert (found == image[11:43, 23:63]).all()
    assert (ids == mask[11:43, 23:63]).all()
    found[:] = 0
    ids[:] = 0
    assert image.any()
    assert mask.any()


class Watched:
    """An array that notes which parts of it were asked for."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.asked = array, array.shape, []

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        self.asked.append(key)
        return self.array[key]


def test_only_the_crops_own_rows_and_columns_are_read() -> None:
    image = Watched(np.zeros((1000, 2000, 3), np.uint8))
    mask = Watched(np.zeros((1000, 2000), np.uint8))
    crop_window(image, mask, Window((2000, 4000), 500, 800, False), (100, 60), FILL)
    for array in (image, mask):
        ((rows, columns),) = array.asked
        assert 249 <= rows.start <= 250 < 300 <= rows.stop <= 301
        assert 399 <= columns.start <= 400 < 430 <= columns.stop <= 431


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The two-sample Kolmogorov-Smirnov statistic, times sqrt(n / 2)."""
    both = np.sort(np.concatenate([a, b]))
    shares = [np.searchsorted(np.sort(x), both, side="right") / len(x) for x in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max() * np.sqrt(len(a) / 2))


@pytest.mark.parametrize("size", [(120, 90), (50, 110), (40, 30)])
def test_scale_and_position_are_distributed_as_albumentations_draws_them(size) -> None:
    """From the crop of a mask that shows its own coordinates, and where it is void."""
    crop, scale, n = (64, 64), (0.5, 2.0), 1500
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.uint8)
    theirs = A.Compose(
        [
            A.RandomScale(
                (scale[0] - 1, scale[1] - 1), mask_interpolation=cv2.INTER_NEAREST_EXACT, p=1
            ),
            A.RandomCrop(*crop, pad_if_needed=True, pad_position="random", fill_mask=VOID, p=1),
            A.HorizontalFlip(p=0.5),
        ]
    )
    theirs.set_random_seed(3)
    rng = np.random.default_rng(3)
    image = np.zeros((*size, 3), np.uint8)

    def seen(y: np.ndarray, x: np.ndarray) -> list[float]:
        """Covered height and width, where they begin, the corner's coordinates, the flip."""
        there = np.argwhere(y != VOID)
        (top, left), (bottom, right) = there.min(0), there.max(0)
        first, last = int(x[top, left]), int(x[top, right])
        corner = (int(y[top, left]), min(first, last))
        return [bottom - top, right - left, top, left, *corner, float(first > last)]

    found, expected = [], []
    for _ in range(n):
        window = draw_window(size, crop, scale, True, rng)
        found.append(seen(*(crop_window(image, m, window, crop, FILL)[1] for m in (rows, columns))))
        out = theirs(image=image, masks=[rows, columns])
        expected.append(seen(*out["masks"]))
    for ours, plain in zip(np.array(found).T, np.array(expected).T):
        assert distance(ours, plain) < 1.63  # the critical value at 1 %


def test_draws_depend_on_their_generator_alone() -> None:
    draws = [
        [draw_window((90, 120), (64, 64), (0.5, 2), True, np.random.default_rng((0, e, i)))]
        for e in range(3)
        for i in range(20)
        for _ in range(2)
    ]
    assert draws[::2] == draws[1::2]
    assert len({str(d) for d in draws}) == 60


@pytest.mark.parametrize(("size", "crop"), [((120, 90), (64, 48)), ((40, 50), (64, 64))])
def test_a_crop_around_pixels_contains_one_and_takes_every_place(size, crop) -> None:
    """Five single pixels, which half of the smaller masks lack; each draw has those that remain."""
    rng = np.random.default_rng(5)
    mask = np.zeros(size, np.uint8)
    rows, columns = (rng.integers(0, length, 5) for length in size)
    mask[rows, columns] = 1
    image = np.zeros((*size, 3), np.uint8)
    found, lost, places = 0, 0, []
    for _ in range(600):
        window = draw_window(size, crop, (0.5, 2.0), True, rng, (rows, columns))
        _, ids = crop_window(image, mask, window, crop, FILL)
        whole = Window(window.scaled, 0, 0, False)
        if (crop_window(image, mask, whole, window.scaled, FILL)[1] == 1).any():
            assert (ids == 1).any(), window
            found += 1
            places.append(np.argwhere(ids == 1)[0])
        else:
            lost += 1
    assert found > 500
    assert lost  # so that a scale without any of the pixels is drawn here
    low, high = np.min(places, 0), np.max(places, 0)
    assert (low < 8).all()
    assert (high >= np.array(crop) - 8).all()
