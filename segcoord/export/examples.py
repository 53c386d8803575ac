"""A few images of a split, their truth and what a model makes of them, as one picture."""

from __future__ import annotations

import numpy as np

from segcoord.data.layouts import Split
from segcoord.export.overlays import blend, sheet
from segcoord.inference import predict
from segcoord.model import SegmentationModel

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
