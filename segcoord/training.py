"""Training: optimiser, schedule, and the loop that goes on exactly where it stopped.

What is trained is a Task, segmentation or classification; nothing here knows which.

Lightning's Fabric does the devices; the loop is ours. The Trainer stands in the way of exact
resume: it draws random numbers between restoring their state and the first batch, a sampler has to
read the trainer's step and lie about its length, and an interrupt leaves its loops half advanced.
Here every random draw of step t is a function of (seed, t), so the state of a run is its weights,
its optimiser and a few numbers.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import Dataset

from segcoord.checkpoints import read_checkpoint, save
from segcoord.config import ClassificationConfig, Config, OptimConfig
from segcoord.console import TrainingBar, console
from segcoord.data.loader import train_loader
from segcoord.errors import UserError
from segcoord.model import ImageModel
from segcoord.record import Record

LOG_INTERVAL = 10  # steps whose mean loss makes a row of metrics.csv
SAVE_INTERVAL = 600.0  # seconds after which last.ckpt is renewed between validations


class Task(Protocol):
    """What is trained: a model, its data, its loss and its score."""

    config: Config | ClassificationConfig
    model: ImageModel
    """What is validated and saved as the result."""
    module: nn.Module
    """What is trained: holds the model; takes a collated batch and returns its loss, a scalar."""
    train_set: Dataset
    """Samples by (epoch, index), which alone decide about every random draw."""
    columns: Sequence[str]
    """What `validate` returns, the number that decides about best.ckpt first."""
    val_images: int

    def parameter_groups(self) -> list[dict]:
        """Groups for the optimiser, each with its learning rate's "factor"."""

    def validate(self, on_image: Callable[[], None]) -> dict[str, float]:
        """Scores the whole validation split, fractions of 1; calls on_image after each image."""

    def examples(self) -> np.ndarray | None:
        """A picture of some predictions, (H, W, 3) uint8 RGB; None where there are none to draw."""


def rate(step: int, config: OptimConfig) -> float:
    """The learning rate's factor at a step.

    poly: (1 - step / max_steps) ** poly_power (DeepLab, Chen et al. 2016, section 4.1.1);
    cosine: (1 + cos(pi * step / max_steps)) / 2 (Loshchilov and Hutter 2017, without restarts).
    """
    done = step / config.max_steps
    if config.schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return (1 - done) ** config.poly_power


