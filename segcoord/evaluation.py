"""A model over a split: every image once, at its original size, into one confusion matrix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from segcoord.data.layouts import Sample, Split
from segcoord.data.loader import set_up_worker
from segcoord.errors import UserError
from segcoord.files import atomic_write
from segcoord.inference import predict
from segcoord.labels import LabelSet
from segcoord.metrics import MeanIoU, Scores, or_none
from segcoord.model import SegmentationModel
from segcoord.runs import origin

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
    model: SegmentationModel, split: Split, workers: int = 2, on_image: OnImage | None = None
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

    Returns:
        The scores over the whole split; None where it has no labels, or only dummies, of which no
        pixel counts (as those of a test split).

    Raises:
        UserError: a file that can't be read.
    """
    model.eval()
    metric = MeanIoU(len(model.labels))
    share = range(len(split))
    if dist.is_initialized():
        share = share[dist.get_rank() :: dist.get_world_size()]
    loader = DataLoader(
        _EvalSet(split),
        sampler=share,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_is,
        worker_init_fn=set_up_worker,
    )
    for index, (image, mask) in zip(share, loader):
        sample = split.samples[index]
        prediction = predict(model, image)
        if mask is not None:
            metric.update(torch.from_numpy(prediction), torch.from_numpy(mask))
        if on_image is not None:
            on_image(sample, image, prediction, mask)
    if dist.is_initialized():
        counted = metric.confusion.to(model.mean.device)  # where the processes can add it up
        dist.all_reduce(counted)
        metric.confusion = counted
    if not metric.confusion.any():
        return None
    return metric.scores()


def check_labels(model: SegmentationModel, labels: LabelSet, where: str) -> None:
    """Raises UserError unless a dataset has the classes that the model was trained for."""
    if model.labels.names == labels.names:
        return
    raise UserError(
        f"{where} has {len(labels)} classes ({', '.join(labels.names[:4])}, ...), the model was "
        f"trained for {len(model.labels)} ({', '.join(model.labels.names[:4])}, ...); a score "
        "needs the same classes in the same order. Check data.layout and data.classes."
    )


def protocol(model: SegmentationModel, split: Split, root: str, checkpoint: Path) -> dict:
    """How a score was made, for whoever compares it with another."""
    return {
        "split": split.name,
        "root": root,
        "images": len(split),
        "size": "original",
        "scales": [1.0],
        "flip": False,
        "tiles": None,
        "average": "one confusion matrix over the split; mean over classes in truth or prediction",
        "ignore_index": 255,
        "checkpoint": str(checkpoint),
        "encoder": model.spec["encoder"],
        "decoder": model.spec["decoder"],
        "reduction": model.spec["reduction"],
        "output_stride": model.output_stride,
    } | origin()


def write_json(
    path: Path, scores: Scores, labels: LabelSet, how: dict, further: dict | None = None
) -> None:
    """Writes {"miou", "classes": [{"name", "iou", ...}], "images", "protocol", ...} as JSON.

    Fractions of 1; null where there is nothing to divide by, as the IoU of an absent class.
    `further` has what only this layout scores.
    """
    classes = [
        {"name": name, "iou": or_none(iou), "accuracy": or_none(accuracy), "pixels": int(pixels)}
        for name, iou, accuracy, pixels in zip(
            labels.names, scores.iou, scores.accuracy, scores.truth
        )
    ]
    result = {
        "miou": or_none(scores.miou),
        "frequency_weighted_iou": or_none(scores.frequency_weighted_iou),
        "pixel_accuracy": or_none(scores.pixel_accuracy),
        "mean_accuracy": or_none(scores.mean_accuracy),
        "classes_counted": scores.classes_counted,
        "images": how["images"],
        "classes": classes,
        **(further or {}),
        "protocol": how,
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
