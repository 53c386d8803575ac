"""Where the images and masks of a split lie: Pascal VOC, Cityscapes, or two folders paired by stem.

Listing reads names alone, no pixels. Everything is sorted or in the order of the split's list.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data import labels as tables
from segcoord.data.labels import LabelClass, LabelSet
from segcoord.data.split import Sample, SampleList, Split
from segcoord.utils.errors import UserError

if TYPE_CHECKING:
    pass

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
OnError = Callable[[UserError], None]
"""Takes a mistake after which the listing can go on without the file concerned."""


def label_set(data: DataConfig) -> LabelSet:
    """The classes of a dataset: its own ones, or the layout's."""
    if data.layout == "cityscapes":
        return tables.CITYSCAPES
    if data.classes is None:
        voc = tables.VOC
        return LabelSet(voc.classes, data.void_ids)
    return LabelSet([_label_class(i, c) for i, c in enumerate(data.classes)], data.void_ids)


def _label_class(index: int, c: ClassConfig) -> LabelClass:
    if len(c.color) != 3:
        raise UserError(f"data.classes: class {c.name!r} has color {c.color}, expected [R, G, B]")
    return LabelClass(c.name, tuple(c.color), index if c.id is None else c.id)


def raise_error(error: UserError) -> None:
    """A Tell that ends the listing with the first mistake."""
    raise error


def find_split(data: DataConfig, name: str, tell: OnError = raise_error) -> Split:
    """Lists a split.

    Args:
        data: where and how it lies.
        name: of the split.
        tell: gets each mistake that concerns single files, which are then left out; by default
            the first one is raised.

    Raises:
        UserError: a missing root, split, image or mask; an empty split; a stem that occurs twice;
            a name in a list that leaves the root.
    """
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (data.root). See data/README.md for the trees.")
    if name in {"", ".", ".."} or any(c in name for c in "/\\\0"):
        raise UserError(f"split {name!r}: not a plain name")
    labels = label_set(data)
    find = {"voc": _voc, "cityscapes": _cityscapes, "folder": _folder}[data.layout]
    samples = find(data, root, name, labels, tell)
    if not samples:
        raise UserError(f"split {name!r} of {root} is empty")
    without = [s for s in samples if s.mask is None]
    if without and len(without) < len(samples):
        for sample in without:
            tell(
                UserError(
                    f"has no mask; in split {name!r} {len(without)} of {len(samples)} images have "
                    "no mask.",
                    path=sample.image,
                    remedy="Add the masks, or take these images out of the split.",
                    kind="images without a mask",
                )
            )
        samples = [s for s in samples if s.mask is not None]
    return Split(name, SampleList(samples), labels)


def split_folders(data: DataConfig, split: Split) -> set[Path]:
    """The folders where a split's images and masks lie, or would lie, with no link left in them.

    A file that is written there would replace one of the dataset, or be taken for one: predictions
    beside VOC's masks would be the truth of a test split, which has none.
    """
    root = Path(data.root).expanduser()
    found = {path.parent for s in split.samples for path in (s.image, s.mask) if path}
    found |= {path.resolve().parent for s in split.samples for path in (s.image, s.mask) if path}
    if data.layout == "voc":
        found |= {_voc_base(root) / name for name in _VOC_MASKS}
    elif data.layout == "folder":
        found |= {*_image_and_mask_folders(data, root, split.name)}
    return {folder.resolve() for folder in found}


def masks_without_image(data: DataConfig, split: Split) -> list[Path]:
    """Masks in the folders of a split's masks for which there is no image in those of its images.

    Nothing reads them, but a misspelt name looks like this.
    """
    if not split.labelled:
        return []
    images = {
        p.stem
        for p in _siblings(s.image for s in split.samples)
        if p.suffix.lower() in IMAGE_SUFFIXES and _is_there(p)
    }
    strays = []
    for path in _siblings(s.mask for s in split.samples):
        stem: str | None = path.stem
        if data.layout == "cityscapes":  # where ids lie beside colours and polygons
            frame, _, kind = path.stem.rpartition("_gtFine_")
            stem = f"{frame}_leftImg8bit" if kind in ("labelIds", "labelTrainIds") else None
        is_mask = path.suffix.lower() in MASK_SUFFIXES and not path.name.startswith(".")
        if is_mask and stem is not None and stem not in images:
            strays.append(path)
    return strays


