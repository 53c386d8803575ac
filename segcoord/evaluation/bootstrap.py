"""Paired bootstrap over images: is a difference in mIoU larger than the noise of the image sample?

Both models predict the same images. Each resample draws images with replacement and scores both
models on them as on a dataset (counts are summed over the images first). The percentiles of the
differences give the interval (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993,
chapter 13). It covers the choice of images, not the variance between training runs.

Shapes: N images, K classes, R resamples. Counts are (..., 3, K) int64: true positives, pixels in
truth, predicted pixels.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from segcoord.evaluation.metrics import divide, joint_histogram, or_none

MIN_IMAGES = 10
"""An interval from fewer images is too narrow to be trusted."""

_BLOCK_SIZE = 2**22  # image indices drawn at a time


def count_image(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts the pixels of one image from which IoU is computed.

    Args:
        prediction: (H, W) uint8 class indices; values of `num_classes` and above are void, which is
            wrong.
        truth: (H, W) uint8 class indices; values of `num_classes` and above (void) are ignored.
        num_classes: K.

    Returns:
        (3, K) int64: per class the true positives, the pixels in truth and the predicted pixels.
    """
    counts = joint_histogram(truth, prediction)[:num_classes]
    return np.stack([counts.diagonal(), counts.sum(1), counts.sum(0)[:num_classes]])


def iou_in_truth(counts: np.ndarray) -> np.ndarray:
    """(..., 3, K) counts -> (..., K) float64; NaN for a class that is not in truth."""
    true_positives, truth, predicted = np.moveaxis(counts, -2, 0)
    return np.where(truth > 0, divide(true_positives, truth + predicted - true_positives), np.nan)


def mean_iou_in_truth(counts: np.ndarray) -> np.ndarray:
    """(..., 3, K) counts -> (...) float64: the mean over the classes in truth.

    A class that is only predicted has no IoU of its own (it still lowers that of other classes), so
    both models are averaged over the same classes.
    """
    return _nanmean(iou_in_truth(counts))


def _nanmean(values: np.ndarray) -> np.ndarray:
    valid = np.isfinite(values)
    return divide(np.where(valid, values, 0).sum(-1), valid.sum(-1))


