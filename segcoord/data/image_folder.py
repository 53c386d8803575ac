"""Classification datasets with one folder per class, like ImageNet: ROOT/SPLIT/CLASS/IMAGE."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from torchvision.datasets.folder import find_classes, make_dataset

from segcoord.config.base import split_parts
from segcoord.config.schema import ImageFolderConfig
from segcoord.data.checks.findings import MAX_LISTED
from segcoord.data.file_pattern import IMAGE_SUFFIXES, nfc, stored_path
from segcoord.data.image_io import read_image
from segcoord.data.inspection import inspect_image
from segcoord.data.split import bytes_array, dataset_root
from segcoord.data.transforms import ClassTransform
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError
from segcoord.utils.text import first_lines, join_first


class ImageList(Sequence[tuple[str, int]]):
    """(path, class index) of each image, in arrays that workers share; see `data.split`."""

    def __init__(self, images: Sequence[tuple[str, int]]) -> None:
        self._paths = bytes_array(path for path, _ in images)
        self._classes = np.array([index for _, index in images], np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return os.fsdecode(self._paths[index]), int(self._classes[index])


@dataclass(frozen=True)
class ImageFolders:
    """A split: its class names, sorted, and its images."""

    name: str
    classes: list[str]
    samples: ImageList


def find_folders(data: ImageFolderConfig) -> tuple[ImageFolders, ImageFolders]:
    """List the training and the validation images.

    Raises:
        UserError: a missing folder, a class without images, fewer than two classes, or classes
            that differ between the splits.
    """
    root = dataset_root(data.root)
    train = _find(root, data.train_split)
    val = _find(root, data.val_split, train.classes)
    _require_same_classes(root, train, val)
    if len(train.classes) < 2:
        raise UserError(f"{data.root}: found {len(train.classes)} class, expected at least 2")
    return train, val


def _require_same_classes(root: Path, first: ImageFolders, second: ImageFolders) -> None:
    """Raise UserError if the classes of two splits differ."""
    if first.classes != second.classes:
        unmatched = sorted({*first.classes} ^ {*second.classes})
        raise UserError(
            f"{root}: {first.name} has {len(first.classes)} classes, {second.name} "
            f"{len(second.classes)}; only in one of them: {join_first(unmatched, 4)}. Both need "
            "the same class folders."
        )


def _find(root: Path, name: str, order: Sequence[str] = ()) -> ImageFolders:
    """List a split, or several joined with "+"; `order` as in `_find_part`."""
    first, *others = split_parts(name)
    joined = _find_part(root, first, order)
    for part in others:
        found = _find_part(root, part, joined.classes)
        _require_same_classes(root, joined, found)
        joined = ImageFolders(name, joined.classes, ImageList([*joined.samples, *found.samples]))
    return joined


def _find_part(root: Path, name: str, order: Sequence[str]) -> ImageFolders:
    """List a split; its classes are in this order if they differ from it only in Unicode form."""
    folder = stored_path(root / name)
    if not folder.is_dir():
        found = ", ".join(sorted(p.name for p in root.glob("*/"))) or "nothing"
        raise UserError(
            f"{folder}: no such folder; found {found}. Expected {root}/{name}/CLASS/*.JPEG, like "
            "ImageNet after sorting its validation images into class folders."
        )
    try:
        classes, class_to_index = find_classes(folder)
        index_of = {nfc(class_name): index for index, class_name in enumerate(order)}
        if index_of.keys() == {*map(nfc, classes)}:
            class_to_index = {class_name: index_of[nfc(class_name)] for class_name in classes}
            classes = list(order)
        samples = make_dataset(folder, class_to_index, IMAGE_SUFFIXES)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: {error}") from error
    return ImageFolders(name, classes, ImageList(samples))


def check_folders(folders: tuple[ImageFolders, ...], advance: Callable[[], None]) -> None:
    """Check the header and the end of every image; `advance` is called once per image.

    Raises:
        UserError: lists the first unusable files and their number.
    """
    paths = [Path(path) for split in folders for path, _ in split.samples]
    errors: list[UserError] = []
    with ThreadPoolExecutor(available_cores()) as pool:
        for check in pool.map(inspect_image, paths):
            advance()
            errors += check.errors
    if errors:
        listed = first_lines(errors, MAX_LISTED)
        raise UserError(f"{len(errors)} of {len(paths)} images can't be used\n{listed}")


class ClassTrainDataset(Dataset):
    """Augmented {"image": (h, w, 3) uint8, "label": int}, indexed by (epoch, index)."""

    def __init__(self, folders: ImageFolders, transform: ClassTransform, seed: int) -> None:
        self.folders, self.transform, self.seed = folders, transform, seed

    def __len__(self) -> int:
        return len(self.folders.samples)

    def path(self, index: int) -> Path:
        """The image file of a sample."""
        return Path(self.folders.samples[index][0])

    def source(self, key: tuple[int, int]) -> Path:
        """The image file of an (epoch, index)."""
        return self.path(key[1])

    def __getitem__(self, key: tuple[int, int]) -> dict[str, object]:
        epoch, index = key
        path, label = self.folders.samples[index]
        image = self.transform(read_image(Path(path)), (self.seed, epoch, index))
        return {"image": image, "label": label}


class ClassValDataset(Dataset):
    """{"image": (h, w, 3) uint8, "label": int} by index, without randomness."""

    def __init__(
        self, folders: ImageFolders, transform: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.folders, self.transform = folders, transform

    def __len__(self) -> int:
        return len(self.folders.samples)

    def __getitem__(self, index: int) -> dict[str, object]:
        path, label = self.folders.samples[index]
        return {"image": self.transform(read_image(Path(path))), "label": label}