def skipped_files(data: DataConfig, split: Split) -> list[Path]:
    """Files in the folders of a split's images whose suffix says that they are of no kind that is
    read; in Cityscapes' tree, whose images are all PNGs, there are none.
    """
    if data.layout == "cityscapes":
        return []
    return [
        path
        for path in _siblings(s.image for s in split.samples)
        if path.suffix.lower() not in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and not path.is_dir()
    ]


def _siblings(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for folder in {path.parent for path in paths} for p in folder.iterdir())


def _is_there(path: Path) -> bool:
    """Also true for a link that leads nowhere: reading it tells so, instead of passing it over."""
    return path.is_file() or path.is_symlink()


_VOC_MASKS = ("SegmentationClass", "SegmentationClassAug")


def _voc_base(root: Path) -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    return base if base.is_dir() else root


def _voc(data: DataConfig, root: Path, name: str, labels: LabelSet, tell: OnError) -> list[Sample]:
    base = _voc_base(root)
    list_file = base / "ImageSets" / "Segmentation" / f"{name}.txt"
    stems = read_list(list_file, tell)
    images = _by_stem(base / "JPEGImages", IMAGE_SUFFIXES, tell)
    masks = _masks_of(images, base / _VOC_MASKS[name == "trainaug"], tell)
    samples = []
    for line, stem in stems:
        if stem in images:
            samples.append(Sample(stem, images[stem], masks.get(stem), labels))
            continue
        remedy = "Fetch the missing images, or take their names out of the list."
        if len(stem.split()) > 1 or Path(stem).suffix.lower() in IMAGE_SUFFIXES:
            remedy = "Write one name a line, without suffix, and nothing else."
        tell(
            UserError(
                f"no image {stem}.* in {base / 'JPEGImages'}.",
                path=f"{list_file}:{line}",
                remedy=remedy,
                kind="images that are listed and not there",
            )
        )
    return samples


def read_list(path: Path, tell: OnError = raise_error) -> list[tuple[int, str]]:
    """(line number, stem) pairs; blank lines and Windows line ends don't matter."""
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.txt"))
        hint = f"; the splits there are {', '.join(there)}" if there else ""
        raise UserError(f"{path}: no such split list{hint}. See data/README.md for the tree.")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not a UTF-8 text file ({error}). Save it as UTF-8, one name a line; "
            "PowerShell and some editors write UTF-16."
        ) from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        stem = line.strip()
        if not stem:
            continue
        if stem in {".", ".."} or any(c in stem for c in "/\\\0"):
            tell(
                UserError(
                    f"{stem!r} is not a plain stem, and might leave the dataset's folder.",
                    path=f"{path}:{number}",
                    remedy="Write one name a line, without folder or suffix.",
                    kind="lines of a split list that are no names",
                )
            )
        elif stem in seen:
            tell(
                UserError(
                    f"{stem!r} stands in line {seen[stem]} already.",
                    path=f"{path}:{number}",
                    remedy="Remove one of the two lines.",
                    kind="names that are listed twice",
                )
            )
        else:
            seen[stem] = number
    return [(number, stem) for stem, number in seen.items()]