def make_optimizer(groups: list[dict], config: OptimConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over a task's parameter groups."""
    common = {"lr": config.lr, "weight_decay": config.weight_decay, "foreach": True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **common)
    return torch.optim.SGD(groups, momentum=config.momentum, **common)


@dataclass
class Progress:
    """The numbers of a run's state: what a checkpoint holds besides weights and optimiser.

    Args:
        step: optimiser steps done.
        validated: the step of the last validation; -1 before the first.
        best: the best headline score of all validations; -1 before the first.
        loss_sum, loss_count: of the steps since the last row of metrics.csv.
        seconds: spent in the loop, over all sessions of the run.
    """

    step: int = 0
    validated: int = -1
    best: float = -1.0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0


class Stopped(Exception):
    """The user asked for a stop, and the run is saved."""


def train(task: Task, run: Path, fabric: Fabric, resume: bool) -> dict[str, float] | None:
    """Trains until max_steps, validates, leaves best.ckpt and last.ckpt in the run's folder.

    Args:
        task: with its model at the start; the weights are replaced where the run goes on.
        run: the run's folder.
        fabric: launched; says the device.
        resume: go on from the run's last.ckpt.

    Returns:
        The scores of the last validation, None if the run had nothing left to do.

    Raises:
        Stopped: after Ctrl-C, with last.ckpt written.
        UserError: no last.ckpt to go on from, a file of the dataset that can't be used, a loss
            that is not finite.
    """
    # On its device before the optimiser is restored, whose state then follows the parameters there.
    task.module.to(fabric.device, memory_format=torch.channels_last)
    optimizer = make_optimizer(task.parameter_groups(), task.config.train)
    progress = Progress()
    if resume:
        progress = _restore(run / "last.ckpt", task.model, optimizer)
    wrapped, optimizer = fabric.setup(task.module, optimizer)
    loop = _Loop(task, wrapped, optimizer, progress, run)
    with _stop_on_interrupt(loop):
        return loop.run_to_end(fabric)


class _Loop:
    def __init__(self, task: Task, wrapped, optimizer, progress: Progress, run: Path) -> None:
        self.task, self.wrapped, self.optimizer, self.progress = task, wrapped, optimizer, progress
        self.settings, self.run = task.config.train, run
        self.stop = False
        self.saved = self.counted = time.monotonic()
        self.record = Record(run, task.config, task.columns, progress.step, progress.validated)

    def run_to_end(self, fabric: Fabric) -> dict[str, float] | None:
        settings, progress = self.settings, self.progress
        loader = train_loader(
            self.task.train_set,
            settings.batch_size,
            (progress.step, settings.max_steps),
            settings.seed,
            self.task.config.data.workers,
        )
        scores = None
        self.counted = time.monotonic()
        if progress.step == 0:
            self._save_last()  # from here on there is always something to go on from
        with (
            self.record,
            TrainingBar(
                settings.max_steps,
                progress.step,
                self.task.val_images,
                self.task.columns[0],
                progress.best,
            ) as self.bar,
        ):
            scores = self._validate_if_due()
            for batch in fabric.setup_dataloaders(loader, use_distributed_sampler=False):
                self._step(batch, fabric)
                scores = self._validate_if_due() or scores
                if self.stop or time.monotonic() - self.saved > SAVE_INTERVAL:
                    self._save_last()
                if self.stop:
                    raise Stopped
        return scores

    def _step(self, batch: dict[str, Tensor], fabric: Fabric) -> None:
        settings, progress = self.settings, self.progress
        torch.manual_seed(_mix(settings.seed, progress.step))  # for dropout
        factor = rate(progress.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * factor * group["factor"]
        self.wrapped.train()
        loss = self.wrapped(batch)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"step {progress.step}: the loss is {value}. Lower train.lr (now {settings.lr}); "
                f"{self.run / 'last.ckpt'} holds the last state that was saved."
            )
        self.optimizer.zero_grad()
        fabric.backward(loss)
        self.optimizer.step()
        progress.step += 1
        progress.loss_sum += value
        progress.loss_count += 1
        self._count_time()
        if progress.step % LOG_INTERVAL == 0 or self._due():
            mean = progress.loss_sum / progress.loss_count
            progress.loss_sum, progress.loss_count = 0.0, 0
            self._log(loss=mean, lr=settings.lr * factor)
        self.bar.step(progress.step, value, settings.lr * factor)

    def _count_time(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self.counted
        self.counted = now

    def _due(self) -> bool:
        step, settings = self.progress.step, self.settings
        at_interval = step > 0 and step % settings.val_interval == 0
        return (at_interval or step == settings.max_steps) and step != self.progress.validated

    def _validate_if_due(self) -> dict[str, float] | None:
        if not self._due():
            return None
        progress = self.progress
        self._save_last()
        scores = self.task.validate(self._validated_one)
        progress.validated = progress.step
        self._count_time()
        score = scores[self.task.columns[0]]
        if score > progress.best:
            progress.best = score
            # Without the optimiser's state: a result, not something to go on from.
            self._save("best.ckpt")
        self._log(**scores)
        self.record.add_examples(progress.step, self.task.examples)
        self._save_last()
        self.bar.validated(progress.step, scores, progress.best)
        return scores

    def _validated_one(self) -> None:
        if self.stop:
            raise Stopped  # last.ckpt was written just before; the validation is done again
        self.bar.advance_validation()

    def _log(self, **values: float) -> None:
        progress = self.progress
        epoch = progress.step * self.settings.batch_size / len(self.task.train_set)
        self.record.add(progress.step, epoch, progress.seconds, values)

    def _save_last(self) -> None:
        self._save("last.ckpt", optimizer=self.optimizer.state_dict())
        self.saved = time.monotonic()

    def _save(self, name: str, **extra: object) -> None:
        config, progress = asdict(self.task.config), asdict(self.progress)
        save(self.task.model, self.run / name, config=config, progress=progress, **extra)


def _restore(path: Path, model: ImageModel, optimizer: torch.optim.Optimizer) -> Progress:
    checkpoint = read_checkpoint(path)
    if checkpoint["model"] != model.to_plain():
        then = checkpoint["model"]
        told = "; ".join(
            f"{key} was {then.get(key)}, is {value}"
            for key, value in model.to_plain().items()
            if then.get(key) != value
        )
        raise UserError(f"{path}: a run can't change its model or classes, but {told}")
    model.load_state_dict(checkpoint["state_dict"])
    try:
        optimizer.load_state_dict(checkpoint["optimizer"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its optimiser's state doesn't fit: {error}") from error
    return Progress(**checkpoint["progress"])


def _mix(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def _stop_on_interrupt(loop: _Loop) -> Iterator[None]:
    """The first Ctrl-C lets the step finish; a second one stops at once, as ever."""

    def ask(*_: object) -> None:
        loop.stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        console.print("Stopping after this step; Ctrl-C again to stop at once.")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
