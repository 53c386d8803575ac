"""The images with the lowest and the highest mIoU, downscaled for display."""

from dataclasses import dataclass

import cv2
import numpy as np

from segcoord.evaluation.bootstrap import iou_in_truth

NUM_IMAGES = 4
MAX_SIDE = 640  # pixels of the longer side


@dataclass(frozen=True)
class ScoredImage:
    """One image with its scores, downscaled for display.

    Args:
        stem: of its file.
        miou: of this image alone: the mean over the classes in its truth, 0..1.
        lowest: index of the class in its truth with the lowest IoU.
        lowest_iou: IoU of that class in this image.
        image: (h, w, 3) uint8 RGB, `MAX_SIDE` pixels at most.
        truth, prediction: (h, w) uint8 class indices, 255 in truth for void.
    """

    stem: str
    miou: float
    lowest: int
    lowest_iou: float
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class ExtremeImages:
    """Keeps the worst and the best images, and discards all others."""

    def __init__(self) -> None:
        self._worst: list[ScoredImage] = []
        self._best: list[ScoredImage] = []

    def add(
        self,
        stem: str,
        image: np.ndarray,
        prediction: np.ndarray,
        truth: np.ndarray,
        counts: np.ndarray,
    ) -> None:
        """Adds one image; `counts` are its (3, K) counts from `count_image`."""
        class_iou = iou_in_truth(counts)
        if np.isnan(class_iou).all():
            return  # no labeled pixel
        miou = float(np.nanmean(class_iou))
        is_low = len(self._worst) < NUM_IMAGES or (miou, stem) < _rank(self._worst[-1])
        is_high = len(self._best) < NUM_IMAGES or (miou, stem) > _rank(self._best[-1])
        if not (is_low or is_high):
            return
        lowest = int(np.nanargmin(class_iou))
        pictures = _downscale(image, truth, prediction)
        scored = ScoredImage(stem, miou, lowest, float(class_iou[lowest]), *pictures)
        if is_low:
            self._worst = sorted([*self._worst, scored], key=_rank)[:NUM_IMAGES]
        if is_high:
            self._best = sorted([*self._best, scored], key=_rank, reverse=True)[:NUM_IMAGES]

    def worst_and_best(self) -> tuple[list[ScoredImage], list[ScoredImage]]:
        """At most `NUM_IMAGES` each, the most extreme first; no image is in both."""
        kept = sorted({id(e): e for e in self._worst + self._best}.values(), key=_rank)
        half = min(NUM_IMAGES, (len(kept) + 1) // 2)
        return kept[:half], kept[half:][::-1]


def _rank(scored: ScoredImage) -> tuple[float, str]:
    return scored.miou, scored.stem


def _downscale(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = truth.shape
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    maps = (cv2.resize(m, size, interpolation=cv2.INTER_NEAREST_EXACT) for m in (truth, prediction))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), *maps
