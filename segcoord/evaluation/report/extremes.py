"""The images that a model does worst and best, small enough to be shown."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from segcoord.evaluation.bootstrap import iou

KEPT = 4
LONGEST = 640  # pixels of a picture's longer side


@dataclass(frozen=True)
class Example:
    """One image as it is shown.

    Args:
        stem: of its file.
        miou: of this image alone: the mean over the classes in its truth, 0..1.
        lowest: index of the class in its truth with the lowest IoU.
        lowest_iou: of that class in this image.
        image: (h, w, 3) uint8 RGB, at most `LONGEST`.
        truth, prediction: (h, w) uint8 class indices, 255 in truth for void.
    """

    stem: str
    miou: float
    lowest: int
    lowest_iou: float
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class Examples:
    """Keeps the worst and the best of the images it sees, and no other."""

    def __init__(self) -> None:
        self._worst: list[Example] = []
        self._best: list[Example] = []

    def add(
        self,
        stem: str,
        image: np.ndarray,
        prediction: np.ndarray,
        truth: np.ndarray,
        counts: np.ndarray,
    ) -> None:
        """Looks at one image; `counts` are its (3, K) of `count_image`."""
        by_class = iou(counts)
        if np.isnan(by_class).all():
            return  # nothing of it is labelled
        miou = float(np.nanmean(by_class))
        low = len(self._worst) < KEPT or (miou, stem) < _rank(self._worst[-1])
        high = len(self._best) < KEPT or (miou, stem) > _rank(self._best[-1])
        if not (low or high):
            return
        lowest = int(np.nanargmin(by_class))
        pictures = _shrink(image, truth, prediction)
        example = Example(stem, miou, lowest, float(by_class[lowest]), *pictures)
        if low:
            self._worst = sorted([*self._worst, example], key=_rank)[:KEPT]
        if high:
            self._best = sorted([*self._best, example], key=_rank, reverse=True)[:KEPT]

    def worst_and_best(self) -> tuple[list[Example], list[Example]]:
        """At most `KEPT` each, the most extreme first; no image is in both."""
        seen = sorted({id(e): e for e in self._worst + self._best}.values(), key=_rank)
        half = min(KEPT, (len(seen) + 1) // 2)
        return seen[:half], seen[half:][::-1]


def _rank(example: Example) -> tuple[float, str]:
    return example.miou, example.stem


def _shrink(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = truth.shape
    scale = min(1.0, LONGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    maps = (cv2.resize(m, size, interpolation=cv2.INTER_NEAREST_EXACT) for m in (truth, prediction))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), *maps
