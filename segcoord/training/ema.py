"""Exponential moving average (EMA) of the weights."""

import copy

import torch
from torch import Tensor, nn


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
        self._source: nn.Module | None = None
        self._floats: list[list[Tensor]] = []  # of the average, and of `_source`
        self._others: list[list[Tensor]] = []

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average after optimizer step `step`, counted from 1.

        Between the updates with one model, its tensors must stay the same objects: listing all of
        them takes longer than launching the update on a GPU.
        """
        if self._source is not model:
            self._source = model
            states = (self.model.state_dict().values(), model.state_dict().values())
            pairs = list(zip(*states))
            floats = [pair for pair in pairs if pair[0].is_floating_point()]
            others = [pair for pair in pairs if not pair[0].is_floating_point()]
            self._floats, self._others = (
                list(map(list, zip(*floats))),
                list(map(list, zip(*others))),
            )
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._floats, 1 - decay)
        if self._others:
            torch._foreach_copy_(*self._others)
