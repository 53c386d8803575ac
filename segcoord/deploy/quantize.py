"""Calibration images for int8, and its loss of mIoU.

Post-training quantization measures the range of every activation on calibration images. They come
from the train split, so that the split that measures the loss stays unseen.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from segcoord.data.split import Split
from segcoord.deploy.graph import Graph
from segcoord.evaluation.evaluate import evaluate
from segcoord.models.fold_batch_norm import fold_batch_norm
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console, progress_bar
from segcoord.utils.errors import UserError

CALIBRATION = 300  # NNCF's default; its documentation recommends at least that many


class CalibrationImages(Sequence):
    """Images of a split, (H, W, 3) uint8 RGB, evenly spaced, read on access.

    Args:
        split: of the images.
        count: number of images; default CALIBRATION, or all of a smaller split.

    Raises:
        UserError: `count` exceeds the split.
    """

    def __init__(self, split: Split, count: int | None = None) -> None:
        if count is not None and not 1 <= count <= len(split):
            raise UserError(
                f"--calibration: found {count}, expected 1 to {len(split)}, the images of split "
                f"{split.name!r}"
            )
        self.split = split
        count = count or min(CALIBRATION, len(split))
        self.indices = np.linspace(0, len(split) - 1, count).round().astype(int)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.split.read(int(self.indices[index]))[0]


class GraphInputs(Sequence):
    """(H, W, 3) uint8 images as inputs of a graph, on access: 300 of 1024x2048 take 7.5 GB."""

    def __init__(self, graph: Graph, images: Sequence[np.ndarray]) -> None:
        self.graph, self.images = graph, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.graph.to_input(torch.from_numpy(np.array(self.images[index]))[None]).numpy()


def quantization_loss(
    model: SegmentationModel,
    net: nn.Module,
    calibration: CalibrationImages,
    split: Split,
    workers: int,
) -> dict:
    """Scores the checkpoint and its int8 file, prints both mIoUs and returns them.

    Raises:
        UserError: no pixel of the split's masks has a class.
    """
    mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
    quantized = SegmentationModel(net, model.spec, model.labels, mean, std)
    folded = fold_batch_norm(model).to(memory_format=torch.channels_last)
    before = _miou(folded, split, workers, "the checkpoint")
    after = _miou(quantized, split, workers, "int8")
    console.print(
        f"mIoU on {split.name}, {len(split)} images: {100 * before:.2f} % before, "
        f"{100 * after:.2f} % at int8, a loss of {100 * (before - after):.2f} points",
        highlight=False,
    )
    return {
        "split": split.name,
        "images": len(split),
        "miou_before": before,
        "miou_after": after,
        "calibration": len(calibration),
        "calibrated_on": calibration.split.name,
    }


def _miou(model: SegmentationModel, split: Split, workers: int, name: str) -> float:
    with progress_bar() as bar:
        task = bar.add_task(f"score {name}", total=len(split))
        scores = evaluate(model, split, workers, lambda *_: bar.advance(task))
    if scores is None:
        raise UserError(
            f"--split {split.name}: no pixel of its masks has a class, so the loss of int8 can't "
            "be measured"
        )
    return float(scores.miou)
