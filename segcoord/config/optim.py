"""Settings of the optimization and of the devices, for every task."""

import math
from dataclasses import dataclass, field
from typing import Literal

from segcoord.config.base import require


@dataclass
class OptimConfig:
    """Optimization and devices."""

    max_steps: int | None = None
    """Number of optimizer steps; the learning rate schedule ends with them."""
    epochs: float | None = None
    """Passes over the training images, instead of max_steps, which is computed from it."""
    batch_size: int = 16
    """Images per optimizer step, summed over all devices and accumulated parts."""
    accumulate: int = 1
    """Gradient accumulation: split each step into this many parts to save memory. Batch norm
    sees one part at a time."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float = 0.007
    """Initial learning rate for the global batch size."""
    momentum: float | None = 0.9
    """Momentum of SGD; must be null with adamw."""
    weight_decay: float = 4e-5
    """Weight decay, applied to biases and norms too, as in the papers."""
    schedule: Literal["poly", "cosine"] = "poly"
    """Learning rate schedule; both decay from lr to 0."""
    poly_power: float | None = 0.9
    """Exponent of the poly schedule, lr * (1 - step / max_steps) ** poly_power; must be null with
    cosine."""
    warmup_steps: int = 0
    """Number of steps of linear warmup."""
    clip_grad_norm: float | None = None
    """Clip the total norm of the gradients to this value; null for no clipping."""
    ema_decay: float | None = None
    """Decay of an exponential moving average of the weights, which is then what is validated and
    saved as best.ckpt; null for none."""
    val_interval: int = 1000
    """Steps between validations; the last step is always validated."""
    patience: int | None = None
    """Early stopping: end after this many validations without a better score; null for never."""
    seed: int = 0
    """Seed of all random numbers: weights, shuffling, augmentation, dropout."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device type; auto prefers a GPU."""
    devices: int | None = None
    """Devices per node; null for one, or for as many as torchrun started."""
    num_nodes: int = 1
    """Number of nodes; start the same command on each."""
    sync_bn: bool = True
    """Synchronize the batch norm statistics across devices."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Mixed precision (autocast) with bf16 or fp16; auto for bf16 on a GPU that supports it and
    fp32 elsewhere."""
    compile: bool = False
    """Compile the model with torch.compile, which delays the first step by minutes."""
    gradient_checkpointing: bool = False
    """Recompute the encoder's activations in the backward pass to save memory."""
    stop_if_unsaved: bool = False
    """End the run when a checkpoint can't be saved, for example on a full disk, instead of warning
    and continuing."""
    loggers: list[Literal["wandb", "mlflow"]] = field(default_factory=list)
    """Experiment trackers to log to: wandb (Weights & Biases), mlflow or both."""

    def check(self) -> None:
        """Raises UserError for values out of range and combinations that can't work."""
        for key in ("lr", "val_interval", "accumulate", "num_nodes"):
            require(getattr(self, key) > 0, f"train.{key}", getattr(self, key), "above 0")
        for key in ("max_steps", "epochs", "clip_grad_norm", "patience", "devices"):
            value = getattr(self, key)
            require(value is None or value > 0, f"train.{key}", value, "above 0, or null")
        lengths = [self.max_steps, self.epochs]
        ok = lengths.count(None) == 1
        require(ok, "train.max_steps and train.epochs", lengths, "a number for one of them")
        decay = self.ema_decay
        ok = decay is None or 0 < decay < 1
        require(ok, "train.ema_decay", decay, "above 0 and below 1, for example 0.999, or null")
        for key in ("weight_decay", "seed", "warmup_steps"):
            require(getattr(self, key) >= 0, f"train.{key}", getattr(self, key), "0 or more")
        require(self.seed < 2**63, "train.seed", self.seed, "below 2**63")
        require(
            self.batch_size % self.accumulate == 0 and self.batch_size >= 2 * self.accumulate,
            "train.batch_size",
            self.batch_size,
            f"a multiple of train.accumulate, {self.accumulate}, and at least twice that: after "
            "global pooling a single image has one value per channel, too few for batch norm",
        )
        expected = f"at most train.max_steps, {self.max_steps}"
        ok = self.max_steps is None or self.warmup_steps <= self.max_steps
        require(ok, "train.warmup_steps", self.warmup_steps, expected)
        ok = _set_only_if(self.optimizer == "sgd", self.momentum)
        require(ok, "train.momentum", self.momentum, "0 or more with sgd, null with adamw")
        ok = _set_only_if(self.schedule == "poly", self.poly_power)
        require(ok, "train.poly_power", self.poly_power, "0 or more with poly, null with cosine")
        ok = len(set(self.loggers)) == len(self.loggers)
        require(ok, "train.loggers", self.loggers, "each at most once")

    def resolve_epochs(self, images: int) -> None:
        """Replace `epochs`, if set, with the `max_steps` that pass over `images` that many times.

        Raises:
            UserError: a setting doesn't fit this number of steps.
        """
        if self.epochs is not None:
            steps = round(self.epochs * images / self.batch_size, 6)  # 0.1 * 30 is above 3
            self.max_steps, self.epochs = math.ceil(steps), None
            self.check()


def _set_only_if(used: bool, value: float | None) -> bool:
    """Whether a value is 0 or more where it is used, and null where it isn't."""
    return value is not None and value >= 0 if used else value is None
