"""A model over a split: every image once, at its original size, into one confusion matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import label_set
from segcoord.data.loader import set_up_worker
from segcoord.data.pack.reader import verify
from segcoord.data.split import Sample, Split
from segcoord.evaluation.metrics import MeanIoU, Scores
from segcoord.inference.predict import SINGLE_VIEW, predict
from segcoord.inference.views import Views
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import progress_counter
from segcoord.utils.distributed import all_reduce, rank_indices
from segcoord.utils.errors import UserError

OnImage = Callable[[Sample, np.ndarray, np.ndarray, "np.ndarray | None"], None]


class _EvalSet(Dataset):
    """(image (H, W, 3) uint8, mask (H, W) uint8 or None) by index, at their own size."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        image, mask = self.split.read(index)
        # A pack's views are not writable, which torch.from_numpy warns of.
        image, mask = (x if x is None else np.require(x, requirements="W") for x in (image, mask))
        return image, mask


def _as_is(item: object) -> object:
    return item


def evaluate(
    model: SegmentationModel,
    split: Split,
    workers: int = 2,
    on_image: OnImage | None = None,
    views: Views = SINGLE_VIEW,
) -> Scores | None:
    """Predicts every image of a split and scores what has labels.

    Where several processes run (torch.distributed), each predicts its share, every image is counted
    once, and all of them get the scores of the whole.

    Args:
        model: on the device it shall run on; it is left in eval mode.
        split: from `find_split`.
        workers: processes that read files.
        on_image: called for each image of this process with its sample, the image (H, W, 3) uint8,
            the prediction (H, W) uint8 and the truth (H, W) uint8 or None; for exports and
            progress.
        views: scales, flip and tiles of each prediction.

    Returns:
        The scores over the whole split; None where it has no labels, or only dummies, of which no
        pixel counts (as those of a test split).

    Raises:
        UserError: a file that can't be read.
    """
    model.eval()
    metric = MeanIoU(len(model.labels))
    mine = rank_indices(len(split))
    loader = DataLoader(
        _EvalSet(split),
        sampler=mine,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=set_up_worker,
    )
    for index, (image, mask) in zip(mine, loader):
        sample = split.samples[index]
        prediction = predict(model, image, views)
        if mask is not None:
            metric.update(torch.from_numpy(prediction), torch.from_numpy(mask))
        if on_image is not None:
            on_image(sample, image, prediction, mask)
    metric.confusion = all_reduce(metric.confusion, model.mean.device)
    if not metric.confusion.any():
        return None
    return metric.scores()


def check_labels(model: SegmentationModel, checkpoint: Path | str, data: DataConfig) -> None:
    """Raises UserError unless a dataset has the classes that a checkpoint was trained for."""
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
    """Reads all masks of a pack, in which a wrong byte would change the score and nothing else.

    Raises:
        UserError: they are not what was written.
    """
    if split.pack is not None and split.labelled:
        with progress_counter(f"verify {split.name}", len(split)) as tell:
            verify(split.pack, split, tell, masks_alone=True)
