"""Sheets of a few images with their truth and prediction, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segcoord.data.labels import LabelSet
from segcoord.data.split import Sample, Split
from segcoord.inference.visualize import blend, sheet, write_picture

if TYPE_CHECKING:
    from segcoord.models.segmentation import SegmentationModel

TITLES = ("image", "truth", "prediction")


def draw_examples(model: SegmentationModel, split: Split, n: int = 4) -> np.ndarray:
    """Draws image, truth and prediction of `n` evenly spaced images of a split with masks.

    The model is in eval mode. Returns (H, W, 3) uint8 RGB.
    """
    from segcoord.inference.predict import predict  # imports torch

    rows = []
    for index in evenly_spaced(n, len(split)):
        image, truth = split.read(index)
        rows.append(example(image, predict(model, image), truth, model.labels))
    return sheet(rows, TITLES, model.labels, width=320)


class SampleSheet:
    """An `ImageCallback` that keeps `n` evenly spaced images of a split with masks."""

    def __init__(self, split: Split, n: int = 6) -> None:
        self.labels = split.labels
        self._stems = {split.samples[i].stem for i in evenly_spaced(n, len(split))}
        self._rows: list[list[np.ndarray]] = []

    def __call__(self, sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        if sample.stem in self._stems:
            self._rows.append(example(image, prediction, truth, self.labels))

    def write(self, path: Path) -> None:
        """Writes the sheet as PNG or JPEG, by suffix."""
        write_picture(path, sheet(self._rows, TITLES, self.labels))


def example(
    image: np.ndarray, prediction: np.ndarray, truth: np.ndarray, labels: LabelSet
) -> list[np.ndarray]:
    """A row of a sheet, with the columns `TITLES`."""
    return [image, blend(image, truth, labels), blend(image, prediction, labels)]


def evenly_spaced(n: int, total: int) -> list[int]:
    """At most `n` indices from 0 to `total` - 1, both included."""
    return np.linspace(0, total - 1, min(n, total)).round().astype(int).tolist()
