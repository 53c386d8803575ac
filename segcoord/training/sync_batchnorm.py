"""Batch norm over all processes of a run.

On a GPU it is PyTorch's own. That has no form for the CPU, and DistributedDataParallel refuses it
there, so the few lines below say the same.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn


def with_sync_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with every batch norm, timm's too, taking its statistics over all processes."""
    if device.type != "cpu":
        return convert_sync_batchnorm(module)
    forms = {nn.BatchNorm2d: _OnCpu, BatchNormAct2d: _OnCpuWithActivation}
    for norm in module.modules():
        norm.__class__ = forms.get(type(norm), type(norm))
    return module


class _Sum(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of the processes' gradients."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad


def _over_all(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """(N, C, H, W) float, normalised per channel over all processes' N, H and W."""
    dims, shape, dtype = (0, 2, 3), (1, -1, 1, 1), x.dtype
    x = x.to(norm.weight.dtype)  # autocast's bfloat16 has no digits for sums
    count = x.new_tensor(float(x.numel() // x.shape[1]))
    dist.all_reduce(count)
    mean = _Sum.apply(x.sum(dims)) / count  # (C,)
    centred = x - mean.view(shape)
    var = _Sum.apply(centred.square().sum(dims)) / count  # (C,), biased
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * count / (count - 1), norm.momentum)
    x = centred * (norm.weight / (var + norm.eps).sqrt()).view(shape) + norm.bias.view(shape)
    return x.to(dtype)


class _OnCpu(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return _over_all(self, x) if self.training else super().forward(x)


class _OnCpuWithActivation(BatchNormAct2d):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(_over_all(self, x))) if self.training else super().forward(x)
