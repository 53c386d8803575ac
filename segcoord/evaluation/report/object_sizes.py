"""Scores by the size of objects: which part of a class's IoU its small regions cost."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from segcoord.evaluation.metrics import divide, mean

SIDES = (8, 16, 32, 64, 128)
"""Where the bins of area end, as sides of squares in pixels; 32 is where COCO's small ends."""

BINS = len(SIDES) + 1


class ObjectSizes:
    """Counts pixels by the area of the object they belong to.

    An object is a connected region of one class in the truth (8 neighbours), as large as it is in
    the image at its original size; two cars that touch are one object, and void cuts one in two.
    A wrong pixel belongs to a connected region of its class in the prediction, and counts for the
    size of that object which shares most pixels with the region; where none does, for the region's
    own size. So each pixel of a class's intersection and union is in exactly one bin.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.objects, self.truth, self.found, self.wrong = np.zeros((4, BINS, num_classes), int)
        """(BINS, K) int64: objects in truth; their pixels; of these the found; wrongly predicted.
        """

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Counts one image: (H, W) uint8 class indices, 255 in truth for void."""
        k = self.truth.shape[1]
        labelled = truth < k
        for c in np.unique([*np.unique(truth[labelled]), *np.unique(prediction[labelled])]):
            inside, said = truth == c, (prediction == c) & labelled
            areas, objects = _regions(inside)
            region_areas, regions = _regions(said)
            size = _bin(areas)
            self.objects[:, c] += np.bincount(size, minlength=BINS)
            self.truth[:, c] += _sum(size, areas)
            both = said & inside
            self.found[:, c] += _sum(size, np.bincount(objects[both], minlength=len(areas)))
            wrong = np.bincount(regions[said & ~inside], minlength=len(region_areas))
            owner = _bin(region_areas)
            region, main = _largest_share(regions[both], objects[both])
            owner[region] = size[main]
            self.wrong[:, c] += _sum(owner, wrong)

    @property
    def iou(self) -> np.ndarray:
        """(BINS, K) float64: found / (in truth + wrong); NaN where no object has that size."""
        return np.where(self.truth > 0, divide(self.found, self.truth + self.wrong), np.nan)

    @property
    def recall(self) -> np.ndarray:
        """(BINS, K) float64: the share of the objects' pixels that was found; NaN likewise."""
        return divide(self.found, self.truth)

    def over_classes(self) -> tuple[np.ndarray, np.ndarray]:
        """IoU and recall, (BINS,) each: the mean over the classes that have objects of the size."""
        return tuple(np.array([mean(row) for row in each]) for each in (self.iou, self.recall))


def bin_names() -> list[str]:
    """The bins in words, smallest first."""
    inner = [f"{low}²-{high}²" for low, high in pairwise(SIDES)]
    return [f"< {SIDES[0]}²", *inner, f"≥ {SIDES[-1]}²"]


def _regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) areas of the connected regions, and (H, W) the index of each; -1 outside of them."""
    _, places, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return stats[1:, cv2.CC_STAT_AREA].astype(np.int64), places - 1


def _bin(areas: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.square(SIDES), areas, side="right")


def _sum(bins: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.bincount(bins, values, BINS).astype(np.int64)


def _largest_share(regions: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of pixels in a region and in an object: each region, and the object it shares most with."""
    columns = int(objects.max(initial=0)) + 1
    pairs, pixels = np.unique(regions.astype(np.int64) * columns + objects, return_counts=True)
    region, main = pairs // columns, pairs % columns
    order = np.lexsort((main, -pixels, region))
    found, first = np.unique(region[order], return_index=True)
    return found, main[order][first]
