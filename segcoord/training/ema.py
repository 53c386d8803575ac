"""Exponential moving average (EMA) of the weights."""

import copy

import torch
from torch import nn


class Ema:
    """average += (1 - d) * (weights - average) after each step, for buffers too.

    d is min(decay, (1 + step) / (10 + step)), so that the average leaves its random start quickly.
    This is tf.train.ExponentialMovingAverage with num_updates, which MobileNet and EfficientNet
    were trained with. The model is copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        """The average, in eval mode."""

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average after optimizer step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values()))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in floats], [w for _, w in floats], 1 - decay)
        for average, current in pairs:
            if not average.is_floating_point():
                average.copy_(current)
