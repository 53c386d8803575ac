"""The summary printed before a run: model, data, schedule, loss, device."""

from collections.abc import Sequence

import numpy as np
import torch

from segcoord.config.schema import ClassificationConfig, SegmentationConfig, TeacherSettings
from segcoord.data.rare_class_sampling import RareClassSampler
from segcoord.models.profile import count_parameters, giga_macs
from segcoord.training.fabric import Fabric
from segcoord.training.segmentation import SegmentationTask
from segcoord.training.task import Task
from segcoord.training.teacher import Teacher
from segcoord.utils.console import console, print_pairs
from segcoord.utils.errors import UserError


def class_weights_by_name(task: Task) -> dict[str, float] | None:
    """The class weights of a task's loss by class name; None if all classes weigh the same."""
    if not isinstance(task, SegmentationTask) or task.module.class_weights is None:
        return None
    return dict(zip(task.model.labels.names, task.module.class_weights.tolist()))


def print_summary(task: Task, fabric: Fabric) -> None:
    """Print what is trained on what, how long, and where.

    Raises:
        UserError: the encoder doesn't accept images of the crop size.
    """
    config, settings = task.config, task.config.train
    height, width = config.data.crop
    try:
        macs = giga_macs(task.model, height, width)
    except Exception as error:  # each fixed-size encoder raises an error of its own
        raise UserError(
            f"{config.model.encoder} does not accept crops of {width}x{height} ({error}); choose "
            "an encoder for any size, for example mobilenetv2_*, or set data.crop_size to its size"
        ) from error
    epoch = len(task.train_set) / settings.batch_size  # in steps
    momentum = "" if settings.momentum is None else f", momentum {settings.momentum:g}"
    pairs = [
        ("model", ", ".join(f"{k} {v}" for k, v in task.model.spec.items() if v is not None)),
        (
            "size",
            f"{count_parameters(task.model) / 1e6:.2f} M parameters, "
            f"{macs:.2f} G multiply-adds at {width}x{height}",
        ),
        ("data", f"{config.data.root}, crops {width}x{height}"),
        (
            "steps",
            f"{settings.max_steps} of {settings.batch_size} images, "
            f"{settings.max_steps / epoch:.1f} epochs of {epoch:.4g} steps",
        ),
        (
            "optimizer",
            f"{settings.optimizer}, lr {settings.lr:g} {settings.schedule}{momentum}, "
            f"weight decay {settings.weight_decay:g}",
        ),
        ("loss", _describe_loss(config)),
    ]
    if weights := class_weights_by_name(task):
        pairs.append(("weights", _describe_class_weights(weights, settings.class_weights)))
    if isinstance(task, SegmentationTask) and (sampler := task.train_set.rare_classes) is not None:
        pairs.append(("rare classes", _describe_rare_classes(sampler, task.model.labels.names)))
    if isinstance(task, SegmentationTask) and (teacher := task.module.teacher) is not None:
        pairs.append(("teacher", _describe_teacher(teacher, settings.distillation)))
    console.print()
    print_pairs("", [*pairs, ("device", _describe_devices(fabric))])


def _describe_loss(config: SegmentationConfig | ClassificationConfig) -> str:
    terms = ["cross-entropy"]
    if isinstance(config, SegmentationConfig):
        for name in ("label_smoothing", "dice_weight", "lovasz_weight", "aux_weight"):
            if value := getattr(config.train, name):
                terms.append(f"{name} {value:g}")
        if config.train.ohem:
            terms.append(f"OHEM below {config.train.ohem[0]:g}")
    return ", ".join(terms)


def _describe_teacher(teacher: Teacher, settings: TeacherSettings) -> str:
    spec = teacher.model.spec
    scales = ", ".join(f"{scale:g}" for scale in settings.scales)
    return (
        f"{settings.path} ({spec['encoder']}, {spec['decoder']}, output stride "
        f"{spec['output_stride']}), weight {settings.weight:g}, temperature "
        f"{settings.temperature:g}, scales {scales}"
    )


def _describe_rare_classes(sampler: RareClassSampler, names: Sequence[str]) -> str:
    """The classes by the percentage of these crops that shows each, the most frequent one first."""
    shares = 100 * sampler.class_probabilities
    order = np.argsort(-shares, kind="stable")
    listed = ", ".join(f"{names[i]} {shares[i]:.1f}%" for i in order if shares[i] >= 0.05)
    return f"{100 * sampler.probability:g}% of the crops are drawn for a class: {listed}"


def _describe_class_weights(weights: dict[str, float], setting: str | list[float]) -> str:
    listed = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())
    if isinstance(setting, list):
        return listed
    if absent := [name for name, weight in weights.items() if weight == 0]:
        listed += f" (absent from the training masks: {', '.join(absent)})"
    return f"{setting}: {listed}"


def _describe_devices(fabric: Fabric) -> str:
    device, count = fabric.device, fabric.world_size
    parts = [f"{count} x {device.type}" if count > 1 else str(device)]
    if device.type == "cpu":
        parts.append(f"{torch.get_num_threads()} threads")
    if device.type == "cuda":
        parts.append(torch.cuda.get_device_name(device))
    return ", ".join([*parts, fabric.strategy.precision.precision])
