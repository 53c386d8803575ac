"""Splitting work and summing results over torch.distributed, if it is initialized."""

import torch
import torch.distributed as dist
from torch import Tensor


def rank_indices(n: int) -> range:
    """Indices of the items that this process handles, out of `n`: every k-th with k processes.

    Unlike `DistributedSampler`, no index is repeated to even out the processes.
    """
    if dist.is_initialized():
        return range(dist.get_rank(), n, dist.get_world_size())
    return range(n)


def all_reduce(
    x: Tensor, device: torch.device, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM
) -> Tensor:
    """Reduce a tensor over all processes; returns it on the CPU.

    Args:
        x: any shape.
        device: device that the process group's backend supports.
        op: reduction operator.
    """
    if dist.is_initialized():
        x = x.to(device)
        dist.all_reduce(x, op)
    return x.cpu()