def _by_stem(
    folder: Path, suffixes: tuple[str, ...], tell: OnError = raise_error
) -> dict[str, Path]:
    """The files of a folder with one of the suffixes, in any case, sorted."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. See data/README.md for the tree.")
    files = sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in suffixes and not p.name.startswith(".") and _is_there(p)
    )
    if not files:
        kinds = Counter(p.suffix or "no suffix" for p in folder.iterdir())
        found = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(4)) or "nothing"
        lossy = suffixes == MASK_SUFFIXES and kinds.keys() & {".jpg", ".jpeg", ".webp"}
        hint = ". A JPEG's compression changes ids: take the masks as they were before"
        told = f"{folder}: no {', '.join(suffixes)} in it; found {found}{hint if lossy else ''}"
        raise UserError(told)
    by_stem: dict[str, Path] = {}
    for path in files:
        if path.stem in by_stem:
            tell(
                UserError(
                    f"{by_stem[path.stem].name} and {path.name} have the same stem, "
                    "so that a mask can't tell which is its image.",
                    path=folder,
                    remedy="Remove or rename one.",
                    kind="files of the same stem",
                )
            )
        else:
            by_stem[path.stem] = path
    return by_stem


def _masks_of(images: dict[str, Path], folder: Path, tell: OnError) -> dict[str, Path]:
    """The masks in a folder by stem, none where there is no such folder.

    Raises:
        UserError: there are masks, and none has the name of an image.
    """
    masks = _by_stem(folder, MASK_SUFFIXES, tell) if folder.is_dir() else {}
    if masks and not masks.keys() & images.keys():
        first, image = next(iter(masks.values())), next(iter(images.values()))
        raise UserError(
            f"{len(masks)} masks there, none named as an image; the first is {first.name}, the "
            f"first image {image.name}.",
            path=folder,
            remedy="Give each mask its image's name, but for the suffix.",
            kind="masks that are named otherwise than images",
        )
    return masks


def _cityscapes(
    data: DataConfig, root: Path, name: str, labels: LabelSet, tell: OnError
) -> list[Sample]:
    folder = root / "leftImg8bit" / name
    if not folder.is_dir():
        there = sorted(p.name for p in folder.parent.glob("*/")) if folder.parent.is_dir() else []
        hint = f"; the splits there are {', '.join(there)}" if there else ""
        raise UserError(f"{folder}: no such folder{hint}. See data/README.md for the tree.")
    suffix = "_leftImg8bit.png"
    samples = []
    seen: dict[str, Path] = {}
    for image in sorted(folder.glob(f"*/*{suffix}")):
        if image.name.startswith("."):
            continue
        if image.stem in seen:
            tell(
                UserError(
                    f"has the same stem as {seen[image.stem]}; exports would clash.",
                    path=image,
                    remedy="Rename one, and its mask.",
                    kind="files of the same stem",
                )
            )
            continue
        seen[image.stem] = image
        frame = image.name.removesuffix(suffix)
        truth = root / "gtFine" / name / image.parent.name
        # Whichever file there is says how its values are numbered.
        choices = [
            (truth / f"{frame}_gtFine_labelIds.png", labels),
            (truth / f"{frame}_gtFine_labelTrainIds.png", tables.CITYSCAPES_TRAIN_IDS),
        ]
        mask, numbering = next(((p, n) for p, n in choices if _is_there(p)), (None, labels))
        samples.append(Sample(image.stem, image, mask, numbering))
    if not samples:
        raise UserError(f"{folder}: no CITY/*{suffix} in it. See data/README.md for the tree.")
    return samples


def _folder(
    data: DataConfig, root: Path, name: str, labels: LabelSet, tell: OnError
) -> list[Sample]:
    images_folder, masks_folder = _image_and_mask_folders(data, root, name)
    images = _by_stem(images_folder, IMAGE_SUFFIXES, tell)
    masks = _masks_of(images, masks_folder, tell)
    return [Sample(stem, image, masks.get(stem), labels) for stem, image in images.items()]


def _image_and_mask_folders(data: DataConfig, root: Path, name: str) -> list[Path]:
    folders = []
    for key, pattern in (
        ("data.images", data.images or "images/{split}"),
        ("data.masks", data.masks or "masks/{split}"),
    ):
        if "{split}" not in pattern:
            raise UserError(f"{key}: found {pattern!r}, expected a path with {{split}} in it")
        folder = Path(os.path.normpath(root / pattern.replace("{split}", name)))
        if not folder.is_relative_to(os.path.normpath(root)):  # a link may lead elsewhere
            raise UserError(f"{key}: {folder} leaves the dataset's folder {root}")
        folders.append(folder)
    return folders
