"""Connected regions where a prediction contradicts the labels.

Disagreements along boundaries are thin: annotators and networks place edges a few pixels apart.
The radius of a region, its largest distance from a pixel to the outside, tells these from regions
of a wrong class, whatever their length.

Shapes: K classes, images of (H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from segcoord.data.labels import VOID
from segcoord.evaluation.metrics import joint_histogram

MIN_RADIUS = 2.0
"""Regions with a smaller radius, one or two pixels wide, are left out."""

MIN_AREA = 9
"""Pixels of the smallest region of `MIN_RADIUS`."""

THIN = 0.0075
"""The radius at which `thickness` is 1/2, relative to the square root of the image's area."""

MAX_REGIONS = 20
"""Regions kept per image."""


@dataclass(frozen=True, slots=True)
class Region:
    """Connected pixels (8 neighbors) with one given and one predicted class, which differ."""

    given: int
    """Class index of the labels."""
    predicted: int
    """Class index of the prediction."""
    box: tuple[int, int, int, int]
    """x, y, width and height of the bounding box in pixels."""
    center: tuple[int, int]
    """x and y of the pixel with the largest distance to the outside of the region."""
    area: int
    """Pixels."""
    radius: float
    """That distance, in pixels."""
    thickness: float
    """0 to 1, from `thickness`."""
    confidence: float
    """Probability of the predicted class: the mean over the pixels, each weighted by its distance
    to the outside of the region."""
    support: float
    """Probability of the given class, averaged alike."""
    part_of_labeled: float
    """Share that the region covers of the connected pixels labeled as the given class."""
    part_of_predicted: float
    """Share that the region covers of the connected pixels predicted as the other class."""


def thickness(radius: float, size: tuple[int, int]) -> float:
    """r³ / (r³ + r0³), where r0 is `THIN` times the square root of the image's area.

    Args:
        radius: r, in pixels.
        size: (H, W) of the image.
    """
    scale = THIN * math.sqrt(size[0] * size[1])
    return radius**3 / (radius**3 + scale**3)


def find_regions(
    labels: np.ndarray, prediction: np.ndarray, confidence: np.ndarray, support: np.ndarray
) -> list[Region]:
    """The regions of an image where the prediction differs from the labels.

    Void pixels belong to no region.

    Args:
        labels: (H, W) uint8 class indices, 255 for void.
        prediction: (H, W) uint8 class indices.
        confidence: (H, W) float32 probability of the predicted class.
        support: (H, W) float32 probability of the class in `labels`; any value at void.

    Returns:
        At most `MAX_REGIONS`, those with the largest (confidence - support) * thickness, in this
        order.
    """
    counts = joint_histogram(labels, prediction)
    np.fill_diagonal(counts, 0)
    counts[VOID] = 0
    found = []
    for given, predicted in np.argwhere(counts >= MIN_AREA).tolist():
        mask = (labels == given) & (prediction == predicted)
        for window, distance in _components(mask):
            weight = distance / distance.sum()
            sure, backed = ((weight * p[window]).sum() for p in (confidence, support))
            thick = thickness(distance.max(), labels.shape)
            order = -(sure - backed) * thick, window[0].start, window[1].start
            found.append((order, given, predicted, window, distance, thick, sure, backed))
    found.sort(key=lambda each: each[0])
    segments = _Segments(labels), _Segments(prediction)
    return [_region(*each[1:], *segments) for each in found[:MAX_REGIONS]]


def _components(mask: np.ndarray) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """The bounding box of each connected region, and (h, w) distances to its outside.

    Regions with a radius below `MIN_RADIUS` are left out. Outside of a region, the distance is 0.
    """
    _, components, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    for index in range(1, len(stats)):
        x, y, width, height, area = stats[index].tolist()
        if area < MIN_AREA:
            continue
        window = slice(y, y + height), slice(x, x + width)
        inside = np.pad((components[window] == index).astype(np.uint8), 1)
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        if distance.max() >= MIN_RADIUS:
            yield window, distance


def _region(
    given: int,
    predicted: int,
    window: tuple[slice, slice],
    distance: np.ndarray,
    thick: float,
    sure: float,
    backed: float,
    labeled_segments: _Segments,
    predicted_segments: _Segments,
) -> Region:
    rows, columns = window
    row, column = np.unravel_index(distance.argmax(), distance.shape)
    row, column = int(row) + rows.start, int(column) + columns.start
    area = int((distance > 0).sum())
    return Region(
        given=given,
        predicted=predicted,
        box=(columns.start, rows.start, distance.shape[1], distance.shape[0]),
        center=(column, row),
        area=area,
        radius=float(distance.max()),
        thickness=float(thick),
        confidence=float(sure),
        support=float(backed),
        part_of_labeled=area / labeled_segments.area(given, row, column),
        part_of_predicted=area / predicted_segments.area(predicted, row, column),
    )


class _Segments:
    """Areas of the connected segments of a map of classes, found class by class when needed."""

    def __init__(self, classes: np.ndarray) -> None:
        self._classes = classes
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def area(self, index: int, row: int, column: int) -> int:
        """Pixels of the segment of class `index` that contains a pixel."""
        if index not in self._found:
            mask = (self._classes == index).astype(np.uint8)
            _, components, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
            self._found[index] = components, stats[:, cv2.CC_STAT_AREA]
        components, areas = self._found[index]
        return int(areas[components[row, column]])


def region_mask(region: Region, labels: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(H, W) uint8, 1 at the pixels of a region, for drawing it.

    Args:
        region: from `find_regions`.
        labels: (H, W) uint8 class indices, those of the region's image.
        prediction: (H, W) uint8 class indices of the same image. If it was computed again and
            rounding changed it at the center of the region, the mask may be empty.
    """
    mask = ((labels == region.given) & (prediction == region.predicted)).astype(np.uint8)
    _, components = cv2.connectedComponents(mask, connectivity=8)
    x, y = region.center
    return ((components == components[y, x]) & (mask > 0)).astype(np.uint8)
