"""From settings to a training: the task is built, its data checked and shown, its folder made."""

from __future__ import annotations

import hashlib
import json
import shlex
import signal
import warnings
from contextlib import ExitStack
from dataclasses import MISSING, asdict, fields
from pathlib import Path

import torch
from lightning_fabric import Fabric

from segcoord.checkpoints import init_from
from segcoord.classification import Classification, create_classifier
from segcoord.config import ClassificationConfig, Config
from segcoord.console import RunLog, console, counting_bar, show_pairs, show_scores
from segcoord.counts import giga_macs, parameters
from segcoord.data.balance import class_weights
from segcoord.data.imagefolder import check_folders, find_folders
from segcoord.data.layouts import find_split, label_set
from segcoord.data.pack import source_of, with_pack
from segcoord.data.report import check_for_training
from segcoord.devices import is_main_process, stop_the_others, training_fabric
from segcoord.errors import UserError
from segcoord.files import atomic_write
from segcoord.loggers import require_loggers
from segcoord.model import create_model
from segcoord.runs import (
    hold_run,
    new_run,
    note_resume,
    read_origin,
    refuse_existing,
    write_origin,
)
from segcoord.segmentation import Segmentation
from segcoord.state import read_state
from segcoord.training import Stopped, Task, train

# A resumed run is the same run: only what changes neither batches nor updates may differ.
_MAY_CHANGE = {
    *("data.root", "data.workers", "data.pack"),
    *("train.val_interval", "train.patience", "train.stop_if_unsaved"),
    *("train.accelerator", "train.devices", "train.num_nodes"),
    "train.loggers",
}
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: saved, to be started again with --resume


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

    Where several processes train, the first one checks the data and writes the run's folder, before
    it starts the others if torchrun did not; the others wait for what it found.

    Args:
        config: checked settings.
        name: of the configuration, for the folder where none is given.
        run: folder of a new run.
        resume: folder of a run to go on with.
        init: file to start from.
        offline: take weights from the cache alone.
        again: the command by which the user goes on after a stop.
    """
    with RunLog() as log, ExitStack() as held:
        return _run_training(config, name, run, resume, init, offline, again, log, held)


def _run_training(
    config: Config | ClassificationConfig,
    name: str,
    run: str | None,
    resume: str | None,
    init: str | None,
    offline: bool,
    again: str,
    log: RunLog,
    held: ExitStack,
) -> int:
    require_loggers(config.train.loggers)
    fabric = training_fabric(config.train)
    main = is_main_process()
    console.quiet = not main
    state = None
    if resume:
        state = read_state(Path(resume))
        _check_unchanged(config, state, Path(resume))
    elif run and main:
        refuse_existing(Path(run))
    torch.manual_seed(config.train.seed)
    if isinstance(config, Config):
        task = _segmentation(config, fresh=not resume, offline=offline, check=main)
    else:
        task = _classification(config, check=main)
    _show_run(task, fabric)
    if init is not None:
        task.model.started = init_from(task.model, Path(init))
    if task.model.started is not None:
        console.print(f"\n{task.model.started}", style="yellow" if task.model.started.new else None)
    folder = _prepare_folder(task, name, run, resume, held) if main else None
    fabric.launch()
    folder = _agree(task, folder, fabric)
    if main:
        _note_session(task, folder, fabric, bool(resume))
        log.write_to(folder / "log.txt")
    console.print(f"run        {folder}\n")
    try:
        scores = train(task, folder, fabric, state)
    except Stopped as stopped:
        console.print(f"Stopped and saved. Go on with: {again} --resume {shlex.quote(str(folder))}")
        code = PREEMPTED if stopped.signum == signal.SIGTERM else 130
        return code if main else 0  # Fabric takes another process's code for a failure
    except BaseException:
        stop_the_others(fabric)
        raise
    if scores is None:
        console.print(f"{folder} has nothing left to do.")
        return 0
    if isinstance(task, Segmentation):
        show_scores(task.scores, task.model.labels.names, len(task.val_split))
    console.print(f"\nThe best weights are {folder / 'best.ckpt'}")
    return 0


def _prepare_folder(
    task: Task, name: str, run: str | None, resume: str | None, held: ExitStack
) -> Path:
    """The run's folder with what it began with; for a run that goes on, checked against it.

    It is this process's alone until `held` is closed.
    """
    weights = _weights_by_class(task)
    if resume:
        held.enter_context(hold_run(Path(resume)))
        _check_same_images(Path(resume), task)
        _check_same_weights(Path(resume), weights)
        for part in Path(resume).glob(".*.part"):  # of a file at which the run was killed
            part.unlink()
        return Path(resume)
    folder = new_run(run, name)
    held.enter_context(hold_run(folder))
    with atomic_write(folder / "config.yaml") as temporary:
        temporary.write_text(task.config.to_yaml())
    return folder


def _note_session(task: Task, folder: Path, fabric: Fabric, resumed: bool) -> None:
    """Writes down code, command and machine, once all processes are there."""
    device, processes = fabric.device, fabric.world_size
    if resumed:
        note_resume(folder, device, processes)
    else:
        weights = _weights_by_class(task)
        write_origin(folder, device, processes, task.model.started, weights, _images_of(task))


def _agree(task: Task, folder: Path | None, fabric: Fabric) -> Path:
    """Gives every process the first one's folder and class weights."""
    if fabric.world_size == 1:
        return folder
    weights = getattr(task.module, "class_weights", None)
    folder, weights = fabric.broadcast((folder, weights), src=0)
    if weights is not None:
        task.module.class_weights = weights
    return folder


