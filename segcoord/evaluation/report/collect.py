"""Statistics of a report, collected image by image.

Memory grows by 3 K counts per image (K classes). Of the images themselves only a few are kept.
"""

from dataclasses import dataclass

import numpy as np

from segcoord.data.labels import LabelSet
from segcoord.data.split import Sample
from segcoord.evaluation.bootstrap import Comparison, count_image
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.report.boundary import BoundaryBands
from segcoord.evaluation.report.calibration import MAX_IMAGES, Calibration
from segcoord.evaluation.report.extremes import ExtremeImages
from segcoord.evaluation.report.object_sizes import ObjectSizes
from segcoord.evaluation.sheet import evenly_spaced
from segcoord.models.segmentation import SegmentationModel


class ReportCollector:
    """Collects everything but the confusion matrix, which `evaluate` counts.

    Args:
        labels: the classes.
        images: number of images to come.
        model: in eval mode; the calibration predicts some images with it. Masks of another program
            have none, and no calibration.
    """

    def __init__(
        self, labels: LabelSet, images: int, model: SegmentationModel | None = None
    ) -> None:
        self.labels, self.model = labels, model
        k = len(labels)
        self.bands = BoundaryBands(k)
        self.sizes = ObjectSizes(k)
        self.calibration = None if model is None else Calibration()
        self.extremes = ExtremeImages()
        self._calibrated = set(evenly_spaced(MAX_IMAGES, images))
        self._counts: list[np.ndarray] = []

    def add(self, sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        """An `ImageCallback` for `evaluate`."""
        if self.calibration is not None and len(self._counts) in self._calibrated:
            self.calibration.add(self.model, image, truth)
        counts = count_image(prediction, truth, len(self.labels))
        self._counts.append(counts)
        self.bands.add(prediction, truth)
        self.sizes.add(prediction, truth)
        self.extremes.add(sample.stem, image, prediction, truth, counts)

    @property
    def counts(self) -> np.ndarray:
        """(N, 3, K) int64 from `count_image`, in the order of the images."""
        return np.stack(self._counts)

    @property
    def calibrated_images(self) -> int:
        """Number of images that the calibration uses."""
        return len(self._calibrated)


@dataclass(frozen=True)
class ReportData:
    """The content of a report.

    Args:
        scores: of the whole split.
        labels: the classes.
        protocol: from `evaluation.protocol`.
        collected: statistics of the images.
        change: from another checkpoint to this one, if there is another.
        against: path of that checkpoint.
    """

    scores: Scores
    labels: LabelSet
    protocol: dict
    collected: ReportCollector
    change: Comparison | None = None
    against: str | None = None
