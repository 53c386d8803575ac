"""Scores near the boundaries of the truth: DeepLab's trimaps.

Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs"
(arXiv:1412.7062) and "DeepLab" (arXiv:1606.00915): the mean IoU of the pixels within a narrow band
around the boundaries, for several widths of the band. There the boundaries are VOC's void outlines;
here they are wherever a label changes, void being a label, which on VOC differs only where two
classes touch without void between them.
"""

from __future__ import annotations

import cv2
import numpy as np

from segcoord.evaluation.metrics import Scores

WIDTHS = 40
"""The widest band, in pixels to either side of a boundary."""


def boundary_distance(truth: np.ndarray) -> np.ndarray:
    """How far each pixel is from the nearest boundary pixel of a map.

    A boundary pixel is one whose upper, lower, left or right neighbour has another label, void
    being a label; the image's own edge is no boundary.

    Args:
        truth: (H, W) uint8.

    Returns:
        (H, W) float32 Euclidean distance in pixels, 0 on a boundary pixel; inf where there is none.
    """
    boundary = np.zeros(truth.shape, bool)
    rows, columns = truth[1:] != truth[:-1], truth[:, 1:] != truth[:, :-1]
    boundary[1:] |= rows
    boundary[:-1] |= rows
    boundary[:, 1:] |= columns
    boundary[:, :-1] |= columns
    if not boundary.any():
        return np.full(truth.shape, np.inf, np.float32)
    return cv2.distanceTransform((~boundary).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


class BoundaryBands:
    """Counts pixels by their distance to a boundary.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((WIDTHS, num_classes, num_classes), np.int64)
        """Truth in rows; in ring w - 1 the pixels whose distance is from w - 1 to less than w."""

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Counts one image: (H, W) uint8 class indices, 255 in truth for void."""
        k = self.confusion.shape[1]
        distance = boundary_distance(truth)
        near = (distance < WIDTHS) & (truth < k)
        ring = distance[near].astype(np.int64)
        places = (ring * k + truth[near]) * k + prediction[near]
        self.confusion += np.bincount(places, minlength=self.confusion.size).reshape(-1, k, k)

    def bands(self) -> list[Scores]:
        """The scores of the bands of 1 to `WIDTHS` pixels, in that order."""
        return [Scores(confusion) for confusion in self.confusion.cumsum(0)]
