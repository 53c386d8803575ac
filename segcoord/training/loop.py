"""Training: the loop that goes on exactly where it stopped.

What is trained is a Task, segmentation or classification; nothing here knows which.

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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segcoord.data.loader import EpochShuffle, StepBatchSampler, train_loader
from segcoord.models.checkpoint import save
from segcoord.models.cpu_autograd import use_fast_cpu_backward
from segcoord.training.ema import Ema
from segcoord.training.fabric import explain_out_of_memory
from segcoord.training.optim import lr_factor, make_optimizer
from segcoord.training.progress import TrainingBar
from segcoord.training.resume import TrainingProgress, keep_previous, restore
from segcoord.training.run_writer import RunWriter
from segcoord.training.sync_batchnorm import with_sync_batchnorm
from segcoord.training.task import Task
from segcoord.utils.console import console
from segcoord.utils.errors import UserError

LOG_INTERVAL = 10  # steps whose mean loss makes a row of metrics.csv
SAVE_INTERVAL = 600.0  # seconds after which last.ckpt is renewed between validations
DIVERGED_LOSS = 1e4  # a loss that no run comes back from; at random weights it is below 10
FILES_NAMED = 16  # of the batch whose loss exploded


class TrainingInterrupted(Exception):
    """The run was asked to stop, and is saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclass(frozen=True)
class _PendingLoss:
    """A step whose loss was not looked at yet."""

    step: int
    lr: float
    loss: Tensor


def train(
    task: Task, run: Path, fabric: Fabric, state: dict | None = None
) -> dict[str, float] | None:
    """Trains until max_steps, validates, leaves best.ckpt and last.ckpt in the run's folder.

    Args:
        task: with its model at the start; the weights are replaced where the run goes on.
        run: the run's folder.
        fabric: launched; says the devices and the precision.
        state: from `read_state`, to go on from.

    Returns:
        The scores of the last validation, None if the run had nothing left to do.

    Raises:
        Stopped: after Ctrl-C or SIGTERM, with last.ckpt written.
        UserError: a state that doesn't fit, a file of the dataset that can't be used, a loss that
            explodes, too little memory, a result that can't be saved.
    """
    settings = task.config.train
    # On its device before the optimiser is restored, whose state then follows the parameters there.
    module = task.module.to(fabric.device, memory_format=torch.channels_last)
    if fabric.device.type == "cpu":
        use_fast_cpu_backward(module)
    if settings.gradient_checkpointing:
        task.model.checkpoint_gradients()
    ema = Ema(task.model, settings.ema_decay) if settings.ema_decay is not None else None
    if fabric.world_size > 1 and settings.sync_bn:
        module = with_sync_batchnorm(module, fabric.device)
    optimizer = make_optimizer(task.parameter_groups(), settings)
    progress = TrainingProgress()
    if state is not None:
        progress = restore(state, run, task.model, module, optimizer, ema)
        if state["precision"]:
            fabric.strategy.precision.load_state_dict(state["precision"])
    compiled = torch.compile(module) if settings.compile else module
    wrapped, optimizer = fabric.setup(compiled, optimizer)
    loop = TrainingLoop(task, wrapped, optimizer, ema, progress, run, fabric)
    with _stop_on_signals(loop):
        return loop.run_to_end()


