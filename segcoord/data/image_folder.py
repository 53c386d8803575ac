"""Images in one folder per class, as ImageNet's are: ROOT/SPLIT/CLASS/IMAGE."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from torchvision.datasets.folder import find_classes, make_dataset

from segcoord.config.schema import ImageFolderConfig
from segcoord.data.checks.findings import SHOWN
from segcoord.data.checks.split import check_image
from segcoord.data.image_io import read_image
from segcoord.data.layouts import IMAGE_SUFFIXES
from segcoord.data.split import bytes_array
from segcoord.data.transforms import ClassTransform
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError


class ImageList(Sequence[tuple[str, int]]):
    """(path, class index) of each image; as segcoord.data.samples, shared by those who load."""

    def __init__(self, images: Sequence[tuple[str, int]]) -> None:
        self._paths = bytes_array(path for path, _ in images)
        self._classes = np.array([index for _, index in images], np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return os.fsdecode(self._paths[index]), int(self._classes[index])


@dataclass(frozen=True)
class ImageFolders:
    """One split: its classes in the order of their names, and its images."""

    name: str
    classes: list[str]
    samples: ImageList


def find_folders(data: ImageFolderConfig) -> tuple[ImageFolders, ImageFolders]:
    """Lists the training and the validation images.

    Raises:
        UserError: a missing folder, a class without images, classes that differ between the two.
    """
    train, val = (_find(Path(data.root), name) for name in (data.train_split, data.val_split))
    if train.classes != val.classes:
        only = sorted({*train.classes} ^ {*val.classes})
        raise UserError(
            f"{data.root}: {data.train_split} has {len(train.classes)} classes, {data.val_split} "
            f"{len(val.classes)}; in one alone: {', '.join(only[:4])}"
        )
    if len(train.classes) < 2:
        raise UserError(f"{data.root}: {len(train.classes)} class, expected at least 2")
    return train, val


def _find(root: Path, name: str) -> ImageFolders:
    folder = root / name
    if not folder.is_dir():
        there = ", ".join(sorted(p.name for p in root.glob("*/"))) or "nothing"
        raise UserError(
            f"{folder}: no such folder; there is {there}. Expected {root}/{name}/CLASS/*.JPEG, as "
            "ImageNet is once its validation images are sorted into their classes' folders."
        )
    try:
        classes, index = find_classes(folder)
        samples = make_dataset(folder, index, IMAGE_SUFFIXES)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: {error}") from error
    return ImageFolders(name, classes, ImageList(samples))


def check_folders(folders: tuple[ImageFolders, ...], advance: Callable[[], None]) -> None:
    """Reads the header and the end of every image.

    Raises:
        UserError: names the first files that can't be used, and how many there are.
    """

    def problem(sample: tuple[str, int]) -> str | None:
        advance()
        try:
            check_image(Path(sample[0]))
        except UserError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(available_cores()) as pool:
        samples = [sample for split in folders for sample in split.samples]
        problems = [told for told in pool.map(problem, samples) if told]
    if problems:
        shown = "\n".join(problems[:SHOWN])
        raise UserError(f"{len(problems)} of {len(samples)} images can't be used, first\n{shown}")


class ClassTrainDataset(Dataset):
    """Augmented {"image": (h, w, 3) uint8, "label": int} by (epoch, index)."""

    def __init__(self, folders: ImageFolders, transform: ClassTransform, seed: int) -> None:
        self.folders, self.transform, self.seed = folders, transform, seed

    def __len__(self) -> int:
        return len(self.folders.samples)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return Path(self.folders.samples[index][0])

    def __getitem__(self, key: tuple[int, int]) -> dict[str, object]:
        epoch, index = key
        path, label = self.folders.samples[index]
        image = self.transform(read_image(Path(path)), (self.seed, epoch, index))
        return {"image": image, "label": label}


class ClassValDataset(Dataset):
    """{"image": (h, w, 3) uint8, "label": int} by index, always the same."""

    def __init__(
        self, folders: ImageFolders, transform: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.folders, self.transform = folders, transform

    def __len__(self) -> int:
        return len(self.folders.samples)

    def __getitem__(self, index: int) -> dict[str, object]:
        path, label = self.folders.samples[index]
        return {"image": self.transform(read_image(Path(path))), "label": label}
