"""The training loop, for any `Task`: fit, validate, save, and resume bit for bit.

Lightning Fabric handles the devices. Its Trainer would prevent an exact resume: it draws random
numbers between restoring their state and the first batch, its samplers depend on the trainer's
step, and an interrupt leaves its loops half advanced. Here every random draw of step t is a
function of (seed, t), so the state of a run is its weights, its optimizer and a few counters.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from segcoord.data.loader import EpochShuffle, StepBatchSampler, train_loader
from segcoord.models.checkpoint import save
from segcoord.models.cpu_autograd import use_fast_cpu_backward
from segcoord.training.copy_stream import CopyStream
from segcoord.training.ema import Ema
from segcoord.training.fabric import Fabric, explain_out_of_memory
from segcoord.training.optim import lr_multiplier, make_optimizer
from segcoord.training.progress import TrainingBar
from segcoord.training.resume import TrainerState, keep_previous, restore
from segcoord.training.run_writer import RunWriter
from segcoord.training.sync_batchnorm import with_sync_batchnorm
from segcoord.training.task import Task
from segcoord.utils.console import console, score_title
from segcoord.utils.errors import UserError

LOG_INTERVAL = 10  # steps averaged in a row of metrics.csv
SAVE_INTERVAL = 600.0  # seconds between saves of last.ckpt without a validation
DIVERGED_LOSS = 1e4  # no run recovers from this; with random weights the loss is below 10
MAX_LISTED_IMAGES = 16  # of a batch whose loss diverged


class TrainingInterrupted(Exception):
    """Training stopped on a signal, after saving."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def train(task: Task, run: Path, fabric: Fabric, state: dict | None = None) -> TrainerState | None:
    """Train until max_steps with validations; writes best.ckpt and last.ckpt.

    Args:
        task: the task with its initial model, whose weights are replaced on resume.
        run: the run folder.
        fabric: launched Fabric with devices and precision.
        state: state from `read_state` to resume from.

    Returns:
        The final counters and best score; None if the run was complete already.

    Raises:
        TrainingInterrupted: after Ctrl-C or SIGTERM, with last.ckpt written.
        UserError: the state doesn't match, an image can't be used, the loss diverges, the memory
            is too small, or a required checkpoint can't be saved.
    """
    with explain_out_of_memory(task.config.train):
        loop = create_loop(task, run, fabric, state)
    with _stop_on_signals(loop):
        return loop.fit()


def create_loop(task: Task, run: Path, fabric: Fabric, state: dict | None = None) -> TrainingLoop:
    """Set up the model on its device, the optimizer and the EMA, and restore the state.

    See `train` for the arguments and errors.
    """
    settings = task.config.train
    # On the device before the optimizer is restored: its state follows the parameters there.
    module = task.module.to(fabric.device, memory_format=torch.channels_last)
    if fabric.device.type == "cpu":
        use_fast_cpu_backward(module)
    if settings.gradient_checkpointing:
        task.model.checkpoint_gradients()
    ema = Ema(task.model, settings.ema_decay) if settings.ema_decay is not None else None
    if fabric.world_size > 1 and settings.sync_bn:
        module = with_sync_batchnorm(module, fabric.device)
    optimizer = make_optimizer(task.parameter_groups(), settings)
    trainer_state = TrainerState()
    if state is not None:
        trainer_state = restore(state, run, task.model, module, optimizer, ema)
        if state["precision"]:
            fabric.strategy.precision.load_state_dict(state["precision"])
    compiled = torch.compile(module) if settings.compile else module
    fabric_module, optimizer = fabric.setup(compiled, optimizer)
    return TrainingLoop(task, fabric_module, optimizer, ema, trainer_state, run, fabric)


