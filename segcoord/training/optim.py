"""The optimiser, and the learning rate of each step."""

from __future__ import annotations

import math

import torch

from segcoord.config.schema import OptimConfig


def lr_factor(step: int, config: OptimConfig) -> float:
    """The learning rate's factor at a step.

    poly: (1 - step / max_steps) ** poly_power (DeepLab, Chen et al. 2016, section 4.1.1);
    cosine: (1 + cos(pi * step / max_steps)) / 2 (Loshchilov and Hutter 2017, without restarts).
    Over the first warmup_steps it is multiplied by (step + 1) / warmup_steps (Goyal et al. 2017,
    "Accurate, Large Minibatch SGD", section 2.2).
    """
    done = step / config.max_steps
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "cosine":
        return warm * (1 + math.cos(math.pi * done)) / 2
    return warm * (1 - done) ** config.poly_power


def make_optimizer(groups: list[dict], config: OptimConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over a task's parameter groups."""
    # A fused optimiser undoes the loss scale itself, too late for Fabric to clip before.
    fused = config.precision != "fp16" or config.clip_grad_norm is None
    common = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": fused}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **common)
    return torch.optim.SGD(groups, momentum=config.momentum, **common)
