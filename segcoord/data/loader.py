"""Batches for training: which image comes at which step, and the processes that load it.

Everything is a function of (seed, step), so a run that goes on after a stop sees the same batches
as one that never stopped, for any number of workers, and nothing is loaded only to be skipped.
"""

import functools
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from segcoord.data.rare_class_sampling import RareClassSampler, class_pixels
from segcoord.data.split import Split
from segcoord.data.transforms import TrainTransform
from segcoord.utils.errors import UserError


class TrainDataset(Dataset):
    """Augmented samples by (epoch, index): image (h, w, 3) uint8 RGB, mask (h, w) uint8.

    With `rare_classes`, some are crops of another image than that of the index.
    """

    def __init__(
        self,
        split: Split,
        transform: TrainTransform,
        seed: int,
        rare_classes: RareClassSampler | None = None,
    ) -> None:
        self.split = split
        self.transform = transform
        self.seed = seed
        self.rare_classes = rare_classes

    def __len__(self) -> int:
        return len(self.split)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.split.samples[index].image

    def source(self, key: tuple[int, int]) -> Path:
        """The image file that the sample of an (epoch, index) is cropped from."""
        return self.path(self._draw(key)[0])

    def _draw(self, key: tuple[int, int]) -> tuple[int, int | None]:
        """The image of a sample, and the class that its crop must contain."""
        drawn = self.rare_classes and self.rare_classes.draw((self.seed, *key))
        return drawn or (key[1], None)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray]:
        index, class_index = self._draw(key)
        image, mask = self.split.read(index)
        if min(image.shape[:2]) * self.transform.smallest_scale < 1:
            raise UserError(
                f"{self.path(index)}: {image.shape[1]}x{image.shape[0]} pixels can't be scaled by "
                f"{self.transform.smallest_scale}; take it out of the split or raise data.scale"
            )
        pixels = None
        if class_index is not None:
            pixels = class_pixels(mask, class_index, (self.seed, *key))
            if not len(pixels[0]):
                raise self._lost_class(index, class_index)
        image, mask = self.transform(image, mask, (self.seed, *key), pixels)
        return {"image": image, "mask": mask}

    def _lost_class(self, index: int, class_index: int) -> UserError:
        name = self.split.labels.names[class_index]
        return UserError(
            f"{self.split.samples[index].mask}: has no {name!r} any more, which it had when "
            "training started; resume, which checks all masks again"
        )


@dataclass(frozen=True)
class EpochShuffle:
    """Which images make up the batch of a step, in an order drawn anew for each epoch.

    The epochs follow each other without a seam: position p of the run is image p % size of epoch
    p // size. So no batch is short and no image is left out, even where a batch is larger than the
    dataset.

    Args:
        size: images in the dataset.
        batch_size: images in a step, over all devices.
        seed: of the run.
    """

    size: int
    batch_size: int
    seed: int

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The (epoch, index) of a step's images."""
        first = step * self.batch_size
        places = (divmod(p, self.size) for p in range(first, first + self.batch_size))
        return [(epoch, int(_permutation(self.size, self.seed, epoch)[p])) for epoch, p in places]


@functools.lru_cache(maxsize=2)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


class StepBatchSampler(Sampler):
    """One process's share of each batch, in `accumulate` parts; the shares join to the batch.

    Args:
        order: of the images.
        steps: from the first, up to but without the last.
        accumulate: parts of a batch, one after the other.
        rank, world_size: of the process among all processes.
    """

    def __init__(
        self,
        order: EpochShuffle,
        steps: tuple[int, int],
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.order, self.steps, self.accumulate = order, steps, accumulate
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return (self.steps[1] - self.steps[0]) * self.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.order.batch_size // (self.accumulate * self.world_size)
        for step in range(*self.steps):
            batch = self.order.batch(step)
            for part in range(self.accumulate):
                first = (part * self.world_size + self.rank) * share
                yield batch[first : first + share]


def train_loader(
    dataset: Dataset, shares: StepBatchSampler, workers: int, pin_memory: bool = False
) -> DataLoader:
    """Collated batches of a dataset that is keyed by (epoch, index); pinned for a GPU."""
    return WorkerLoader(dataset, batch_sampler=shares, num_workers=workers, pin_memory=pin_memory)


class WorkerLoader(DataLoader):
    """A DataLoader whose workers compute in one thread and leave signals to the main process."""

    def __init__(self, dataset: Dataset, **options: object) -> None:
        super().__init__(dataset, worker_init_fn=_set_up_worker, **options)

    def check_worker_number_rationality(self) -> None:
        """Don't warn of more workers than cores, as the default of 2 is on a single core."""


def _set_up_worker(_: int) -> None:
    """For every process that loads: one thread, and signals left to the process that trains.

    A cluster sends SIGTERM to all of them; a loader that dies of it would break the step that
    training still finishes before it saves.
    """
    cv2.setNumThreads(0)
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.SIG_IGN)
