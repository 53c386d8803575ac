"""The optimizer and the learning rate schedule."""

import math

import torch

from segcoord.config.schema import OptimConfig


def lr_multiplier(step: int, config: OptimConfig) -> float:
    """The factor that multiplies the learning rate at a step, counted from 0.

    poly: (1 - step / max_steps) ** poly_power (DeepLab, Chen et al. 2016, section 4.1.1);
    cosine: (1 + cos(pi * step / max_steps)) / 2 (Loshchilov and Hutter 2017, without restarts).
    During the first warmup_steps it is multiplied by (step + 1) / warmup_steps (Goyal et al. 2017,
    "Accurate, Large Minibatch SGD", section 2.2).
    """
    progress = step / config.max_steps
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "cosine":
        return warmup * (1 + math.cos(math.pi * progress)) / 2
    return warmup * (1 - progress) ** config.poly_power


def make_optimizer(groups: list[dict], config: OptimConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameter groups of a task."""
    # A fused optimizer unscales the gradients itself, too late for Fabric to clip them first.
    fused = config.precision != "fp16" or config.clip_grad_norm is None
    common = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": fused}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **common)
    return torch.optim.SGD(groups, momentum=config.momentum, **common)