class TrainingLoop:
    def __init__(
        self,
        task: Task,
        wrapped: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: Ema | None,
        progress: TrainingProgress,
        run: Path,
        fabric: Fabric,
    ) -> None:
        self.task, self.wrapped, self.optimizer = task, wrapped, optimizer
        self.ema, self.progress, self.run, self.fabric = ema, progress, run, fabric
        self.result = ema.model if ema else task.model  # what is scored and saved
        self.settings = task.config.train
        self.order = EpochShuffle(len(task.train_set), self.settings.batch_size, self.settings.seed)
        # Reading a loss waits for the device, which on a GPU has more to do meanwhile.
        self.read_interval = 1 if fabric.device.type == "cpu" else LOG_INTERVAL
        self.unread: list[_PendingLoss] = []
        self.unsaved = ""  # why the last checkpoint could not be written
        self.asked: int | None = None  # the signal that asked for a stop
        self.saved = self.counted = time.monotonic()
        self.record = RunWriter(
            run,
            task.config,
            task.columns,
            progress.step,
            progress.validated,
            enabled=fabric.is_global_zero,
        )

    def run_to_end(self) -> dict[str, float] | None:
        settings, progress, fabric = self.settings, self.progress, self.fabric
        steps, parts = (progress.step, settings.max_steps), settings.accumulate
        shares = StepBatchSampler(self.order, steps, parts, fabric.global_rank, fabric.world_size)
        loader = train_loader(self.task.train_set, shares, self.task.config.data.workers)
        loader = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        self.counted = time.monotonic()
        if progress.step == 0:
            # From here on there is always something to go on from.
            self._save_last(required=True)
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
            batches = iter(loader)
            while progress.step < settings.max_steps and not self._out_of_patience():
                self._step(batches)
                scores = self._validate_if_due() or scores
                if self._stop_agreed():
                    self._save_last(required=True)
                    raise TrainingInterrupted(self.asked or signal.SIGTERM)
                # To read losses takes all processes, and their clocks differ.
                if not self.unread and time.monotonic() - self.saved > SAVE_INTERVAL:
                    self._save_last()
        if scores is not None and self.unsaved:
            raise UserError(f"The run is at its end, but its last state is lost: {self.unsaved}")
        return scores

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.progress.since_best >= patience

    def _step(self, batches: Iterator[dict[str, Tensor]]) -> None:
        settings, progress, fabric = self.settings, self.progress, self.fabric
        factor = lr_factor(progress.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * factor * group["factor"]
        self.wrapped.train()
        total = torch.zeros((), device=fabric.device)
        with explain_out_of_memory(settings):
            self.optimizer.zero_grad()
            for part, batch in enumerate(islice(batches, settings.accumulate)):
                torch.manual_seed(_mix(settings.seed, progress.step, part, fabric.global_rank))
                more = part + 1 < settings.accumulate
                with fabric.no_backward_sync(self.wrapped, enabled=more and fabric.world_size > 1):
                    loss = self.wrapped(batch) / settings.accumulate
                    fabric.backward(loss)
                total += loss.detach()
            if settings.clip_grad_norm is not None:
                fabric.clip_gradients(
                    self.wrapped,
                    self.optimizer,
                    max_norm=settings.clip_grad_norm,
                    error_if_nonfinite=False,  # the loss tells it, with all that is known
                )
            self.optimizer.step()
        progress.step += 1
        if self.ema:
            self.ema.update(self.task.model, progress.step)
        self.unread.append(_PendingLoss(progress.step, settings.lr * factor, total))
        if progress.step % self.read_interval == 0 or self._due():
            self._read_losses()

    def _read_losses(self) -> None:
        """Looks at the losses of the last steps; nothing is saved without."""
        if not self.unread:
            return
        progress, unread, self.unread = self.progress, self.unread, []
        losses = self._mean_over_processes(torch.stack([done.loss for done in unread]))
        for done, value in zip(unread, losses.tolist()):
            if not abs(value) < DIVERGED_LOSS:
                raise self._exploded(done.step, done.lr, f"the loss is {value:g}")
            progress.loss_sum += value
            progress.loss_count += 1
            self._count_time()
            if done.step % LOG_INTERVAL == 0 or self._due(done.step):
                mean = progress.loss_sum / progress.loss_count
                progress.loss_sum, progress.loss_count = 0.0, 0
                self._log(done.step, loss=mean, lr=done.lr)
            self.bar.step(done.step, value, done.lr)

    def _mean_over_processes(self, values: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return values
        return self.fabric.all_reduce(values, reduce_op="mean")

    def _check_weights(self) -> None:
        """A gradient may overflow where the loss does not; the next loss would be too late."""
        step = self.progress.step
        norms = torch.stack(torch._foreach_norm(list(self.task.module.parameters())))
        if step > 0 and not norms.isfinite().all():
            lr = self.settings.lr * lr_factor(step - 1, self.settings)
            raise self._exploded(step, lr, "after it the weights are not finite")

    def _exploded(self, step: int, lr: float, told: str) -> UserError:
        settings = self.settings
        indices = [index for _, index in self.order.batch(step - 1)]
        named = [str(self.task.train_set.path(index)) for index in indices[:FILES_NAMED]]
        more = len(indices) - len(named)
        listed = "\n".join(f"  {name}" for name in named) + (f"\n  and {more} more" if more else "")
        return UserError(
            f"step {step}: {told} at learning rate {lr:.3g}. Lower train.lr (now {settings.lr}), "
            f"raise train.warmup_steps (now {settings.warmup_steps}) "
            f"or set train.clip_grad_norm; {self.run / 'last.ckpt'} holds the last good state. "
            f"The images of this step:\n{listed}"
        )

    def _stop_agreed(self) -> bool:
        """Whether any process was asked to stop; all processes get the same answer."""
        if self.progress.step % self.read_interval and not self._due(self.progress.step):
            return False
        if self.fabric.world_size == 1:
            return self.asked is not None
        asked = torch.tensor(float(self.asked is not None), device=self.fabric.device)
        return self.fabric.all_reduce(asked, reduce_op="sum").item() > 0

    def _count_time(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self.counted
        self.counted = now

    def _due(self, step: int | None = None) -> bool:
        """Whether a validation belongs after a step, the present one unless given."""
        step, settings = self.progress.step if step is None else step, self.settings
        at_interval = step > 0 and step % settings.val_interval == 0
        return (at_interval or step == settings.max_steps) and step != self.progress.validated

    def _validate_if_due(self) -> dict[str, float] | None:
        if not self._due():
            return None
        progress = self.progress
        self._save_last()
        with explain_out_of_memory(self.settings):
            self._share_result()
            scores = self.task.validate(self.result, self._validated_one)
        progress.validated = progress.step
        self._count_time()
        score = scores[self.task.columns[0]]
        progress.since_best += 1
        # Without the optimiser's state: a result, not something to go on from.
        # The first process alone knows whether it could be saved.
        if score > progress.best:
            saved = self._save("best.ckpt", {"best": score})
            if self.fabric.broadcast(saved):
                progress.best, progress.since_best = score, 0
        self._log(progress.step, **scores)
        self.record.add_examples(progress.step, lambda: self.task.examples(self.result))
        self._save_last()
        self.bar.validated(progress.step, scores, progress.best)
        return scores

    def _share_result(self) -> None:
        """The first process's weights and statistics for all; without sync_bn theirs differ."""
        if self.fabric.world_size > 1:
            for tensor in self.result.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)

    def _validated_one(self) -> None:
        if self.asked is not None and self.fabric.world_size == 1 and not self.unsaved:
            raise TrainingInterrupted(
                self.asked
            )  # last.ckpt was written just before; validated again then
        self.bar.advance_validation(self.fabric.world_size)

    def _log(self, step: int, **values: float) -> None:
        epoch = step * self.settings.batch_size / len(self.task.train_set)
        self.record.add(step, epoch, self.progress.seconds, values)

    def _save_last(self, required: bool = False) -> None:
        self._read_losses()
        self._check_weights()
        state = {
            "training": self.task.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        self._save("last.ckpt", {}, required=required, **state)
        self.saved = time.monotonic()

    def _save(self, name: str, change: dict, required: bool = False, **extra: object) -> bool:
        """Writes a checkpoint; where it can't, warns, or raises if that is `required`."""
        if not self.fabric.is_global_zero:
            return True
        config, progress = asdict(self.task.config), asdict(self.progress) | change
        try:
            if name == "last.ckpt":
                keep_previous(self.run)
            save(self.result, self.run / name, config=config, progress=progress, **extra)
        except UserError as error:
            if required or self.settings.stop_if_unsaved:
                raise
            self.unsaved = str(error)
            console.print(f"step {self.progress.step}: {error}\nThe run goes on.")
            return False
        self.unsaved = ""
        return True


def _mix(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def _stop_on_signals(loop: TrainingLoop) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C let the step finish; a second Ctrl-C stops at once, as ever."""

    def ask(signum: int, _: object) -> None:
        loop.asked = signum
        again = ""
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            again = "; Ctrl-C again to stop at once"
        console.print(f"Stopping after this step{again}.")

    before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
