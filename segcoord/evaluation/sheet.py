"""A few images of a split, their truth and what a model makes of them, as one picture."""

from __future__ import annotations

import numpy as np

from segcoord.data.split import Sample, Split
from segcoord.evaluation.evaluate import OnImage
from segcoord.inference.predict import predict
from segcoord.inference.visualize import blend, sheet
from segcoord.models.segmentation import SegmentationModel

EXAMPLES = 4
WIDTH = 320  # of an image, in pixels


def draw_examples(model: SegmentationModel, split: Split) -> np.ndarray:
    """Image, truth and prediction of four images, evenly spaced over a split that has masks.

    Args:
        model: in eval mode.
        split: from `find_split`.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    picked = np.linspace(0, len(split) - 1, min(EXAMPLES, len(split))).round().astype(int)
    rows = []
    for index in picked:
        image, truth = split.read(int(index))
        shown = (blend(image, mask, model.labels) for mask in (truth, predict(model, image)))
        rows.append([image, *shown])
    return sheet(rows, ("image", "truth", "prediction"), model.labels, WIDTH)


SHEET_ROWS = 6


def sheet_rows(rows: list[list[np.ndarray]], split: Split) -> OnImage:
    """What keeps a few images of the split, evenly spread, as rows of pictures."""
    indices = np.linspace(0, len(split) - 1, min(SHEET_ROWS, len(split))).round().astype(int)
    picked = {split.samples[i].stem for i in indices}

    def row(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        if sample.stem in picked:
            blends = [blend(image, indices, split.labels) for indices in (truth, prediction)]
            rows.append([image, *blends])

    return row
