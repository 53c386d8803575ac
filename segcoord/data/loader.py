"""Batches for training: which image comes at which step, and the processes that load it.

Everything is a function of (seed, step), so a run that goes on after a stop sees the same batches
as one that never stopped, for any number of workers, and nothing is loaded only to be skipped.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from segcoord.data.layouts import Split
from segcoord.data.transforms import TrainTransform
from segcoord.errors import UserError


class TrainSet(Dataset):
    """Augmented samples by (epoch, index): image (h, w, 3) uint8 RGB, mask (h, w) uint8."""

    def __init__(self, split: Split, transform: TrainTransform, seed: int) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray]:
        epoch, index = key
        image, mask = self.split.read(index)
        if min(image.shape[:2]) * self.transform.smallest_scale < 1:
            path = self.split.samples[index].image
            raise UserError(
                f"{path}: {image.shape[1]}x{image.shape[0]} pixels can't be scaled by "
                f"{self.transform.smallest_scale}; take it out of the split or raise data.scale"
            )
        image, mask = self.transform(image, mask, (self.seed, epoch, index))
        return {"image": image, "mask": mask}


class Batches(Sampler):
    """Batches of (epoch, index) from `start` to `stop`, in an order drawn anew for each epoch.

    The epochs follow each other without a seam: position p of the run is image p % size of epoch
    p // size. So no batch is short and no image is left out, even where a batch is larger than the
    dataset.
    """

    def __init__(self, size: int, batch_size: int, start: int, stop: int, seed: int) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, int)
        for step in range(self.start, self.stop):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.size != epoch:
                    epoch = position // self.size
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
                batch.append((epoch, int(order[position % self.size])))
            yield batch


def train_loader(
    dataset: Dataset, batch_size: int, steps: tuple[int, int], seed: int, workers: int
) -> DataLoader:
    """Collated batches of a dataset that is keyed by (epoch, index), for the steps from..to-1."""
    return DataLoader(
        dataset,
        batch_sampler=Batches(len(dataset), batch_size, *steps, seed),
        num_workers=workers,
        worker_init_fn=set_up_worker,
        pin_memory=torch.cuda.is_available(),
    )


def set_up_worker(_: int) -> None:
    """For every process that loads: one thread, and Ctrl-C left to the process that trains."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
