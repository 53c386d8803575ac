"""Whether a model is as often right as it is sure.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2: pixels are binned by
the probability of the class that is predicted, and the expected calibration error (ECE, eq. 3) is
the mean over the pixels of the difference between a bin's confidence and its accuracy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from segcoord.evaluation.metrics import divide
from segcoord.models.segmentation import SegmentationModel

BINS = 15
IMAGES = 100
"""At most so many images, evenly spread over the split, are looked at: each costs a prediction."""

STEP = 4
"""Every so many pixels in both directions."""


class Calibration:
    """Counts pixels by confidence: of one prediction of the whole image at its own size."""

    def __init__(self) -> None:
        self.pixels, self.right = np.zeros((2, BINS), np.int64)
        """(BINS,) in the bins (0, 1/15], (1/15, 2/15], ...: all pixels; those that are right."""
        self.confidence = np.zeros(BINS)
        """(BINS,) float64, summed over the pixels."""

    @torch.inference_mode()
    def add(self, model: SegmentationModel, image: np.ndarray, truth: np.ndarray) -> None:
        """Counts one image.

        Args:
            model: in eval mode.
            image: (H, W, 3) uint8 RGB.
            truth: (H, W) uint8 class indices, 255 for void.
        """
        batch = torch.from_numpy(np.ascontiguousarray(image)).unsqueeze(0).to(model.mean.device)
        logits = model.logits_at_stride(model.normalize(batch))[0]  # (K, h, w)
        sampled = sample_logits(logits, model.padded_size(*truth.shape), truth.shape)
        confidence, prediction = sampled.double().softmax(0).max(0)  # (rows, columns) each
        truth = truth[STEP // 2 :: STEP, STEP // 2 :: STEP]
        labelled = truth < len(logits)
        self.count(
            confidence.cpu().numpy()[labelled],
            prediction.cpu().numpy()[labelled] == truth[labelled],
        )

    def count(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """Counts pixels: (n,) float64 in 0..1, (n,) bool."""
        place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        self.pixels += np.bincount(place, minlength=BINS)
        self.right += np.bincount(place[right], minlength=BINS)
        self.confidence += np.bincount(place, confidence, BINS)

    @property
    def accuracy(self) -> np.ndarray:
        """(BINS,) float64; NaN for an empty bin."""
        return divide(self.right, self.pixels)

    @property
    def mean_confidence(self) -> np.ndarray:
        """(BINS,) float64; NaN for an empty bin."""
        return divide(self.confidence, self.pixels)

    @property
    def ece(self) -> float:
        """In 0..1; NaN without a pixel."""
        return float(divide(np.abs(self.right - self.confidence).sum(), self.pixels.sum()))


def sample_logits(logits: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Every `STEP`th pixel, from `STEP // 2` on, of the upsampled logits.

    Args:
        logits: (K, h, w), at the network's stride.
        padded: (H', W') that they are upsampled to, bilinearly with align_corners=False.
        size: (H, W) of the image, the upper left part of that.

    Returns:
        (K, H / STEP, W / STEP), as many as there are; only they are computed.
    """
    for axis in (1, 2):
        n, whole, shown = logits.shape[axis], padded[axis - 1], size[axis - 1]
        place = torch.arange(STEP // 2, shown, STEP, device=logits.device)
        at = ((place + 0.5) * n / whole - 0.5).clamp(0, n - 1)
        low = at.long()
        share = (at - low).view(-1, 1) if axis == 1 else at - low
        high = (low + 1).clamp(max=n - 1)
        logits = logits.index_select(axis, low) * (1 - share) + (
            logits.index_select(axis, high) * share
        )
    return logits
