"""A training run from start to end: set up, open the run folder, launch, fit, report the scores."""

import shlex
import signal
from contextlib import ExitStack
from pathlib import Path

import torch

from segcoord.config.schema import ClassificationConfig, SegmentationConfig
from segcoord.evaluation.tables import print_scores
from segcoord.training import run_dir
from segcoord.training.build import build_classification, build_segmentation
from segcoord.training.fabric import Fabric, kill_child_processes, training_fabric
from segcoord.training.init_from import init_from
from segcoord.training.loggers import require_loggers
from segcoord.training.loop import TrainingInterrupted, train
from segcoord.training.resume import (
    TrainerState,
    read_state,
    require_same_inputs,
    require_same_settings,
    run_inputs,
)
from segcoord.training.segmentation import SegmentationTask
from segcoord.training.startup_summary import print_summary
from segcoord.training.task import Task
from segcoord.utils.console import console, format_percent, score_title
from segcoord.utils.devices import is_main_process
from segcoord.utils.files import atomic_write
from segcoord.utils.run_log import RunLog

AnyConfig = SegmentationConfig | ClassificationConfig
PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: the run is saved, start it again with --resume


def run_training(
    config: AnyConfig,
    name: str,
    *,
    run: str | None = None,
    resume: str | None = None,
    init: str | None = None,
    offline: bool = False,
    again: str = "segcoord train",
) -> int:
    """Check data and settings, create the run folder and train.

    With several processes the main one checks the data and writes the run folder, then starts the
    others unless torchrun did; the others receive its folder, class weights and rare classes.

    Args:
        config: checked settings.
        name: name of the configuration, for the default run folder.
        run: folder of a new run.
        resume: folder of a run to resume.
        init: file of initial weights.
        offline: take pretrained weights from the local cache only.
        again: command that resumes the run, for the message after an interruption.

    Returns:
        The exit code: 0, 130 after Ctrl-C, 75 after SIGTERM.
    """
    with ExitStack() as stack:
        log = stack.enter_context(RunLog())
        require_loggers(config.train.loggers)
        fabric = training_fabric(config.train)
        is_main = is_main_process()
        console.quiet = not is_main
        state = None
        if resume:
            state = read_state(Path(resume))
            _resolve_epochs(config, Path(resume))
            require_same_settings(config, state, Path(resume))
        elif run and is_main:
            run_dir.require_new_folder(Path(run))
        task = _setup(config, fabric, resumed=bool(resume), init=init, offline=offline)
        folder = None
        if is_main:
            folder = Path(resume) if resume else run_dir.new_run(run, name)
            stack.enter_context(run_dir.lock_run(folder))
            _prepare_folder(task, folder, resumed=bool(resume))
        fabric.launch()
        folder = _sync_with_main(task, folder, fabric)
        if is_main:
            _record_session(task, folder, fabric, resumed=bool(resume))
            log.write_to(folder / "log.txt")
        console.print(f"run        {folder}\n")
        return _fit(task, folder, fabric, state, again)


def _resolve_epochs(config: AnyConfig, run: Path) -> None:
    """Turn train.epochs into the steps that it meant at the start of a run to resume."""
    images = run_dir.read_origin(run).get("train_images") if config.train.epochs else None
    if images:  # older versions don't record them
        config.train.resolve_epochs(images["count"])


def _setup(
    config: AnyConfig, fabric: Fabric, *, resumed: bool, init: str | None, offline: bool
) -> Task:
    """Seed, build the task with its initial weights and print a summary."""
    torch.manual_seed(config.train.seed)
    check = is_main_process()
    if isinstance(config, SegmentationConfig):
        task = build_segmentation(
            config, fabric.device, fresh=not resumed, offline=offline, check=check
        )
    else:
        task = build_classification(config, check=check)
    print_summary(task, fabric)
    if init is not None:
        task.model.load_report = init_from(task.model, Path(init))
    if (report := task.model.load_report) is not None:
        console.print(f"\n{report}", style="yellow" if report.new else None)
    return task


def _prepare_folder(task: Task, folder: Path, resumed: bool) -> None:
    """Write config.yaml of a new run, or check the dataset against the run to resume."""
    if not resumed:
        with atomic_write(folder / "config.yaml") as temporary:
            temporary.write_text(task.config.to_yaml())
        return
    require_same_inputs(folder, task)
    for part in folder.glob(".*.part"):  # left by a process that was killed while writing
        part.unlink()


def _sync_with_main(task: Task, folder: Path | None, fabric: Fabric) -> Path:
    """Send the main process's run folder and class counts to all processes."""
    weights = getattr(task.module, "class_weights", None)
    rare_classes = getattr(task.train_set, "rare_classes", None)
    folder, weights, rare_classes = fabric.broadcast((folder, weights, rare_classes), src=0)
    if weights is not None:
        task.module.class_weights = weights
    if rare_classes is not None:
        task.train_set.rare_classes = rare_classes
    return folder


def _record_session(task: Task, folder: Path, fabric: Fabric, resumed: bool) -> None:
    """Write code version, command and machine to origin.json; needs the launched processes."""
    device, processes = fabric.device, fabric.world_size
    if resumed:
        run_dir.append_resume(folder, device, processes)
        return
    inputs = run_inputs(task)
    run_dir.write_origin(folder, device, processes, task.model.load_report, inputs)


def _fit(task: Task, folder: Path, fabric: Fabric, state: dict | None, again: str) -> int:
    """Train to the end or to an interruption; returns the exit code."""
    try:
        final = train(task, folder, fabric, state)
    except TrainingInterrupted as stop:
        console.print(
            f"Stopped and saved. Resume with: {again} --resume {shlex.quote(str(folder))}"
        )
        code = PREEMPTED if stop.signum == signal.SIGTERM else 130
        return code if is_main_process() else 0  # Fabric reports any other code as a failure
    except BaseException:
        kill_child_processes(fabric)
        raise
    if final is None:
        console.print(f"{folder}: the run is complete, nothing left to do.")
        return 0
    if isinstance(task, SegmentationTask):
        console.print(f"\nScores of the last validation, at step {final.validated}:")
        print_scores(task.scores, task.val_split.labels, len(task.val_split))
    console.print(f"\n{_describe_best(final, task.columns[0], folder)}")
    return 0


def _describe_best(final: TrainerState, headline: str, folder: Path) -> str:
    """Which validation best.ckpt is from, with its score."""
    if final.best < 0:
        return f"No validation could be saved as the best; the last weights: {folder / 'last.ckpt'}"
    at = "" if final.best_step < 0 else f" at step {final.best_step}"
    at += " (the last validation)" if final.best_step == final.validated else ""
    score = f"{score_title(headline)} {format_percent(final.best)} %"
    return f"The best weights, {score}{at}, are in {folder / 'best.ckpt'}"
