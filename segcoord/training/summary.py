"""TODO."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from segcoord.config.schema import ClassificationConfig, Config
from segcoord.models.profile import count_parameters, giga_macs
from segcoord.training.segmentation import Segmentation
from segcoord.training.task import Task
from segcoord.utils.console import console, print_pairs
from segcoord.utils.errors import UserError


def class_weights_by_name(task: Task) -> dict[str, float] | None:
    """The class weights of a task's loss by name; None where all count alike."""
    if not isinstance(task, Segmentation) or task.module.class_weights is None:
        return None
    return dict(zip(task.model.labels.names, task.module.class_weights.tolist()))


def print_summary(task: Task, fabric: Fabric) -> None:
    config, settings = task.config, task.config.train
    size = config.data.crop_size
    height, width = (size, size) if isinstance(size, int) else size
    epochs = settings.max_steps * settings.batch_size / len(task.train_set)
    size = f"{count_parameters(task.model) / 1e6:.2f} M parameters"
    try:
        macs = f"{giga_macs(task.model, height, width):.2f} G multiply-adds at {width}x{height}"
    except Exception as error:  # an encoder of one image size says so in its own way
        raise UserError(
            f"{config.model.encoder} does not take crops of {width}x{height} ({error}); "
            "choose an encoder for any size, mobilenetv2_* say, or its own data.crop_size"
        ) from error
    device, count = fabric.device, fabric.world_size
    on = f"{torch.get_num_threads()} threads" if device.type == "cpu" else ""
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else on
    on = ", ".join(filter(None, (f"{count} x {device.type}" if count > 1 else str(device), on)))
    on += f", {fabric.strategy.precision.precision}"
    weights = class_weights_by_name(task)
    momentum = "" if settings.momentum is None else f", momentum {settings.momentum:g}"
    console.print()
    print_pairs(
        "",
        [
            ("model", ", ".join(f"{k} {v}" for k, v in task.model.spec.items() if v is not None)),
            ("size", f"{size}, {macs}"),
            ("data", f"{config.data.root}, crops {width}x{height}"),
            ("steps", f"{settings.max_steps} of {settings.batch_size} images, {epochs:.1f} epochs"),
            (
                "optimiser",
                f"{settings.optimizer}, lr {settings.lr:g} {settings.schedule}{momentum}, "
                f"decay {settings.weight_decay:g}",
            ),
            ("loss", describe_loss(config)),
            *(
                [("weights", describe_class_weights(weights, settings.class_weights))]
                if weights
                else []
            ),
            ("device", on),
        ],
    )


def describe_loss(config: Config | ClassificationConfig) -> str:
    told = ["cross-entropy"]
    if isinstance(config, Config):
        for name in ("label_smoothing", "dice_weight", "lovasz_weight", "aux_weight"):
            if value := getattr(config.train, name):
                told.append(f"{name} {value:g}")
        if config.train.ohem:
            told.append(f"hard examples below {config.train.ohem[0]:g}")
    return ", ".join(told)


def describe_class_weights(weights: dict[str, float], setting: str | list[float]) -> str:
    told = ", ".join(f"{n} {w:.3g}" for n, w in weights.items())
    if isinstance(setting, list):
        return told
    if absent := [name for name, weight in weights.items() if weight == 0]:
        told += f" (never in the training masks: {', '.join(absent)})"
    return f"{setting}: {told}"
