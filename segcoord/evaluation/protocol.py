"""TODO."""

from __future__ import annotations

from pathlib import Path

import cv2
import torch.distributed as dist

from segcoord.config.schema import DataConfig
from segcoord.data.labels import VOID, LabelSet
from segcoord.data.split import Split
from segcoord.evaluation.metrics import Scores, or_none
from segcoord.inference.runtimes import runtime_version
from segcoord.inference.views import Views
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.files import write_json
from segcoord.utils.provenance import origin


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
        **views.to_dict(),
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


def write_scores(
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
    write_json(path, result)
