"""Evaluates a model on a split: each image once, at its original size, in one confusion matrix."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import label_set
from segcoord.data.loader import WorkerLoader
from segcoord.data.pack.reader import verify
from segcoord.data.split import Sample, Split
from segcoord.evaluation.metrics import MeanIoU, Scores
from segcoord.inference.predict import SINGLE_VIEW, predict
from segcoord.inference.scales_and_tiles import Views
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import progress_counter
from segcoord.utils.distributed import all_reduce, rank_indices
from segcoord.utils.errors import UserError

ImageCallback = Callable[[Sample, np.ndarray, np.ndarray, "np.ndarray | None"], None]
"""Called with a sample, its image (H, W, 3) uint8 RGB, and prediction and truth (H, W) uint8."""


class _EvalSet(Dataset):
    """(image (H, W, 3) uint8, mask (H, W) uint8 or None) by index, at original size."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        # The arrays of a pack are read-only, and torch.from_numpy warns about those.
        image, mask = self.split.read(index)
        writable = np.require(image, requirements="W")
        return writable, None if mask is None else np.require(mask, requirements="W")


def _no_collate(item: object) -> object:
    return item


def evaluate(
    model: SegmentationModel,
    split: Split,
    workers: int = 2,
    on_image: ImageCallback | None = None,
    views: Views = SINGLE_VIEW,
) -> Scores | None:
    """Predicts every image of a split and scores the predictions if it has masks.

    In a torch.distributed process group, each process predicts its part of the images; every image
    is counted once and all processes return the scores of the whole split.

    Args:
        model: on its device; set to eval mode.
        split: from `find_split`.
        workers: number of processes that read files.
        on_image: called for each image of this process, in order; the truth is None without masks.
        views: scales, flip and tiles of each prediction.

    Returns:
        The scores over the whole split; None without masks, or with dummy masks that have no
        labeled pixel (as in a test split).

    Raises:
        UserError: a file that can't be read.
    """
    model.eval()
    metric = MeanIoU(len(model.labels))
    indices = rank_indices(len(split))
    loader = WorkerLoader(
        _EvalSet(split),
        sampler=indices,
        batch_size=None,
        num_workers=workers,
        collate_fn=_no_collate,
    )
    for index, (image, mask) in zip(indices, loader):
        prediction = predict(model, image, views)
        if mask is not None:
            metric.update(torch.from_numpy(prediction), torch.from_numpy(mask))
        if on_image is not None:
            on_image(split.samples[index], image, prediction, mask)
    metric.confusion = all_reduce(metric.confusion, model.mean.device)
    return metric.scores() if metric.confusion.any() else None


def check_labels(model: SegmentationModel, checkpoint: Path | str, data: DataConfig) -> None:
    """Raises UserError unless the dataset has the classes that a checkpoint was trained for."""
    labels = label_set(data)
    if model.labels.names == labels.names:
        return
    raise UserError(
        f"{data.layout} {data.root} has {len(labels)} classes ({', '.join(labels.names[:4])}, "
        f"...), {checkpoint} was trained for {len(model.labels)} "
        f"({', '.join(model.labels.names[:4])}, ...); a score needs the same classes in the same "
        "order. Check data.layout and data.classes."
    )


def verify_masks(split: Split) -> None:
    """Verifies the checksums of a pack's masks: a flipped bit would silently change the score.

    Raises:
        UserError: a damaged pack.
    """
    if split.pack is not None and split.labelled:
        with progress_counter(f"verify {split.name}", len(split)) as on_progress:
            verify(split.pack, split, on_progress, masks_alone=True)