@dataclass(frozen=True)
class Estimate:
    """A value and its percentile interval; NaN where undefined."""

    value: float
    low: float
    high: float

    @property
    def outside_noise(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict:
        return {"value": or_none(self.value), "interval": [or_none(self.low), or_none(self.high)]}


@dataclass(frozen=True)
class Comparison:
    """Scores of models A and B on the same images and the differences B - A, as fractions of 1.

    Args:
        a, b: mIoU of each, over the classes in truth.
        difference: of the mIoU.
        iou_a, iou_b: (K,) float64; NaN for a class that is not in truth.
        classes: the difference of each class's IoU.
        images: (K,) number of images with each class in truth.
        drawn: N, the images with labeled pixels.
        resamples: R.
        level: confidence level of the intervals.
        seed: of the resampling.
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

    def summary(self, a: str = "A", b: str = "B") -> str:
        """Says whether the difference is outside the noise, in one sentence."""
        d = self.difference
        interval = f"{100 * self.level:g} % interval {100 * d.low:+.2f} to {100 * d.high:+.2f}"
        if d.value == d.low == d.high == 0:
            return f"{a} and {b} have the same mIoU in every resample of the {self.drawn} images."
        if self.drawn < MIN_IMAGES:
            return (
                f"The difference of {100 * d.value:+.2f} points is from {self.drawn} "
                f"image{'s' * (self.drawn > 1)} ({interval}), too few to tell it from noise."
            )
        if not d.outside_noise:
            return (
                f"The difference of {100 * d.value:+.2f} points is within the noise of "
                f"{self.drawn} images ({interval}): it does not separate {a} from {b}."
            )
        better = b if d.value > 0 else a
        return (
            f"{better} is better by {100 * abs(d.value):.2f} points, outside the noise of "
            f"{self.drawn} images ({b} - {a}: {interval})."
        )

    def to_dict(self, names: list[str]) -> dict:
        """For JSON; null where undefined."""
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
            "outside_noise": self.difference.outside_noise if self.drawn >= MIN_IMAGES else None,
            "classes": classes,
            "images": self.drawn,
            "bootstrap": {"resamples": self.resamples, "level": self.level, "seed": self.seed},
        }


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Comparison:
    """Compares two models on the same images, overall and per class.

    Args:
        a, b: (N, 3, K) int64 counts of each image from `count_image`, in the same order.
        resamples: R.
        level: confidence level of the intervals, 0 to 1.
        seed: of the resampling.

    Raises:
        ValueError: counts of different images, or no image with a labeled pixel.
    """
    if a.shape != b.shape or not np.array_equal(a[:, 1], b[:, 1]):
        raise ValueError("the counts are from different images: their truths differ")
    labeled = a[:, 1].any(1)
    a, b = a[labeled], b[labeled]
    if not len(a):
        raise ValueError("no image has a labeled pixel")
    sum_a, sum_b = a.sum(0), b.sum(0)
    pairs = zip(_resample(a, resamples, seed), _resample(b, resamples, seed))
    resampled = np.concatenate([_differences(x, y) for x, y in pairs])
    difference, *classes = _estimates(_differences(sum_a, sum_b), resampled, level)
    return Comparison(
        a=float(mean_iou_in_truth(sum_a)),
        b=float(mean_iou_in_truth(sum_b)),
        difference=difference,
        iou_a=iou_in_truth(sum_a),
        iou_b=iou_in_truth(sum_b),
        classes=classes,
        images=(a[:, 1] > 0).sum(0),
        drawn=len(a),
        resamples=resamples,
        level=level,
        seed=seed,
    )


def miou_interval(
    counts: np.ndarray, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """The mIoU of one model over the classes in truth, with its interval over the images.

    Arguments and errors are those of `paired_bootstrap`.
    """
    counts = counts[counts[:, 1].any(1)]
    if not len(counts):
        raise ValueError("no image has a labeled pixel")
    resampled = np.concatenate([mean_iou_in_truth(x) for x in _resample(counts, resamples, seed)])
    (estimate,) = _estimates(mean_iou_in_truth(counts.sum(0))[None], resampled[:, None], level)
    return estimate


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two (..., 3, K) counts -> (..., 1 + K) float64: B - A of the mIoU, then of each class."""
    iou_a, iou_b = iou_in_truth(a), iou_in_truth(b)
    return np.concatenate([(_nanmean(iou_b) - _nanmean(iou_a))[..., None], iou_b - iou_a], -1)


def _resample(counts: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Sums of counts over N images drawn with replacement, in blocks of (r, 3, K) int64."""
    n = len(counts)
    rng = np.random.default_rng(seed)
    flat = counts.reshape(n, -1).astype(np.float64)  # exact up to 2**53 pixels
    for start in range(0, resamples, block := max(1, _BLOCK_SIZE // n)):
        r = min(block, resamples - start)
        indices = rng.integers(n, size=(r, n)) + n * np.arange(r)[:, None]
        repeats = np.bincount(indices.ravel(), minlength=r * n).reshape(r, n)
        yield (repeats @ flat).reshape(r, *counts.shape[1:]).astype(np.int64)


def _estimates(values: np.ndarray, resampled: np.ndarray, level: float) -> list[Estimate]:
    """(V,) values and (R, V) resamples, NaN where a class is absent -> an estimate per value."""
    tail = 100 * (1 - level) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that is NaN in every resample
        low, high = np.nanpercentile(resampled, [tail, 100 - tail], axis=0)
    return [Estimate(float(v), float(x), float(y)) for v, x, y in zip(values, low, high)]
