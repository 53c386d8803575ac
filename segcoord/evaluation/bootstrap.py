"""Whether a difference in mIoU is more than the chance of which images were scored.

Both models predict the same images. The images are drawn again with replacement, both models are
scored on the same draw as a whole dataset is scored (summed over its images first), and the
difference is taken: a paired percentile bootstrap (Efron, Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13). What it knows is the chance in the images. What another seed of the
training would have given, it can't know.

Shapes: N images, K classes, R draws. A count is (..., 3, K) int64: pixels found, in truth,
predicted.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch

from segcoord.evaluation.metrics import count_pairs, divide, or_none

FEW_IMAGES = 10  # a class in fewer images has too few to draw from for its interval to be trusted
_AT_ONCE = 2**22  # drawn images that are held at a time


def count_image(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """What the IoU of each class needs of one image.

    Args:
        prediction: (H, W) uint8 class indices.
        truth: (H, W) uint8 class indices; 255, as all above the classes, counts nowhere.
        num_classes: K.

    Returns:
        (3, K) int64: pixels of each class that were found, that are in truth, that were predicted.
    """
    pairs = (torch.from_numpy(np.ascontiguousarray(x)) for x in (truth, prediction))
    confusion = count_pairs(*pairs).numpy()[:num_classes, :num_classes]
    return np.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)])


def iou(counts: np.ndarray) -> np.ndarray:
    """(..., 3, K) counts -> (..., K) float64; NaN for a class that is not in truth."""
    found, truth, predicted = np.moveaxis(counts, -2, 0)
    return np.where(truth > 0, divide(found, truth + predicted - found), np.nan)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """(..., 3, K) counts -> (...) float64: the mean over the classes in truth.

    A class that is predicted and in no truth lowers the IoU of those it was taken for, and has none
    of its own; so two models are averaged over the same classes.
    """
    return _mean(iou(counts))


def _mean(values: np.ndarray) -> np.ndarray:
    there = np.isfinite(values)
    return divide(np.where(there, values, 0).sum(-1), there.sum(-1))


@dataclass(frozen=True)
class Estimate:
    """A value, and the percentile interval of what the draws gave; NaN where there is none."""

    value: float
    low: float
    high: float

    @property
    def outside_noise(self) -> bool:
        """Whether 0 is outside of the interval."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict:
        return {"value": or_none(self.value), "interval": [or_none(self.low), or_none(self.high)]}


@dataclass(frozen=True)
class Comparison:
    """B minus A on the same images, as fractions of 1.

    Args:
        a, b: mIoU of each, over the classes in truth.
        difference: of the mIoU.
        iou_a, iou_b: (K,) float64; NaN for a class that is not in truth.
        classes: the difference of each class.
        images: (K,) how many images have each class in truth.
        drawn: N, the images that have any labelled pixel.
        resamples: R.
        level: of the intervals.
        seed: of the draws.
    """

    a: float
    b: float
    difference: Estimate
    iou_a: np.ndarray
    iou_b: np.ndarray
    classes: list[Estimate]
    images: np.ndarray
    drawn: int
    resamples: int
    level: float
    seed: int

    def sentence(self, a: str = "A", b: str = "B") -> str:
        """What the difference is worth, in words."""
        d = self.difference
        interval = f"{100 * self.level:g} % interval {100 * d.low:+.2f} to {100 * d.high:+.2f}"
        if d.value == d.low == d.high == 0:
            return f"{a} and {b} have the same mIoU on every draw of the {self.drawn} images."
        if self.drawn < FEW_IMAGES:
            return (
                f"The difference of {100 * d.value:+.2f} points is of {self.drawn} "
                f"image{'s' * (self.drawn > 1)} ({interval}), too few to tell it from noise."
            )
        if not d.outside_noise:
            return (
                f"The difference of {100 * d.value:+.2f} points is within the noise of "
                f"{self.drawn} images ({interval}): it doesn't tell {a} from {b}."
            )
        better = b if d.value > 0 else a
        return (
            f"{better} is better by {100 * abs(d.value):.2f} points, outside the noise of "
            f"{self.drawn} images ({b} - {a}: {interval})."
        )

    def to_dict(self, names: list[str]) -> dict:
        """For JSON; null where there is nothing to divide by."""
        classes = [
            {
                "name": name,
                "a": or_none(self.iou_a[i]),
                "b": or_none(self.iou_b[i]),
                "difference": self.classes[i].to_dict(),
                "images": int(self.images[i]),
            }
            for i, name in enumerate(names)
        ]
        return {
            "a": {"miou": or_none(self.a)},
            "b": {"miou": or_none(self.b)},
            "difference": self.difference.to_dict(),
            "outside_noise": self.difference.outside_noise if self.drawn >= FEW_IMAGES else None,
            "classes": classes,
            "images": self.drawn,
            "bootstrap": {"resamples": self.resamples, "level": self.level, "seed": self.seed},
        }