class TrainingLoop:
    """One session of a run; `ema`, if given, is validated and saved instead of the model."""

    def __init__(
        self,
        task: Task,
        fabric_module: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: Ema | None,
        state: TrainerState,
        run: Path,
        fabric: Fabric,
    ) -> None:
        self.task, self.fabric_module, self.optimizer = task, fabric_module, optimizer
        self.ema, self.state, self.run, self.fabric = ema, state, run, fabric
        self.eval_model = ema.model if ema else task.model
        self.settings = task.config.train
        self.order = EpochShuffle(len(task.train_set), self.settings.batch_size, self.settings.seed)
        # Reading a loss waits for the device, and a GPU should not run idle meanwhile.
        self.read_interval = 1 if fabric.device.type == "cpu" else LOG_INTERVAL
        self.pending_losses: list[tuple[int, float, Tensor]] = []  # step, learning rate, loss
        self.save_error = ""  # of the latest checkpoint
        self.stop_signal: int | None = None
        self.last_save = self.last_count = time.monotonic()
        enabled = fabric.is_global_zero
        point = (state.step, state.validated)
        self.writer = RunWriter(run, task.config, task.columns, *point, enabled=enabled)

    def fit(self) -> TrainerState | None:
        """Train to the end; returns the final state, None if no validation was due."""
        settings, state = self.settings, self.state
        batches = self._batches()
        self.last_count = time.monotonic()
        if state.step == 0:  # from here on the run can be resumed
            self._save_last(required=True)
        headline = self.task.columns[0]
        self.bar = TrainingBar(
            settings.max_steps, state.step, self.task.val_images, headline, state.best
        )
        with self.writer, self.bar:
            scores = self._validate_if_due()
            batches = iter(batches)
            while state.step < settings.max_steps and not self._is_patience_exhausted():
                self._step(batches)
                scores = self._validate_if_due() or scores
                if self._is_stop_requested():
                    self._save_last(required=True)
                    raise TrainingInterrupted(self.stop_signal or signal.SIGTERM)
                # Only without pending losses: reading them is collective, and the clocks differ.
                if not self.pending_losses and time.monotonic() - self.last_save > SAVE_INTERVAL:
                    self._save_last()
        if state.step < settings.max_steps:
            self._print_early_stop()
        if scores is not None and self.save_error:
            raise UserError(
                f"The training is complete, but its last state is not saved: {self.save_error}"
            )
        return None if scores is None else state

    def _batches(self) -> Iterable[dict[str, Tensor]]:
        fabric, settings = self.fabric, self.settings
        steps = (self.state.step, settings.max_steps)
        sampler = StepBatchSampler(
            self.order, steps, settings.accumulate, fabric.global_rank, fabric.world_size
        )
        on_gpu = fabric.device.type == "cuda"
        workers = self.task.config.data.workers
        loader = train_loader(self.task.train_set, sampler, workers, pin_memory=on_gpu)
        if on_gpu:
            return CopyStream(loader, fabric.device)
        return fabric.setup_dataloaders(loader, use_distributed_sampler=False)

    def _is_patience_exhausted(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.state.since_best >= patience

    def _print_early_stop(self) -> None:
        state, settings = self.state, self.settings
        best = "" if state.best < 0 else f" than {state.best:.4f}"
        at = "" if state.best_step < 0 else f" (step {state.best_step})"
        console.print(
            f"Stopped early at step {state.step} of {settings.max_steps}: no better "
            f"{score_title(self.task.columns[0])}{best}{at} in the last {state.since_best} "
            f"validations; train.patience is {settings.patience}."
        )

    def _step(self, batches: Iterator[dict[str, Tensor]]) -> None:
        settings, state, fabric = self.settings, self.state, self.fabric
        lr = settings.lr * lr_multiplier(state.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self.fabric_module.train()
        total = torch.zeros((), device=fabric.device)
        with explain_out_of_memory(settings):
            self.optimizer.zero_grad()
            for part, batch in enumerate(islice(batches, settings.accumulate)):
                torch.manual_seed(_step_seed(settings.seed, state.step, part, fabric.global_rank))
                accumulating = part + 1 < settings.accumulate and fabric.world_size > 1
                with fabric.no_backward_sync(self.fabric_module, enabled=accumulating):
                    loss = self.fabric_module(batch) / settings.accumulate
                    fabric.backward(loss)
                total += loss.detach()
            if settings.clip_grad_norm is not None:
                fabric.clip_gradients(
                    self.fabric_module,
                    self.optimizer,
                    max_norm=settings.clip_grad_norm,
                    error_if_nonfinite=False,  # the divergence error below says more
                )
            self.optimizer.step()
        state.step += 1
        if self.ema:
            self.ema.update(self.task.model, state.step)
        self.pending_losses.append((state.step, lr, total))
        if state.step % self.read_interval == 0 or self._is_validation_due():
            self._read_losses()

    def _read_losses(self) -> None:
        """Read, check and log the losses since the last call; every save does so first."""
        if not self.pending_losses:
            return
        state, pending, self.pending_losses = self.state, self.pending_losses, []
        steps, lrs, losses = zip(*pending)
        losses = self._mean_over_processes(torch.stack(losses))
        for step, lr, loss in zip(steps, lrs, losses.tolist()):
            if not abs(loss) < DIVERGED_LOSS:
                raise self._divergence_error(step, lr, f"the loss is {loss:g}")
            state.loss_sum += loss
            state.loss_count += 1
            self._count_time()
            if step % LOG_INTERVAL == 0 or self._is_validation_due(step):
                mean = state.loss_sum / state.loss_count
                state.loss_sum, state.loss_count = 0.0, 0
                self._log(step, loss=mean, lr=lr)
            self.bar.step(step, loss, lr)

    def _mean_over_processes(self, values: Tensor) -> Tensor:
        return self.fabric.all_reduce(values, reduce_op="mean")

    def _check_weights(self) -> None:
        """A gradient can overflow while its loss is finite; the next loss would come too late."""
        step = self.state.step
        norms = torch.stack(torch._foreach_norm(list(self.task.module.parameters())))
        if step > 0 and not norms.isfinite().all():
            lr = self.settings.lr * lr_multiplier(step - 1, self.settings)
            raise self._divergence_error(step, lr, "the updated weights are not finite")

    def _divergence_error(self, step: int, lr: float, problem: str) -> UserError:
        settings = self.settings
        keys = self.order.batch(step - 1)
        lines = [f"  {self.task.train_set.source(key)}" for key in keys[:MAX_LISTED_IMAGES]]
        if len(keys) > len(lines):
            lines.append(f"  and {len(keys) - len(lines)} more")
        return UserError(
            f"step {step}: {problem} at learning rate {lr:.3g}. Lower train.lr (now {settings.lr}),"
            f" raise train.warmup_steps (now {settings.warmup_steps}) "
            f"or set train.clip_grad_norm; {self.run / 'last.ckpt'} holds the last good state. "
            "The images of this step:\n" + "\n".join(lines)
        )

    def _is_stop_requested(self) -> bool:
        """Whether any process received a stop signal; the same answer in all processes."""
        if self.state.step % self.read_interval and not self._is_validation_due():
            return False
        if self.fabric.world_size == 1:
            return self.stop_signal is not None
        stop = torch.tensor(float(self.stop_signal is not None), device=self.fabric.device)
        return self.fabric.all_reduce(stop, reduce_op="sum").item() > 0

    def _count_time(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self.last_count
        self.last_count = now

    def _is_validation_due(self, step: int | None = None) -> bool:
        """Whether a step, by default the current one, is followed by a validation."""
        step, settings = self.state.step if step is None else step, self.settings
        at_interval = step > 0 and step % settings.val_interval == 0
        return (at_interval or step == settings.max_steps) and step != self.state.validated

    def _validate_if_due(self) -> dict[str, float] | None:
        if not self._is_validation_due():
            return None
        state = self.state
        self._save_last()
        with explain_out_of_memory(self.settings):
            self._broadcast_eval_model()
            scores = self.task.validate(self.eval_model, self._on_validated_image)
        state.validated = state.step
        self._count_time()
        score = scores[self.task.columns[0]]
        state.since_best += 1
        # best.ckpt has no optimizer state: it is a result, not something to resume from.
        # Only the main process knows whether it was saved.
        if score > state.best:
            saved = self._save("best.ckpt", {"best": score, "best_step": state.step})
            if self.fabric.broadcast(saved):
                state.best, state.best_step, state.since_best = score, state.step, 0
        self._log(state.step, **scores)
        self.writer.add_examples(state.step, lambda: self.task.examples(self.eval_model))
        self._save_last()
        self.bar.validated(state.step, scores, state.best)
        return scores

    def _broadcast_eval_model(self) -> None:
        """Send the main process's weights and buffers; without sync_bn the buffers differ."""
        if self.fabric.world_size > 1:
            for tensor in self.eval_model.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)

    def _on_validated_image(self) -> None:
        if self.stop_signal is not None and self.fabric.world_size == 1 and not self.save_error:
            # last.ckpt was written just before; the resumed run repeats this validation.
            raise TrainingInterrupted(self.stop_signal)
        self.bar.advance_validation(self.fabric.world_size)

    def _log(self, step: int, **values: float) -> None:
        epoch = step * self.settings.batch_size / len(self.task.train_set)
        self.writer.add(step, epoch, self.state.seconds, values)

    def _save_last(self, required: bool = False) -> None:
        self._read_losses()
        self._check_weights()
        state_dicts = {
            "training": self.task.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        self._save("last.ckpt", {}, required=required, **state_dicts)
        self.last_save = time.monotonic()

    def _save(self, name: str, changes: dict, required: bool = False, **extra: object) -> bool:
        """Write a checkpoint; a failure is a warning, or raised if the file is `required`."""
        if not self.fabric.is_global_zero:
            return True
        config, progress = asdict(self.task.config), asdict(self.state) | changes
        try:
            if name == "last.ckpt":
                keep_previous(self.run)
            save(self.eval_model, self.run / name, config=config, progress=progress, **extra)
        except UserError as error:
            if required or self.settings.stop_if_unsaved:
                raise
            self.save_error = str(error)
            console.print(f"step {self.state.step}: {error}\nTraining continues.")
            return False
        self.save_error = ""
        return True


def _step_seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def _stop_on_signals(loop: TrainingLoop) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C finish the step; a second Ctrl-C interrupts at once."""

    def request_stop(signum: int, _: object) -> None:
        loop.stop_signal = signum
        hint = ""
        if signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            hint = "; press Ctrl-C again to stop at once"
        console.print(f"Stopping after this step{hint}.")

    handlers = {each: signal.signal(each, request_stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
