"""From settings to a training: the task is built, its data checked and shown, its folder made."""

from __future__ import annotations

import shlex
import signal
from contextlib import ExitStack
from pathlib import Path

import torch
from lightning_fabric import Fabric

from segcoord.config.schema import ClassificationConfig, Config
from segcoord.evaluation.tables import print_scores
from segcoord.training.build import build_classification, build_segmentation
from segcoord.training.fabric import kill_child_processes, training_fabric
from segcoord.training.init_from import init_from
from segcoord.training.loggers import require_loggers
from segcoord.training.loop import TrainingInterrupted, train
from segcoord.training.resume import (
    digest_of_images,
    read_state,
    require_same_class_weights,
    require_same_images,
    require_same_settings,
)
from segcoord.training.run_dir import (
    append_resume,
    lock_run,
    new_run,
    require_new_folder,
    write_origin,
)
from segcoord.training.segmentation import Segmentation
from segcoord.training.summary import class_weights_by_name, print_summary
from segcoord.training.task import Task
from segcoord.utils.console import console
from segcoord.utils.devices import is_main_process
from segcoord.utils.files import atomic_write
from segcoord.utils.run_log import RunLog

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
        require_same_settings(config, state, Path(resume))
    elif run and main:
        require_new_folder(Path(run))
    torch.manual_seed(config.train.seed)
    if isinstance(config, Config):
        task = build_segmentation(config, fresh=not resume, offline=offline, check=main)
    else:
        task = build_classification(config, check=main)
    print_summary(task, fabric)
    if init is not None:
        task.model.load_report = init_from(task.model, Path(init))
    if task.model.load_report is not None:
        console.print(
            f"\n{task.model.load_report}", style="yellow" if task.model.load_report.new else None
        )
    folder = _prepare_folder(task, name, run, resume, held) if main else None
    fabric.launch()
    folder = _agree(task, folder, fabric)
    if main:
        _note_session(task, folder, fabric, bool(resume))
        log.write_to(folder / "log.txt")
    console.print(f"run        {folder}\n")
    try:
        scores = train(task, folder, fabric, state)
    except TrainingInterrupted as stopped:
        console.print(f"Stopped and saved. Go on with: {again} --resume {shlex.quote(str(folder))}")
        code = PREEMPTED if stopped.signum == signal.SIGTERM else 130
        return code if main else 0  # Fabric takes another process's code for a failure
    except BaseException:
        kill_child_processes(fabric)
        raise
    if scores is None:
        console.print(f"{folder} has nothing left to do.")
        return 0
    if isinstance(task, Segmentation):
        print_scores(task.scores, task.model.labels.names, len(task.val_split))
    console.print(f"\nThe best weights are {folder / 'best.ckpt'}")
    return 0


def _prepare_folder(
    task: Task, name: str, run: str | None, resume: str | None, held: ExitStack
) -> Path:
    """The run's folder with what it began with; for a run that goes on, checked against it.

    It is this process's alone until `held` is closed.
    """
    weights = class_weights_by_name(task)
    if resume:
        held.enter_context(lock_run(Path(resume)))
        require_same_images(Path(resume), task)
        require_same_class_weights(Path(resume), weights)
        for part in Path(resume).glob(".*.part"):  # of a file at which the run was killed
            part.unlink()
        return Path(resume)
    folder = new_run(run, name)
    held.enter_context(lock_run(folder))
    with atomic_write(folder / "config.yaml") as temporary:
        temporary.write_text(task.config.to_yaml())
    return folder


def _note_session(task: Task, folder: Path, fabric: Fabric, resumed: bool) -> None:
    """Writes down code, command and machine, once all processes are there."""
    device, processes = fabric.device, fabric.world_size
    if resumed:
        append_resume(folder, device, processes)
    else:
        weights = class_weights_by_name(task)
        write_origin(
            folder, device, processes, task.model.load_report, weights, digest_of_images(task)
        )


def _agree(task: Task, folder: Path | None, fabric: Fabric) -> Path:
    """Gives every process the first one's folder and class weights."""
    if fabric.world_size == 1:
        return folder
    weights = getattr(task.module, "class_weights", None)
    folder, weights = fabric.broadcast((folder, weights), src=0)
    if weights is not None:
        task.module.class_weights = weights
    return folder