def _segmentation(config: Config, *, fresh: bool, offline: bool, check: bool) -> Segmentation:
    settings, labels = config.model, label_set(config.data)
    given = config.train.class_weights
    if isinstance(given, list) and len(given) != len(labels):
        raise UserError(
            f"train.class_weights: found {len(given)} numbers, expected {len(labels)}, one for "
            f"each class in the order {', '.join(labels.names)}"
        )
    splits = tuple(
        with_pack(find_split(config.data, name), config.data)
        for name in (config.data.train_split, config.data.val_split)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of new tensors: `run_training` tells it all
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
    checks = check_for_training(splits, config.data) if check else None
    weights = None
    if checks and given is not None:
        weights = given if isinstance(given, list) else class_weights(checks[0], given)
        weights = torch.tensor(weights, dtype=torch.float32)
    for split in splits:
        console.print(f"{split.name}: read from {source_of(split, config.data)}")
    return Segmentation(config, model, splits, weights)


def _classification(config: ClassificationConfig, *, check: bool) -> Classification:
    folders = find_folders(config.data)
    settings = config.model
    model = create_classifier(
        settings.encoder, folders[0].classes, settings.reduction, settings.drop_rate
    )
    if check:
        with counting_bar() as bar:
            task = bar.add_task("check", total=sum(len(split.samples) for split in folders))
            check_folders(folders, lambda: bar.advance(task))
    if config.data.train_split == config.data.val_split:
        console.print("Trained and scored on the same images: no score.", style="bold red")
    for split in folders:
        console.print(f"{split.name}: {len(split.samples)} images of {len(split.classes)} classes")
    return Classification(config, model, folders)


def _weights_by_class(task: Task) -> dict[str, float] | None:
    """The class weights of a task's loss by name; None where all count alike."""
    if not isinstance(task, Segmentation) or task.module.class_weights is None:
        return None
    return dict(zip(task.model.labels.names, task.module.class_weights.tolist()))


def _images_of(task: Task) -> dict[str, object]:
    """How many images are trained on, and a digest of their names in the order that draws count."""
    names = [task.train_set.path(index).name for index in range(len(task.train_set))]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return {"count": len(names), "names_sha256": digest}


def _check_same_images(run: Path, task: Task) -> None:
    """Raises UserError where the training split now lists other images than at the start."""
    now = _images_of(task)
    before = read_origin(run).get("train_images") or now  # runs of older versions don't tell
    if before != now:
        told = f"{before['count']} images, now {now['count']}"
        if before["count"] == now["count"]:
            told = f"{now['count']} images, of which some now have other names or another order"
        raise UserError(
            f"--resume {run}: the training split had {told}. Bring back the list it began with, or "
            f"start a new run with --init-from {run}/best.ckpt."
        )


def _check_same_weights(run: Path, weights: dict[str, float] | None) -> None:
    """Raises UserError where the training masks now give other class weights than at the start."""
    if weights is None:
        return
    before = read_origin(run).get("class_weights") or {}
    differ = [f"{n} {before.get(n)}, now {w}" for n, w in weights.items() if w != before.get(n)]
    if differ:
        raise UserError(
            f"--resume {run}: the class weights were {'; '.join(differ)}. The training masks have "
            "changed since the run began; bring back those it began with, or start a new run with "
            f"--init-from {run}/best.ckpt."
        )


def _show_run(task: Task, fabric: Fabric) -> None:
    config, settings = task.config, task.config.train
    size = config.data.crop_size
    height, width = (size, size) if isinstance(size, int) else size
    epochs = settings.max_steps * settings.batch_size / len(task.train_set)
    size = f"{parameters(task.model) / 1e6:.2f} M parameters"
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
    weights = _weights_by_class(task)
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
            ("loss", _loss_in_words(config)),
            *([("weights", _shown(weights, settings.class_weights))] if weights else []),
            ("device", on),
        ],
    )


def _loss_in_words(config: Config | ClassificationConfig) -> str:
    told = ["cross-entropy"]
    if isinstance(config, Config):
        for name in ("label_smoothing", "dice_weight", "lovasz_weight", "aux_weight"):
            if value := getattr(config.train, name):
                told.append(f"{name} {value:g}")
        if config.train.ohem:
            told.append(f"hard examples below {config.train.ohem[0]:g}")
    return ", ".join(told)


def _shown(weights: dict[str, float], setting: str | list[float]) -> str:
    told = ", ".join(f"{n} {w:.3g}" for n, w in weights.items())
    if isinstance(setting, list):
        return told
    if absent := [name for name, weight in weights.items() if weight == 0]:
        told += f" (never in the training masks: {', '.join(absent)})"
    return f"{setting}: {told}"


def _check_unchanged(config: Config, state: dict, run: Path) -> None:
    saved, given = state.get("config", {}), asdict(config)
    before, now = (_flat(json.loads(json.dumps(c))) for c in (saved, given))  # tuples to lists
    for group in fields(config):  # a setting that the run's version didn't have was at its default
        for field in fields(getattr(config, group.name)):
            if field.default is not MISSING:
                before.setdefault(f"{group.name}.{field.name}", field.default)
    changed = [k for k in now if now[k] != before.get(k) and k not in _MAY_CHANGE]
    if changed:
        listed = "\n".join(f"  {k}: {before.get(k)} in the run, {now[k]} now" for k in changed)
        raise UserError(
            f"--resume {run}: a run goes on as it began, but these settings differ:\n{listed}\n"
            f"To train on with other settings start a new run with --init-from {run}/best.ckpt."
        )


def _flat(tree: dict) -> dict[str, object]:
    return {f"{group}.{key}": value for group, keys in tree.items() for key, value in keys.items()}
