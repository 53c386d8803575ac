"""Mean intersection over union over a whole dataset, from one confusion matrix.

Definition of the Pascal VOC development kit and cityscapesscripts/evaluation: counts are summed
over all images, then divided per class (intersection / union), then averaged over the classes.
segmentation.MeanIoU of torchmetrics averages over images instead, which gives another number.

Imports no torch: masks in files are counted without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 2**24  # OpenCV's histogram is float32, which holds integers exactly up to 2**24


def confusion_matrix(
    preds: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Counts the pixels of each pair of classes.

    Args:
        preds: class indices 0..K-1, any shape, integers.
        target: the same shape; 0..K-1 or `ignore_index`.
        num_classes: K.
        ignore_index: ignored value of the target; K to 255.

    Returns:
        (K, K) int64, target in rows, preds in columns.

    Raises:
        ValueError: different shapes, logits instead of indices, or a value out of range, such as
            an `ignore_index` that is a class.
    """
    import torch

    integers = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    require_ignore_index(ignore_index, num_classes)
    if preds.shape != target.shape:
        raise ValueError(f"preds {tuple(preds.shape)} and target {tuple(target.shape)} differ")
    for name, values in (("preds", preds), ("target", target)):
        if values.dtype not in integers:
            raise ValueError(f"{name}: expected integer class indices, found {values.dtype}")
    k = num_classes
    if preds.numel() == 0:
        return torch.zeros(k, k, dtype=torch.int64, device=preds.device)
    for name, values in (("preds", preds), ("target", target)):
        low, high = (int(v) for v in values.aminmax())
        if low < 0 or high > 255:
            raise ValueError(f"{name} holds {low if low < 0 else high}; {k} classes were expected")
    counts = count_pairs(target.to(torch.uint8), preds.to(torch.uint8))
    outside = counts[:, k:].any(0).nonzero()
    if len(outside):
        raise ValueError(f"preds holds {k + int(outside[0])}; {k} classes were expected")
    other = counts[k:].any(1)
    other[ignore_index - k] = False
    if other.any():
        value = k + int(other.nonzero()[0])
        raise ValueError(f"target holds {value}, neither a class nor {ignore_index}")
    return counts[:k, :k]


def require_ignore_index(ignore_index: int, num_classes: int) -> None:
    """Raise ValueError unless `ignore_index` is from `num_classes` to 255."""
    if not num_classes <= ignore_index <= 255:
        raise ValueError(f"ignore_index={ignore_index}, expected {num_classes} to 255")


def count_pairs(rows: Tensor, columns: Tensor) -> Tensor:
    """Joint histogram of two maps.

    Args:
        rows, columns: uint8, of the same shape.

    Returns:
        (256, 256) int64 on the same device.
    """
    import torch

    rows, columns = rows.flatten(), columns.flatten()
    if rows.device.type != "cpu":
        return torch.bincount(rows.int() * 256 + columns, minlength=256 * 256).view(256, 256)
    return torch.from_numpy(joint_histogram(rows.numpy(), columns.numpy()))


def joint_histogram(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Joint histogram of two maps.

    Args:
        rows, columns: uint8, of the same shape.

    Returns:
        (256, 256) int64.
    """
    rows, columns = rows.ravel(), columns.ravel()
    counts = np.zeros((256, 256), np.int64)
    for start in range(0, rows.size, _CHUNK):
        maps = [values[None, start : start + _CHUNK] for values in (rows, columns)]
        # calcHist needs no memory for the pairs, and void needs no masking.
        counts += cv2.calcHist(maps, [0, 1], None, [256, 256], [0, 256] * 2).astype(np.int64)
    return counts


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix; NaN where the denominator is 0.

    Args:
        confusion: (K, K) int64 pixel counts, truth in rows, prediction in columns; or (K, K + 1),
            whose last column counts labeled pixels predicted as void: they are wrong.
    """

    confusion: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """(K,) int64: labeled pixels of each class."""
        return self.confusion.sum(1)

    @property
    def predicted(self) -> np.ndarray:
        """(K,) int64: labeled pixels predicted as each class."""
        return self.confusion.sum(0)[: len(self.confusion)]

    @property
    def iou(self) -> np.ndarray:
        """(K,) float64; NaN for a class in neither truth nor prediction."""
        union = self.truth + self.predicted - self.confusion.diagonal()
        return divide(self.confusion.diagonal(), union)

    @property
    def dice(self) -> np.ndarray:
        """(K,) float64: Dice coefficient, 2 * intersection / (truth + prediction), also called F1;
        NaN for a class in neither truth nor prediction."""
        total = self.truth + self.predicted
        return divide(2 * self.confusion.diagonal(), total)

    @property
    def foreground_iou(self) -> float:
        """IoU of class 1, the foreground of binary segmentation."""
        return float(self.iou[1])

    @property
    def foreground_dice(self) -> float:
        """Dice coefficient of class 1, the foreground of binary segmentation."""
        return float(self.dice[1])

    @property
    def accuracy(self) -> np.ndarray:
        """(K,) float64: recall of each class; NaN for a class not in truth."""
        return divide(self.confusion.diagonal(), self.truth)

    @property
    def miou(self) -> float:
        return mean(self.iou)

    @property
    def frequency_weighted_iou(self) -> float:
        """Mean IoU weighted by each class's labeled pixels (Long et al. 2015)."""
        return float(divide(np.nansum(self.iou * self.truth), self.truth.sum()))

    @property
    def mean_accuracy(self) -> float:
        return mean(self.accuracy)

    @property
    def pixel_accuracy(self) -> float:
        return float(divide(self.confusion.diagonal().sum(), self.confusion.sum()))

    @property
    def absent(self) -> list[int]:
        """Indices of the classes in neither truth nor prediction, left out of the mIoU."""
        return np.flatnonzero(np.isnan(self.iou)).tolist()

    @property
    def classes_counted(self) -> int:
        return len(self.confusion) - len(self.absent)


def divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """float64; NaN for 0 / 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(part, whole, dtype=np.float64)


def mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN without any."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def or_none(value: float) -> float | None:
    """None instead of NaN, for JSON."""
    return float(value) if np.isfinite(value) else None
