"""The image and mask files of a split, stored so that data loader workers share their memory.

Forked workers share memory with their parent until they write to it, and reading a Python object
writes its reference count (copy-on-write). One million samples held as objects cost each worker
0.8 GB within an epoch. `SampleList` holds a few arrays instead and creates samples on access.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from segcoord.data.file_pattern import stored_path
from segcoord.data.image_io import read_image
from segcoord.data.labels import LabelSet
from segcoord.data.mask_reader import read_mask
from segcoord.data.orientation import Exif
from segcoord.utils.errors import UserError


class PixelSource(Protocol):
    """Decoded images and masks by index, such as `pack.reader.Pack`."""

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]: ...


@dataclass(frozen=True)
class Sample:
    """One image and its mask; `labels` maps the mask's values, `mask` is None without labels."""

    stem: str  # name of the sample: the image's path below its folder, without suffix
    image: Path
    mask: Path | None
    labels: LabelSet


def dataset_root(root: str) -> Path:
    """The folder of a dataset, from `data.root`.

    Raises:
        UserError: no such folder.
    """
    path = stored_path(Path(root).expanduser())
    if path.is_dir():
        return path
    where = "" if path.is_absolute() else f" in {Path.cwd()}"
    raise UserError(
        f"{path}: no such folder (data.root){where}. Give the folder of the dataset with "
        "--data.root DIR; data/README.md shows what it contains."
    )


def bytes_array(texts: Iterable[str | Path]) -> np.ndarray:
    """Encode names or paths as the file system does, into an (N,) array of bytes."""
    return np.array([os.fsencode(text) for text in texts], np.bytes_)


class SampleList(Sequence[Sample]):
    """An immutable list of samples whose memory forked workers share."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        samples = list(samples)
        self._stems = bytes_array(s.stem for s in samples)
        self._images = bytes_array(s.image for s in samples)
        self._masks = bytes_array(s.mask or "" for s in samples)
        label_sets = {id(s.labels): s.labels for s in samples}  # a layout has one or two
        positions = {key: position for position, key in enumerate(label_sets)}
        self._label_sets = list(label_sets.values())
        self._label_set_index = np.array([positions[id(s.labels)] for s in samples], np.uint8)

    def __len__(self) -> int:
        return len(self._stems)

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        mask = self._masks[index]
        return Sample(
            os.fsdecode(self._stems[index]),
            Path(os.fsdecode(self._images[index])),
            Path(os.fsdecode(mask)) if mask else None,
            self._label_sets[self._label_set_index[index]],
        )


@dataclass(frozen=True)
class Split:
    """The samples of a split; either all of them have masks or none."""

    name: str  # for example the value of data.train_split
    samples: SampleList
    labels: LabelSet
    pack: PixelSource | None = None  # source of the pixels; None reads the image and mask files
    left_out: int = 0  # samples that are not in the split because of data.skip_bad
    exif: Exif = "ignore"  # what reading an image does with its EXIF orientation

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labelled(self) -> bool:
        return self.samples[0].mask is not None

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the image (H, W, 3) uint8 RGB and the mask (H, W) uint8 class indices.

        The mask is None without labels. A pack returns views of memory-mapped files, so only the
        pixels that are accessed are read.

        Raises:
            UserError: a file can't be used.
        """
        if self.pack is not None:
            return self.pack[index]
        sample = self.samples[index]
        image = read_image(sample.image, exif=self.exif)
        if sample.mask is None:
            return image, None
        return image, read_mask(sample.mask, sample.labels, image.shape[:2])
