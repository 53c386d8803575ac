"""Copies batches to a GPU while it computes."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader


class CopyStream:
    """The batches of a loader on a GPU, copied on a stream of their own.

    The loop runs ahead of the GPU, so a copy overlaps with the step before it.

    Args:
        loader: yields dictionaries of tensors in pinned memory.
        device: of the copies.
    """

    def __init__(self, loader: DataLoader, device: torch.device) -> None:
        self.loader, self.device = loader, device
        self.stream = torch.cuda.Stream(device)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.loader:
            with torch.cuda.stream(self.stream):
                batch = {k: t.to(self.device, non_blocking=True) for k, t in batch.items()}
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for tensor in batch.values():  # its memory is reused only after the step
                tensor.record_stream(current)
            yield batch
