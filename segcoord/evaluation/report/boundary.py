"""Scores near boundaries: DeepLab's trimaps.

Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs"
(arXiv:1412.7062) and "DeepLab" (arXiv:1606.00915): the mean IoU of the pixels within a narrow band
around the boundaries, for several band widths. They use VOC's void outlines as boundaries. Here a
boundary is any change of label, void included; on VOC this only differs where two classes touch
without void between them.
"""

import cv2
import numpy as np

from segcoord.evaluation.metrics import Scores

MAX_WIDTH = 40
"""The widest band, in pixels on each side of a boundary."""


def boundary_distance(truth: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the nearest boundary pixel.

    A boundary pixel has a 4-neighbor with another label, void included. The image border is no
    boundary.

    Args:
        truth: (H, W) uint8.

    Returns:
        (H, W) float32 Euclidean distance in pixels, 0 on a boundary pixel; inf without boundaries.
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
    """One confusion matrix per distance to a boundary.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((MAX_WIDTH, num_classes, num_classes + 1), np.int64)
        """Truth in rows, predicted void in the last column; entry d holds the pixels at distances
        from d to below d + 1."""

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Counts one image: (H, W) uint8 class indices, 255 for void."""
        k = self.confusion.shape[1]
        distance = boundary_distance(truth)
        near = (distance < MAX_WIDTH) & (truth < k)
        ring = distance[near].astype(np.int64)
        cells = (ring * k + truth[near]) * (k + 1) + np.minimum(prediction[near], k)
        counts = np.bincount(cells, minlength=self.confusion.size)
        self.confusion += counts.reshape(self.confusion.shape)

    def bands(self) -> list[Scores]:
        """Scores of the bands of width 1 to `MAX_WIDTH` pixels."""
        return [Scores(confusion) for confusion in self.confusion.cumsum(0)]
