"""Work shared among processes of torch.distributed; all of it is this process's where none runs."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rank_indices(n: int) -> range:
    """The indices of `n` items that this process handles: every k-th of k processes.

    Unlike `DistributedSampler`, no index is repeated to even out the processes.
    """
    if dist.is_initialized():
        return range(dist.get_rank(), n, dist.get_world_size())
    return range(n)


def all_reduce(
    x: Tensor, device: torch.device, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM
) -> Tensor:
    """A tensor reduced over all processes, on the CPU of each.

    Args:
        x: any shape.
        device: where the process group's backend can reduce it.
        op: the reduction.
    """
    if dist.is_initialized():
        x = x.to(device)
        dist.all_reduce(x, op)
    return x.cpu()
