"""Overlays."""

from __future__ import annotations

import numpy as np

from segcoord.data.labels import VOC, VOID
from segcoord.inference.visualize import blend, reduced


def test_overlays_equal_a_simple_implementation() -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (60, 90, 3), np.uint8)
    indices = random.integers(0, 21, (60, 90), np.uint8)
    indices[:9] = VOID
    opacity = np.where(indices == VOID, 0, 0.6)[..., None]
    expected = (image * (1 - opacity) + VOC.colors[indices] * opacity).round()
    np.testing.assert_array_equal(blend(image, indices, VOC), expected)
    small, classes = reduced(image, indices, 30)
    assert (small.shape, classes.shape) == ((20, 30, 3), (20, 30))
    np.testing.assert_array_equal(classes, indices[1::3, 1::3])
    assert reduced(image, indices, 90)[0] is image
