"""Evaluates a model on a split: each image once, at its original size, in one confusion matrix."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import label_set
from segcoord.data.loader import WorkerLoader
from segcoord.data.split import Sample, Split
from segcoord.evaluation.metrics import Scores, confusion_matrix
from segcoord.evaluation.outputs import ImageCallback
from segcoord.inference.predict import SINGLE_VIEW, predict_on_device
from segcoord.inference.scales_and_tiles import Views
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.distributed import all_reduce, rank_indices
from segcoord.utils.errors import UserError, explain_out_of_memory

MORE_MEMORY = (
    "Use a device with more memory, or evaluate in tiles, for example with --tile 1024x1024."
)

Pair = tuple[Tensor, Tensor | None]
"""An image (H, W, 3) uint8, and its mask (H, W) uint8 or None, at original size on the CPU."""


class _EvalSet(Dataset):
    """Pairs by index. Tensors, since workers hand them on without a copy."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Pair:
        image, mask = self.split.read(index)
        return _tensor(image), None if mask is None else _tensor(mask)


def _tensor(array: np.ndarray) -> Tensor:
    # The arrays of a pack are read-only, and torch.from_numpy warns about those.
    return torch.from_numpy(np.require(array, requirements="W"))


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
    k = len(model.labels)
    confusion = torch.zeros(k, k, dtype=torch.int64)
    for sample, (image, mask), prediction in _predictions(model, split, workers, views):
        if mask is not None:
            confusion += confusion_matrix(prediction, mask, k)
        if on_image is not None:
            truth = None if mask is None else mask.numpy()
            on_image(sample, image.numpy(), prediction.numpy(), truth)
    counts = all_reduce(confusion, model.mean.device)
    return Scores(counts.numpy()) if counts.any() else None


def _predictions(
    model: SegmentationModel, split: Split, workers: int, views: Views
) -> Iterator[tuple[Sample, Pair, Tensor]]:
    """This process's samples, their pairs, and predictions (H, W) uint8 on the CPU.

    A GPU predicts an image while the caller handles the one before.
    """
    device = model.mean.device
    on_gpu = device.type == "cuda"
    previous = None
    for sample, pair in read_pairs(split, workers, pin_memory=on_gpu):
        with explain_out_of_memory(pair[0].shape[:2], MORE_MEMORY, sample.image):
            prediction = predict_on_device(model, pair[0].numpy(), views)
            prediction = prediction.to("cpu", non_blocking=on_gpu)  # into pinned memory
        if not on_gpu:
            yield sample, pair, prediction
            continue
        copied = torch.cuda.current_stream(device).record_event()
        if previous is not None:
            previous[1].synchronize()
            yield previous[0]
        previous = (sample, pair, prediction), copied
    if previous is not None:
        previous[1].synchronize()
        yield previous[0]


def read_pairs(
    split: Split, workers: int, *, pin_memory: bool = False
) -> Iterator[tuple[Sample, Pair]]:
    """This process's samples and their pairs, in order.

    Args:
        split: from `find_split`.
        workers: number of processes that read files ahead; 0 reads in this process.
        pin_memory: whether to return tensors in pinned memory, for a GPU.

    Raises:
        UserError: a file that can't be read.
    """
    indices = rank_indices(len(split))
    loader = WorkerLoader(
        _EvalSet(split),
        sampler=indices,
        batch_size=None,
        num_workers=workers,
        collate_fn=_no_collate,
        pin_memory=pin_memory,
    )
    for index, pair in zip(indices, loader):
        yield split.samples[index], pair


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
