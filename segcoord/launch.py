"""From settings to a training: the task is built, its data checked and shown, its folder made."""

from __future__ import annotations

import json
import shlex
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from lightning_fabric import Fabric

from segcoord.checkpoints import init_from, read_checkpoint
from segcoord.classification import Classification, create_classifier
from segcoord.config import ClassificationConfig, Config
from segcoord.console import console, show_pairs, show_scores
from segcoord.counts import giga_macs, parameters
from segcoord.data.imagefolder import find_folders
from segcoord.data.layouts import find_split, label_set
from segcoord.data.pack import source_of, with_pack
from segcoord.data.report import check, require_labels, show_data
from segcoord.errors import UserError
from segcoord.files import atomic_write
from segcoord.model import create_model
from segcoord.runs import new_run, write_origin
from segcoord.segmentation import Segmentation
from segcoord.training import Stopped, Task, train

# A resumed run is the same run: only what changes neither batches nor updates may differ.
_MAY_CHANGE = {"data.root", "data.workers", "data.pack", "train.val_interval", "train.accelerator"}


def run_training(
    config: Config | ClassificationConfig,
    name: str,
    *,
    run: str | None = None,
    resume: str | None = None,
    init: str | None = None,
    offline: bool = False,
    again: str = "segcoord train",
) -> int:
    """Checks data and settings, makes the run's folder and trains; returns the exit code.

    Args:
        config: checked settings.
        name: of the configuration, for the folder where none is given.
        run: folder of a new run.
        resume: folder of a run to go on with.
        init: file to start from.
        offline: take weights from the cache alone.
        again: the command by which the user goes on after a stop.
    """
    if resume:
        _check_unchanged(config, Path(resume))
    fabric = fabric_on(config.train.accelerator)
    torch.manual_seed(config.train.seed)
    build = _segmentation if isinstance(config, Config) else _classification
    task = build(config, fresh=not resume, offline=offline)
    _show_run(task, fabric.device)
    missing = init_from(task.model, Path(init)) if init else []
    if missing:
        console.print(f"{init}: {len(missing)} tensors did not fit:", *missing, sep="\n  ")
    folder = Path(resume) if resume else new_run(run, name)
    if not resume:
        with atomic_write(folder / "config.yaml") as temporary:
            temporary.write_text(config.to_yaml())
        write_origin(folder, init)
    console.print(f"run        {folder}\n")
    try:
        scores = train(task, folder, fabric, bool(resume))
    except Stopped:
        console.print(f"Stopped and saved. Go on with: {again} --resume {shlex.quote(str(folder))}")
        return 130
    if scores is None:
        console.print(f"{folder} has done all its {config.train.max_steps} steps already.")
        return 0
    if isinstance(task, Segmentation):
        show_scores(task.scores, task.model.labels.names, len(task.val_split))
    console.print(f"\nThe best weights are {folder / 'best.ckpt'}")
    return 0


def fabric_on(accelerator: str) -> Fabric:
    """One device by its kind; UserError where it can't be used."""
    try:
        return Fabric(accelerator=accelerator, devices=1)
    except Exception as error:  # Lightning's own type, whose module has moved before
        raise UserError(f"device {accelerator!r} can't be used here: {error}") from error


def _segmentation(config: Config, *, fresh: bool, offline: bool) -> Segmentation:
    settings, labels = config.model, label_set(config.data)
    splits = tuple(
        with_pack(find_split(config.data, name), config.data)
        for name in (config.data.train_split, config.data.val_split)
    )
    with warnings.catch_warnings():
        warnings.showwarning = lambda told, *_: console.print(f"{told}\n", style="yellow")
        model = create_model(
            settings.encoder,
            len(labels),
            settings.output_stride,
            settings.atrous_rates,
            settings.aspp_dropout,
            decoder=settings.decoder,
            reduction=settings.reduction,
            encoder_weights=settings.encoder_weights if fresh else None,
            offline=offline,
            labels=labels,
        )
    checks = [check(split) for split in splits]
    require_labels(splits, checks, config.data)
    show_data(splits, checks)
    for split in splits:
        console.print(f"{split.name}: read from {source_of(split, config.data)}")
    return Segmentation(config, model, splits)


def _classification(config: ClassificationConfig, *, fresh: bool, offline: bool) -> Classification:
    folders = find_folders(config.data)
    settings = config.model
    model = create_classifier(
        settings.encoder, folders[0].classes, settings.reduction, settings.drop_rate
    )
    for split in folders:
        console.print(f"{split.name}: {len(split.samples)} images of {len(split.classes)} classes")
    return Classification(config, model, folders)


def _show_run(task: Task, device: torch.device) -> None:
    config, settings = task.config, task.config.train
    size = config.data.crop_size
    height, width = (size, size) if isinstance(size, int) else size
    epochs = settings.max_steps * settings.batch_size / len(task.train_set)
    size = f"{parameters(task.model) / 1e6:.2f} M parameters"
    macs = f"{giga_macs(task.model, height, width):.2f} G multiply-adds at {width}x{height}"
    threads = f"{device}, {torch.get_num_threads()} threads"
    on = f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
    momentum = "" if settings.momentum is None else f", momentum {settings.momentum:g}"
    console.print()
    show_pairs(
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
            ("device", threads if device.type == "cpu" else on),
        ],
    )


def _check_unchanged(config: Config, run: Path) -> None:
    saved, given = read_checkpoint(run / "last.ckpt").get("config", {}), asdict(config)
    before, now = (_flat(json.loads(json.dumps(c))) for c in (saved, given))  # tuples to lists
    changed = [k for k in now if now[k] != before.get(k) and k not in _MAY_CHANGE]
    if changed:
        listed = "\n".join(f"  {k}: {before.get(k)} in the run, {now[k]} now" for k in changed)
        raise UserError(
            f"--resume {run}: a run goes on as it began, but these settings differ:\n{listed}\n"
            f"To train on with other settings start a new run with --init-from {run}/best.ckpt."
        )


def _flat(tree: dict) -> dict[str, object]:
    return {f"{group}.{key}": value for group, keys in tree.items() for key, value in keys.items()}
