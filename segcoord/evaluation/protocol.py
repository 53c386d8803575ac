"""The protocol of a score, and the JSON file with scores and protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from segcoord.config.schema import DataConfig
from segcoord.data.labels import VOID, LabelSet
from segcoord.data.split import Split
from segcoord.evaluation.metrics import Scores, or_none
from segcoord.inference.scales_and_tiles import Views
from segcoord.inference.sessions import runtime_version
from segcoord.utils.files import write_json
from segcoord.utils.provenance import origin

if TYPE_CHECKING:
    from segcoord.models.segmentation import SegmentationModel


def split_protocol(split: Split, data: DataConfig) -> dict:
    """Describes the scored images, and how their pixels are counted."""
    return {
        "split": split.name,
        "layout": data.layout,
        "root": data.root,
        "pack": None if split.pack is None else str(split.pack.folder),
        "images": len(split),
        "left_out": split.left_out,
        "exif": split.exif,
        "size": "original",
        "average": "one confusion matrix over the split; mean over classes in truth or prediction",
        "classes": len(split.labels),
        "ignore_index": VOID,
    }


def protocol(
    model: SegmentationModel,
    split: Split,
    data: DataConfig,
    views: Views,
    checkpoint: tuple[Path, dict],
) -> dict:
    """Describes how a score was made; only scores with the same protocol can be compared.

    `checkpoint` is its path and content. Step and EMA are null for a checkpoint that was not
    written by a training run.
    """
    import torch.distributed as dist

    path, content = checkpoint
    training = content.get("config", {}).get("train")
    provenance = origin()
    versions = {"opencv": cv2.__version__} | runtime_version(model.runtime)
    return {
        **split_protocol(split, data),
        **views.to_dict(),
        "checkpoint": str(path),
        "step": content.get("progress", {}).get("step"),
        # Runs from before this setting existed have no moving average.
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
        **provenance,
        "versions": provenance["versions"] | versions,
    }


def write_scores(
    path: Path, scores: Scores, labels: LabelSet, protocol: dict, extra: dict | None = None
) -> None:
    """Writes {"miou", "classes": [{"name", "iou", ...}], "images", "protocol", ...} as JSON.

    Scores are fractions of 1, and null where undefined, such as the IoU of an absent class. Binary
    segmentation adds "foreground_iou" and "foreground_dice". `extra` are more scores of the
    dataset's layout.

    Raises:
        UserError: the file can't be written.
    """
    columns = zip(labels.names, scores.iou, scores.dice, scores.accuracy, scores.truth)
    classes = [
        {
            "name": name,
            "iou": or_none(iou),
            "dice": or_none(dice),
            "accuracy": or_none(accuracy),
            "pixels": int(pixels),
        }
        for name, iou, dice, accuracy, pixels in columns
    ]
    overall = ["miou", "frequency_weighted_iou", "pixel_accuracy", "mean_accuracy"]
    overall += ["foreground_iou", "foreground_dice"] if labels.binary else []
    result = {
        **{name: or_none(getattr(scores, name)) for name in overall},
        "classes_counted": scores.classes_counted,
        "images": protocol["images"],
        "classes": classes,
        **(extra or {}),
        "protocol": protocol,
    }
    write_json(path, result)