def compare(
    a: np.ndarray, b: np.ndarray, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Comparison:
    """Compares two models on the same images, class by class.

    Args:
        a, b: (N, 3, K) int64 counts of each image, from `count_image`, in one order.
        resamples: R, how often the images are drawn anew.
        level: of the intervals, 0 to 1.
        seed: of the draws.

    Raises:
        ValueError: counts of other images, or of none that has a label.
    """
    if a.shape != b.shape or not np.array_equal(a[:, 1], b[:, 1]):
        raise ValueError("the counts are of other images: their truths differ")
    labelled = a[:, 1].any(1)  # an image that is all void says nothing
    a, b = a[labelled], b[labelled]
    if not len(a):
        raise ValueError("no image has a labelled pixel")
    values = _differences(a.sum(0), b.sum(0))
    drawn = np.concatenate(
        [_differences(x, y) for x, y in zip(_draws(a, resamples, seed), _draws(b, resamples, seed))]
    )
    mean, *classes = _estimates(values, drawn, level)
    images = (a[:, 1] > 0).sum(0)
    miou_a, miou_b = (float(mean_iou(x.sum(0))) for x in (a, b))
    iou_a, iou_b = iou(a.sum(0)), iou(b.sum(0))
    return Comparison(
        miou_a, miou_b, mean, iou_a, iou_b, classes, images, len(a), resamples, level, seed
    )


def interval(
    counts: np.ndarray, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """The mIoU of one model over the classes in truth, with its interval over the images.

    Arguments as for `check_across_splits`.
    """
    counts = counts[counts[:, 1].any(1)]
    if not len(counts):
        raise ValueError("no image has a labelled pixel")
    drawn = np.concatenate([mean_iou(x) for x in _draws(counts, resamples, seed)])
    (estimate,) = _estimates(mean_iou(counts.sum(0))[None], drawn[:, None], level)
    return estimate


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(..., 3, K) twice -> (..., 1 + K) float64: B - A of the mIoU, then of each class."""
    before, after = iou(a), iou(b)
    return np.concatenate([(_mean(after) - _mean(before))[..., None], after - before], -1)


def _draws(counts: np.ndarray, resamples: int, seed: int):
    """Sums over N images drawn with replacement, R times: blocks of (r, 3, K) int64."""
    n = len(counts)
    rng = np.random.default_rng(seed)
    flat = counts.reshape(n, -1).astype(np.float64)  # exact up to 2**53 pixels
    for first in range(0, resamples, rows := max(1, _AT_ONCE // n)):
        r = min(rows, resamples - first)
        drawn = rng.integers(n, size=(r, n)) + n * np.arange(r)[:, None]
        times = np.bincount(drawn.ravel(), minlength=r * n).reshape(r, n)  # of each image
        yield (times @ flat).reshape(r, *counts.shape[1:]).astype(np.int64)


def _estimates(values: np.ndarray, drawn: np.ndarray, level: float) -> list[Estimate]:
    """(V,) values and (R, V) draws; a draw without a class says nothing of that class."""
    tail = 100 * (1 - level) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class in no truth is NaN in all draws
        low, high = np.nanpercentile(drawn, [tail, 100 - tail], axis=0)
    return [Estimate(float(v), float(x), float(y)) for v, x, y in zip(values, low, high)]
