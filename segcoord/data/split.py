"""The files of a split, held so that processes which load share them instead of copying them.

A forked process shares the memory of its parent until it writes to it, and to look at a Python
object is to write: its reference count. A million samples as objects come to 0.8 GB in every loader
within an epoch; the few arrays here are shared, and objects are made as they are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, overload

import numpy as np

from segcoord.data.image_io import read_image, read_mask
from segcoord.data.labels import LabelSet


class PixelSource(Protocol):
    """Decoded images and masks by index; `pack.reader.Pack` is one."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]: ...


@dataclass(frozen=True)
class Sample:
    """One image, its mask (None where the split has no labels) and how the mask is to be read."""

    stem: str
    image: Path
    mask: Path | None
    labels: LabelSet


def bytes_array(texts: Iterable[str | Path]) -> np.ndarray:
    """(N,) array of names or paths, as the file system spells them."""
    return np.array([os.fsencode(text) for text in texts], np.bytes_)


class SampleList(Sequence[Sample]):
    """Samples by index."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        samples = list(samples)
        self._stems = bytes_array(s.stem for s in samples)
        self._images = bytes_array(s.image for s in samples)
        self._masks = bytes_array(s.mask or "" for s in samples)
        by_identity = {id(s.labels): s.labels for s in samples}  # at most the layout's few
        numbers = {key: number for number, key in enumerate(by_identity)}
        self._labels = list(by_identity.values())
        self._numbering = np.array([numbers[id(s.labels)] for s in samples], np.uint8)

    def __len__(self) -> int:
        return len(self._stems)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        mask = self._masks[index]
        return Sample(
            os.fsdecode(self._stems[index]),
            Path(os.fsdecode(self._images[index])),
            Path(os.fsdecode(mask)) if mask else None,
            self._labels[self._numbering[index]],
        )


@dataclass(frozen=True)
class Split:
    """The samples of a split; either all have masks or none has.

    Args:
        name: as data.train_split and data.val_split have it.
        samples: in the order of their indices.
        labels: the classes.
        pack: holds the pixels, if they are not to be read from the files.
    """

    name: str
    samples: SampleList
    labels: LabelSet
    pack: PixelSource | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labelled(self) -> bool:
        return self.samples[0].mask is not None

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Image (H, W, 3) uint8 RGB and mask (H, W) uint8 class indices, or None without labels.

        From a pack they are views of mapped files, of which only what is used is read.

        Raises:
            UserError: a file that can't be used.
        """
        if self.pack is not None:
            return self.pack[index]
        sample = self.samples[index]
        image = read_image(sample.image)
        if sample.mask is None:
            return image, None
        return image, read_mask(sample.mask, sample.labels, image.shape[:2])
