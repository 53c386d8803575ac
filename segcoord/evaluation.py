"""A model over a split: every image once, at its original size, into one confusion matrix."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segcoord.config import DataConfig
from segcoord.console import counted
from segcoord.data.layouts import Sample, Split, label_set
from segcoord.data.loader import set_up_worker
from segcoord.data.pack import verify
from segcoord.errors import UserError
from segcoord.files import atomic_write
from segcoord.inference import ONE_LOOK, predict
from segcoord.labels import VOID, LabelSet
from segcoord.metrics import MeanIoU, Scores, or_none
from segcoord.model import SegmentationModel
from segcoord.runs import origin
from segcoord.runtimes import runtime_version
from segcoord.views import Views

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


def share(split: Split) -> range:
    """The indices of a split that this process predicts: all, or every n-th of n processes."""
    if dist.is_initialized():
        return range(dist.get_rank(), len(split), dist.get_world_size())
    return range(len(split))


def over_processes(
    x: Tensor, device: torch.device, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM
) -> Tensor:
    """The sum of a tensor over all processes, or what `op` says, in each of them."""
    if dist.is_initialized():
        x = x.to(device)  # where the processes can add it up
        dist.all_reduce(x, op)
    return x.cpu()


def evaluate(
    model: SegmentationModel,
    split: Split,
    workers: int = 2,
    on_image: OnImage | None = None,
    views: Views = ONE_LOOK,
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
    mine = share(split)
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
    metric.confusion = over_processes(metric.confusion, model.mean.device)
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
        with counted(f"verify {split.name}", len(split)) as tell:
            verify(split.pack, split, tell, masks_alone=True)


def protocol(
    model: SegmentationModel,
    split: Split,
    data: DataConfig,
    views: Views,
    checkpoint: tuple[Path, dict],
) -> dict:
    """How a score was made, for whoever compares it with another.

    Args:
        model: that was scored.
        split: on which.
        data: where that came from.
        views: of each image.
        checkpoint: its path and what was read from it. One that no training wrote says neither its
            step nor whether its weights are a moving average, which are null then.
    """
    path, content = checkpoint
    training = content.get("config", {}).get("train")
    made = origin()
    return {
        "split": split.name,
        "layout": data.layout,
        "root": data.root,
        "pack": None if split.pack is None else str(split.pack.folder),
        "images": len(split),
        "size": "original",
        **views.to_plain(),
        "average": "one confusion matrix over the split; mean over classes in truth or prediction",
        "classes": len(model.labels),
        "ignore_index": VOID,
        "checkpoint": str(path),
        "step": content.get("progress", {}).get("step"),
        # A run from before there was such a setting had no average.
        "ema": None if training is None else training.get("ema_decay") is not None,
        "ema_decay": None if training is None else training.get("ema_decay"),
        "encoder": model.spec["encoder"],
        "decoder": model.spec["decoder"],
        "reduction": model.spec["reduction"],
        "output_stride": model.output_stride,
        "runtime": model.runtime,
        "precision": model.precision,
        "device": model.mean.device.type,
        "processes": dist.get_world_size() if dist.is_initialized() else 1,
        **made,
        "versions": made["versions"] | {"opencv": cv2.__version__} | runtime_version(model.runtime),
    }


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
