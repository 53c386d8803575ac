"""Calibration: accuracy by confidence, and the expected calibration error (ECE).

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 2: pixels are binned by
the probability of the predicted class. The ECE (eq. 3) is the mean over the pixels of the absolute
difference between the confidence and the accuracy of their bin.
"""

import numpy as np
import torch
from torch import Tensor

from segcoord.evaluation.metrics import divide
from segcoord.models.segmentation import SegmentationModel

BINS = 15
MAX_IMAGES = 100
"""At most this many evenly spaced images are used; each costs one more prediction."""

STEP = 4
"""Every `STEP`th pixel is used in both directions."""


class Calibration:
    """Counts pixels by confidence, from single-scale predictions of whole images."""

    def __init__(self) -> None:
        self.pixels, self.correct = np.zeros((2, BINS), np.int64)
        """(BINS,) pixels, and correct pixels, of the bins (0, 1/15], (1/15, 2/15], ..."""
        self.confidence = np.zeros(BINS)
        """(BINS,) float64, summed over the pixels."""

    @torch.inference_mode()
    def add(self, model: SegmentationModel, image: np.ndarray, truth: np.ndarray) -> None:
        """Predicts and counts one image.

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
        labeled = truth < len(logits)
        self.count(
            confidence.cpu().numpy()[labeled], prediction.cpu().numpy()[labeled] == truth[labeled]
        )

    def count(self, confidence: np.ndarray, correct: np.ndarray) -> None:
        """Counts pixels: (n,) float64 in 0..1, (n,) bool."""
        bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        self.pixels += np.bincount(bins, minlength=BINS)
        self.correct += np.bincount(bins[correct], minlength=BINS)
        self.confidence += np.bincount(bins, confidence, BINS)

    @property
    def accuracy(self) -> np.ndarray:
        """(BINS,) float64; NaN for an empty bin."""
        return divide(self.correct, self.pixels)

    @property
    def mean_confidence(self) -> np.ndarray:
        """(BINS,) float64; NaN for an empty bin."""
        return divide(self.confidence, self.pixels)

    @property
    def ece(self) -> float:
        """Expected calibration error in 0..1; NaN without pixels."""
        return float(divide(np.abs(self.correct - self.confidence).sum(), self.pixels.sum()))


def sample_logits(logits: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Upsamples logits bilinearly, but only at every `STEP`th pixel from `STEP // 2` on.

    Args:
        logits: (K, h, w) at the network's output stride.
        padded: (H', W') to upsample to, with align_corners=False.
        size: (H, W) of the image, the upper left part of the padded size.

    Returns:
        (K, rows, columns): `upsampled[:, STEP // 2 : H : STEP, STEP // 2 : W : STEP]`.
    """
    for axis in (1, 2):
        n, upsampled, length = logits.shape[axis], padded[axis - 1], size[axis - 1]
        pixels = torch.arange(STEP // 2, length, STEP, device=logits.device)
        source = ((pixels + 0.5) * n / upsampled - 0.5).clamp(0, n - 1)
        low = source.long()
        weight = (source - low).view(-1, 1) if axis == 1 else source - low
        high = (low + 1).clamp(max=n - 1)
        logits = logits.index_select(axis, low) * (1 - weight) + (
            logits.index_select(axis, high) * weight
        )
    return logits
