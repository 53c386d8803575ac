"""What a report needs of the images, gathered one by one; none of them is kept but a few examples.

Memory: for each image 3 K counts; else it doesn't grow with the split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segcoord.data.labels import LabelSet
from segcoord.data.split import Sample
from segcoord.evaluation.bootstrap import Comparison, count_image
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.report.boundary import BoundaryBands
from segcoord.evaluation.report.calibration import IMAGES, Calibration
from segcoord.evaluation.report.extremes import Examples
from segcoord.evaluation.report.object_sizes import ObjectSizes
from segcoord.models.segmentation import SegmentationModel


class ReportCollector:
    """Everything but the confusion matrix, which the evaluation counts itself.

    Args:
        model: that predicts; in eval mode.
        images: how many will come.
    """

    def __init__(self, model: SegmentationModel, images: int) -> None:
        self.model = model
        k = len(model.labels)
        self.bands = BoundaryBands(k)
        self.sizes = ObjectSizes(k)
        self.calibration = Calibration()
        self.examples = Examples()
        self._looked_at = set(np.linspace(0, images - 1, min(images, IMAGES)).round().astype(int))
        self._counts: list[np.ndarray] = []

    def add(
        self, sample: Sample, image: np.ndarray, prediction: np.ndarray, truth: np.ndarray
    ) -> None:
        """Takes one image, as `evaluate` hands it to `on_image`."""
        if len(self._counts) in self._looked_at:
            self.calibration.add(self.model, image, truth)
        counts = count_image(prediction, truth, len(self.model.labels))
        self._counts.append(counts)
        self.bands.add(prediction, truth)
        self.sizes.add(prediction, truth)
        self.examples.add(sample.stem, image, prediction, truth, counts)

    @property
    def counts(self) -> np.ndarray:
        """(N, 3, K) int64 of the images, in the order they came."""
        return np.stack(self._counts)

    @property
    def calibrated_images(self) -> int:
        """How many images the calibration looked at."""
        return len(self._looked_at)


@dataclass(frozen=True)
class ReportData:
    """All that a report tells.

    Args:
        scores: of the whole split.
        labels: the classes.
        how: `evaluation.protocol`.
        gathered: of its images.
        change: from another checkpoint to this one, if there is another.
        against: that checkpoint's path.
    """

    scores: Scores
    labels: LabelSet
    how: dict
    gathered: ReportCollector
    change: Comparison | None = None
    against: str | None = None
