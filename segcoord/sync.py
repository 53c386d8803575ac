"""Batch norm over all processes of a run.

On a GPU it is PyTorch's own, which has no form for the CPU; there it is the few lines below, which
say the same with the same names.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers.norm_act import SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn


def synchronized(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with every batch norm, timm's too, taking its statistics over all processes."""
    module = convert_sync_batchnorm(module)
    if device.type == "cpu":
        forms = {nn.SyncBatchNorm: _OnCpu, SyncBatchNormAct: _OnCpuWithActivation}
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


class _OnCpu(nn.SyncBatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) float, normalised per channel over all processes' N and places."""
        if not self.training:
            weights = (self.running_mean, self.running_var, self.weight, self.bias)
            return F.batch_norm(x, *weights, False, 0.0, self.eps)
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(x.ndim)]
        count = _Sum.apply(x.new_tensor([x.numel() / x.shape[1]]))
        mean = _Sum.apply(x.sum(dims)) / count  # (C,)
        centred = x - mean.view(shape)
        var = _Sum.apply(centred.square().sum(dims)) / count  # (C,), biased
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            unbiased = var * count / (count - 1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight / (var + self.eps).sqrt()
        return centred * scale.view(shape) + self.bias.view(shape)


class _OnCpuWithActivation(SyncBatchNormAct, _OnCpu):
    """timm's, whose forward calls the next class's: the norm above, then its activation."""
