"""What int8 takes: images to calibrate with, and what it costs, told as mIoU.

Post-training quantisation finds the range of every activation on images like those that the model
will see. They are taken from the split that it was trained on, so that the split it is scored on
stays unseen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from segcoord.data.split import Split
from segcoord.deploy.graph import Graph
from segcoord.evaluation.evaluate import evaluate
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import progress_bar
from segcoord.utils.errors import UserError

CALIBRATION = 300  # NNCF's own default; its documentation asks for at least that many


class CalibrationImages(Sequence):
    """Images of a split, (H, W, 3) uint8 RGB, evenly spread over it, read when they are asked for.

    Args:
        split: from `find_split`.
        count: how many; CALIBRATION, or all where there are fewer, unless given.

    Raises:
        UserError: fewer are there than were asked for.
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


class Inputs(Sequence):
    """What a graph takes of each image, made when it is asked for.

    300 images of 1024x2048 at once would be 7.5 GB.

    Args:
        graph: that takes them.
        images: (H, W, 3) uint8 RGB each.
    """

    def __init__(self, graph: Graph, images: Sequence[np.ndarray]) -> None:
        self.graph, self.images = graph, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.graph.feed(torch.from_numpy(np.array(self.images[index]))[None]).numpy()


def track_calibration(inputs: Inputs) -> Iterator[np.ndarray]:
    """One after the other, with a bar."""
    with progress_bar() as bar:
        yield from bar.track(inputs, description="calibrate")


def score_network(model: SegmentationModel, split: Split, workers: int, what: str) -> float:
    """The mIoU of a model on a split, 0 to 1, with a bar that names what runs.

    Raises:
        UserError: the split has nothing to score.
    """
    with progress_bar() as bar:
        task = bar.add_task(f"score {what}", total=len(split))
        scores = evaluate(model, split, workers, lambda *_: bar.advance(task))
    if scores is None:
        raise UserError(
            f"--split {split.name}: no pixel of its masks counts, so the loss of int8 can't be told"
        )
    return float(scores.miou)
