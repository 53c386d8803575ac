"""Synchronized batch norm.

On a GPU this is PyTorch's. PyTorch has no CPU version and DistributedDataParallel refuses its
module there, so this file computes the same on the CPU.
"""

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn


def with_sync_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Convert every batch norm, timm's too, to take its statistics over all processes."""
    if device.type != "cpu":
        return convert_sync_batchnorm(module)
    classes = {nn.BatchNorm2d: _CpuSyncBatchNorm, BatchNormAct2d: _CpuSyncBatchNormAct}
    for norm in module.modules():
        norm.__class__ = classes.get(type(norm), type(norm))
    return module


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of the gradients of all processes."""

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


def _sync_batch_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Normalize (N, C, H, W) float per channel over N, H and W of all processes."""
    dims, shape, dtype = (0, 2, 3), (1, -1, 1, 1), x.dtype
    x = x.to(norm.weight.dtype)  # bfloat16 from autocast is too coarse for sums
    count = x.new_tensor(float(x.numel() // x.shape[1]))
    dist.all_reduce(count)
    mean = _AllReduceSum.apply(x.sum(dims)) / count  # (C,)
    centered = x - mean.view(shape)
    var = _AllReduceSum.apply(centered.square().sum(dims)) / count  # (C,), biased
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * count / (count - 1), norm.momentum)
    x = centered * (norm.weight / (var + norm.eps).sqrt()).view(shape) + norm.bias.view(shape)
    return x.to(dtype)


class _CpuSyncBatchNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return _sync_batch_norm(self, x) if self.training else super().forward(x)


class _CpuSyncBatchNormAct(BatchNormAct2d):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return self.act(self.drop(_sync_batch_norm(self, x)))
