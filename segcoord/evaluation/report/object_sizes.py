"""IoU and recall by object size: how much of a class's IoU its small objects cost."""

from itertools import pairwise

import cv2
import numpy as np

from segcoord.evaluation.metrics import divide, mean

SIDES = (8, 16, 32, 64, 128)
"""Limits of the area bins, as sides of squares in pixels; COCO's "small" ends at 32."""

BINS = len(SIDES) + 1


class ObjectSizes:
    """Counts pixels by the area of the object they belong to.

    An object is a connected region of one class in the truth (8 neighbors), at the image's original
    size; two touching cars are one object, and void splits an object in two. A false positive
    pixel belongs to a connected region of its class in the prediction. It counts for the size of
    the object that overlaps this region most, or for the region's own size if no object does. Each
    pixel of a class's intersection and union is thus in exactly one bin.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        counts = np.zeros((4, BINS, num_classes), np.int64)
        self.objects, self.truth, self.true_positives, self.false_positives = counts
        """(BINS, K) int64: objects in truth, their pixels, and pixels of the prediction."""

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Counts one image: (H, W) uint8 class indices, 255 for void."""
        k = self.truth.shape[1]
        labeled = truth < k
        classes = np.unique([*np.unique(truth[labeled]), *np.unique(prediction[labeled])])
        for c in classes[classes < k]:
            actual, predicted = truth == c, (prediction == c) & labeled
            areas, objects = _regions(actual)
            region_areas, regions = _regions(predicted)
            bins = _area_bin(areas)
            self.objects[:, c] += np.bincount(bins, minlength=BINS)
            self.truth[:, c] += _sum(bins, areas)
            both = predicted & actual
            self.true_positives[:, c] += _sum(
                bins, np.bincount(objects[both], minlength=len(areas))
            )
            wrong = np.bincount(regions[predicted & ~actual], minlength=len(region_areas))
            region_bins = _area_bin(region_areas)
            overlapping, largest = _largest_overlap(regions[both], objects[both])
            region_bins[overlapping] = bins[largest]
            self.false_positives[:, c] += _sum(region_bins, wrong)

    @property
    def iou(self) -> np.ndarray:
        """(BINS, K) float64: found / (truth + false positives); NaN without objects in the bin."""
        values = divide(self.true_positives, self.truth + self.false_positives)
        return np.where(self.truth > 0, values, np.nan)

    @property
    def recall(self) -> np.ndarray:
        """(BINS, K) float64: fraction of the objects' pixels found; NaN without objects."""
        return divide(self.true_positives, self.truth)

    def over_classes(self) -> tuple[np.ndarray, np.ndarray]:
        """IoU and recall, (BINS,) each: the mean over the classes with objects in the bin."""
        return tuple(np.array([mean(row) for row in each]) for each in (self.iou, self.recall))


def bin_names() -> list[str]:
    """Names of the area bins, smallest first."""
    inner = [f"{low}²-{high}²" for low, high in pairwise(SIDES)]
    return [f"< {SIDES[0]}²", *inner, f"≥ {SIDES[-1]}²"]


def _regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) areas of the connected regions, and (H, W) the index of each; -1 outside of them."""
    _, indices, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return stats[1:, cv2.CC_STAT_AREA].astype(np.int64), indices - 1


def _area_bin(areas: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.square(SIDES), areas, side="right")


def _sum(bins: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.bincount(bins, values, BINS).astype(np.int64)


def _largest_overlap(regions: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regions that overlap an object, and the object that each overlaps most, by pixel."""
    columns = int(objects.max(initial=0)) + 1
    pairs, pixels = np.unique(regions.astype(np.int64) * columns + objects, return_counts=True)
    region, largest = pairs // columns, pairs % columns
    order = np.lexsort((largest, -pixels, region))
    overlapping, first = np.unique(region[order], return_index=True)
    return overlapping, largest[order][first]
