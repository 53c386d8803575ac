"""Training: loss, optimiser, schedule, and the loop that goes on exactly where it stopped.

Lightning's Fabric does the devices; the loop is ours. The Trainer stands in the way of exact
resume: it draws random numbers between restoring their state and the first batch, a sampler has to
read the trainer's step and lie about its length, and an interrupt leaves its loops half advanced.
Here every random draw of step t is a function of (seed, t), so the state of a run is its weights,
its optimiser and a few numbers.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from segcoord.config import Config, TrainConfig
from segcoord.console import TrainingBar
from segcoord.data.layouts import Split
from segcoord.data.loader import TrainSet, train_loader
from segcoord.data.transforms import TrainTransform
from segcoord.errors import UserError
from segcoord.evaluation import evaluate
from segcoord.labels import VOID
from segcoord.metrics import Scores
from segcoord.model import SegmentationModel, read_checkpoint, save
from segcoord.runs import MetricsFile

LOG_INTERVAL = 10  # steps whose mean loss makes a row of metrics.csv
SAVE_INTERVAL = 600.0  # seconds after which last.ckpt is renewed between validations


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that count; 0, not NaN, where none does.

    Args:
        logits: (N, K, H, W) float.
        target: (N, H, W) uint8 class indices, 255 for void.
    """
    target = target.long()
    total = F.cross_entropy(logits, target, ignore_index=VOID, reduction="sum")
    return total / (target != VOID).sum().clamp(min=1)


def poly(step: int, config: TrainConfig) -> float:
    """The learning rate's factor at a step: (1 - step / max_steps) ** poly_power.

    Source: DeepLab (Chen et al. 2016), section 4.1.1.
    """
    return (1 - step / config.max_steps) ** config.poly_power


def make_optimizer(model: SegmentationModel, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over two groups: the encoder, at its own factor, and the rest."""
    encoder = list(model.net.encoder.parameters())
    rest = [p for n, p in model.named_parameters() if not n.startswith("net.encoder.")]
    groups = [
        {"params": encoder, "factor": config.encoder_lr_factor},
        {"params": rest, "factor": 1.0},
    ]
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
        best_miou: the best of all validations; -1 before the first.
        loss_sum, loss_count: of the steps since the last row of metrics.csv.
        seconds: spent in the loop, over all sessions of the run.
    """

    step: int = 0
    validated: int = -1
    best_miou: float = -1.0
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0


class Stopped(Exception):
    """The user asked for a stop, and the run is saved."""


def train(
    model: SegmentationModel,
    config: Config,
    splits: tuple[Split, Split],
    run: Path,
    fabric: Fabric,
    resume: bool,
) -> Scores | None:
    """Trains until max_steps, validates at full size, leaves best.ckpt and last.ckpt in the run.

    Args:
        model: at its start; its weights are replaced where the run goes on.
        config: of the run.
        splits: for training and for validation.
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
    settings = config.train
    # On its device before the optimiser is restored, whose state then follows the parameters there.
    model.to(fabric.device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, settings)
    progress = Progress()
    if resume:
        progress = _restore(run / "last.ckpt", model, optimizer)
    wrapped, optimizer = fabric.setup(model, optimizer)
    loop = _Loop(wrapped, optimizer, progress, config, splits, run)
    with _stop_on_interrupt(loop):
        return loop.run_to_end(fabric)


class _Loop:
    def __init__(self, model, optimizer, progress: Progress, config: Config, splits, run: Path):
        self.model, self.optimizer, self.progress = model, optimizer, progress
        self.config, self.run = config, run
        self.train_split, self.val_split = splits
        self.stop = False
        self.saved = self.counted = time.monotonic()
        self.metrics = MetricsFile(run / "metrics.csv", progress.step, progress.validated)
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=progress.step + 1)

    def run_to_end(self, fabric: Fabric) -> Scores | None:
        settings, progress = self.config.train, self.progress
        dataset = TrainSet(
            self.train_split,
            TrainTransform(self.config.data, tuple(self.model.mean.flatten().tolist())),
            settings.seed,
        )
        loader = train_loader(
            dataset,
            settings.batch_size,
            progress.step,
            settings.max_steps,
            self.config.data.workers,
        )
        scores = None
        self.counted = time.monotonic()
        with (
            closing(self.board),
            TrainingBar(settings.max_steps, progress.step, len(self.val_split)) as self.bar,
        ):
            if self.progress.step == 0:
                self._save_last()  # from here on there is always something to go on from
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
        settings, progress = self.config.train, self.progress
        torch.manual_seed(_mix(settings.seed, progress.step))  # for dropout
        factor = poly(progress.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * factor * group["factor"]
        self.model.train()
        loss = cross_entropy(self.model(self.model.normalize(batch["image"])), batch["mask"])
        value = loss.item()
        if not np.isfinite(value):
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
        step, settings = self.progress.step, self.config.train
        at_interval = step > 0 and step % settings.val_interval == 0
        return (at_interval or step == settings.max_steps) and step != self.progress.validated

    def _validate_if_due(self) -> Scores | None:
        if not self._due():
            return None
        progress = self.progress
        self._save_last()
        scores = evaluate(
            self.model.module, self.val_split, self.config.data.workers, self._validated_one
        )
        progress.validated = progress.step
        self._count_time()
        if scores.miou > progress.best_miou:
            progress.best_miou = scores.miou
            # Without the optimiser's state: a result, not something to go on from.
            save(
                self.model.module,
                self.run / "best.ckpt",
                config=asdict(self.config),
                progress=asdict(progress),
            )
        self._log(
            miou=scores.miou,
            pixel_accuracy=scores.pixel_accuracy,
            mean_accuracy=scores.mean_accuracy,
        )
        self._save_last()
        self.bar.validated(progress.step, scores, progress.best_miou)
        return scores

    def _validated_one(self, *_: object) -> None:
        if self.stop:
            raise Stopped  # last.ckpt was written just before; the validation is done again
        self.bar.advance_validation()

    def _log(self, **values: float) -> None:
        progress = self.progress
        epoch = progress.step * self.config.train.batch_size / len(self.train_split)
        self.metrics.add(
            {"step": progress.step, "epoch": f"{epoch:.3f}", "seconds": f"{progress.seconds:.1f}"}
            | {name: f"{value:.6g}" for name, value in values.items()}
        )
        for name, value in values.items():
            self.board.add_scalar(name, value, progress.step)

    def _save_last(self) -> None:
        save(
            self.model.module,
            self.run / "last.ckpt",
            config=asdict(self.config),
            progress=asdict(self.progress),
            optimizer=self.optimizer.state_dict(),
        )
        self.saved = time.monotonic()


def _restore(path: Path, model: SegmentationModel, optimizer: torch.optim.Optimizer) -> Progress:
    checkpoint = read_checkpoint(path)
    if checkpoint["model"] != model.to_plain():
        raise UserError(
            f"{path}: its model is {checkpoint['model']['spec']} with "
            f"{len(checkpoint['model']['labels']['classes'])} classes, the settings ask for "
            f"{model.to_plain()['spec']} with {len(model.labels)}; a run can't change its model"
        )
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
        loop.bar.say("Stopping after this step; Ctrl-C again to stop at once.")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
