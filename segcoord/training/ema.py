"""The moving average of the weights, which scores better than the weights themselves."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """average += (1 - d) * (weights - average) after each step; running statistics alike.

    d is min(decay, (1 + step) / (10 + step)), so that the average leaves its random start quickly:
    tf.train.ExponentialMovingAverage with num_updates, by which MobileNet and EfficientNet were
    trained.

    Args:
        model: to be averaged; it is copied as it is now.
        decay: of the average, below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        """The average, in eval mode."""

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights after optimiser step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        mine, theirs = self.model.state_dict().values(), model.state_dict().values()
        pairs = list(zip(mine, theirs))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in averaged], [w for _, w in averaged], 1 - decay)
        for average, count in pairs:
            if not average.is_floating_point():
                average.copy_(count)
