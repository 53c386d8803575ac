"""Find the images and masks of a split: Pascal VOC, Cityscapes, or two folders paired by stem.

Lists file names and reads no pixels. Samples are sorted by name, or in the order of a VOC list.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS, VOC, LabelClass, LabelSet
from segcoord.data.split import Sample, SampleList, Split
from segcoord.utils.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
SEE_README = "See data/README.md for the expected folders."
_CITYSCAPES_IMAGE = "_leftImg8bit.png"
_VOC_MASKS = ("SegmentationClass", "SegmentationClassAug")

OnError = Callable[[UserError], None]
"""Receives an error about a single file, which the listing then skips."""


def label_set(data: DataConfig) -> LabelSet:
    """The classes of a dataset: those of data.classes, else those of its layout."""
    if data.layout == "cityscapes":
        return CITYSCAPES
    if data.classes is None:
        return LabelSet(VOC.classes, data.void_ids)
    return LabelSet([_label_class(i, c) for i, c in enumerate(data.classes)], data.void_ids)


def _label_class(index: int, c: ClassConfig) -> LabelClass:
    if len(c.color) != 3:
        raise UserError(f"data.classes: class {c.name!r} has color {c.color}, expected [R, G, B]")
    return LabelClass(c.name, tuple(c.color), index if c.id is None else c.id)


def raise_error(error: UserError) -> None:
    """The `OnError` callback that stops at the first error."""
    raise error


def find_split(data: DataConfig, name: str, on_error: OnError = raise_error) -> Split:
    """List the samples of a split.

    Args:
        data: the dataset's root and layout.
        name: of the split.
        on_error: called with each error about a single file, which is then skipped. The default
            raises the first one.

    Raises:
        UserError: a missing root, split, image or mask; an empty split; a duplicate stem; a listed
            name that would leave the root.
    """
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (data.root). {SEE_README}")
    if name in {"", ".", ".."} or any(c in name for c in "/\\\0"):
        raise UserError(f"split {name!r}: expected a name without folders")
    labels = label_set(data)
    find = {"voc": _voc, "cityscapes": _cityscapes, "folder": _folder}[data.layout]
    samples = find(data, root, name, labels, on_error)
    if not samples:
        raise UserError(f"split {name!r} of {root} is empty")
    unlabeled = [s for s in samples if s.mask is None]
    if unlabeled and len(unlabeled) < len(samples):
        for sample in unlabeled:
            error = UserError(
                f"has no mask; {len(unlabeled)} of {len(samples)} images in split {name!r} "
                "have no mask.",
                path=sample.image,
                remedy="Add the masks, or remove these images from the split.",
                kind="images without a mask",
            )
            on_error(error)
        samples = [s for s in samples if s.mask is not None]
    return Split(name, SampleList(samples), labels, exif=data.exif)


def split_folders(data: DataConfig, split: Split) -> set[Path]:
    """The resolved folders that hold a split's images and masks, or would hold its masks.

    Outputs must not go there: they would overwrite the dataset, or be read as part of it. For
    example, predictions in VOC's mask folder become the ground truth of its unlabeled test split.
    """
    root = Path(data.root).expanduser()
    files = [path for s in split.samples for path in (s.image, s.mask) if path]
    folders = {path.parent for path in files} | {path.resolve().parent for path in files}
    if data.layout == "voc":
        folders |= {_voc_base(root) / name for name in _VOC_MASKS}
    elif data.layout == "folder":
        folders |= {*_image_and_mask_folders(data, root, split.name)}
    return {folder.resolve() for folder in folders}


def masks_without_image(data: DataConfig, split: Split) -> list[Path]:
    """Masks next to the split's masks that no image of its image folders belongs to.

    They are never read, but may point to a misspelled name.
    """
    if not split.labelled:
        return []
    images = {
        p.stem
        for p in _siblings(s.image for s in split.samples)
        if p.suffix.lower() in IMAGE_SUFFIXES and _exists(p)
    }
    unmatched = []
    for path in _siblings(s.mask for s in split.samples):
        stem: str | None = path.stem
        if data.layout == "cityscapes":  # label ids share a folder with color masks and polygons
            frame, _, kind = path.stem.rpartition("_gtFine_")
            stem = f"{frame}_leftImg8bit" if kind in ("labelIds", "labelTrainIds") else None
        is_mask = path.suffix.lower() in MASK_SUFFIXES and not path.name.startswith(".")
        if is_mask and stem is not None and stem not in images:
            unmatched.append(path)
    return unmatched


def skipped_files(data: DataConfig, split: Split) -> list[Path]:
    """Files in the split's image folders with an unsupported suffix; none for Cityscapes."""
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


def _exists(path: Path) -> bool:
    """True for a file, and for a broken link, so that reading it reports the link."""
    return path.is_file() or path.is_symlink()


def _voc_base(root: Path) -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    return base if base.is_dir() else root


def _voc(
    data: DataConfig, root: Path, name: str, labels: LabelSet, on_error: OnError
) -> list[Sample]:
    base = _voc_base(root)
    list_file = base / "ImageSets" / "Segmentation" / f"{name}.txt"
    stems = read_list(list_file, on_error)
    images = _files_by_stem(base / "JPEGImages", IMAGE_SUFFIXES, on_error)
    masks = _masks_by_stem(images, base / _VOC_MASKS[name == "trainaug"], on_error)
    samples = []
    for line, stem in stems:
        if stem in images:
            samples.append(Sample(stem, images[stem], masks.get(stem), labels))
            continue
        remedy = "Add the missing images, or remove their names from the list."
        if len(stem.split()) > 1 or Path(stem).suffix.lower() in IMAGE_SUFFIXES:
            remedy = "Write one name per line, without a suffix or other columns."
        error = UserError(
            f"no image {stem}.* in {base / 'JPEGImages'}.",
            path=f"{list_file}:{line}",
            remedy=remedy,
            kind="listed images that don't exist",
        )
        on_error(error)
    return samples


def read_list(path: Path, on_error: OnError = raise_error) -> list[tuple[int, str]]:
    """Read a split list as (line number, stem) pairs; skips blank lines, accepts CRLF and a BOM."""
    if not path.is_file():
        hint = _available(p.stem for p in path.parent.glob("*.txt"))
        raise UserError(f"{path}: no such split list{hint}. {SEE_README}")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not a UTF-8 text file ({error}). Save it as UTF-8, one name per line; "
            "PowerShell and some editors write UTF-16."
        ) from error
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        stem = line.strip()
        if not stem:
            continue
        if stem in {".", ".."} or any(c in stem for c in "/\\\0"):
            error = UserError(
                f"{stem!r} is not a plain file name, and could leave the dataset's folder.",
                path=f"{path}:{number}",
                remedy="Write one name per line, without a folder or suffix.",
                kind="invalid names in a split list",
            )
            on_error(error)
        elif stem in first_line:
            error = UserError(
                f"{stem!r} is already listed in line {first_line[stem]}.",
                path=f"{path}:{number}",
                remedy="Remove one of the two lines.",
                kind="duplicate names in a split list",
            )
            on_error(error)
        else:
            first_line[stem] = number
    return [(number, stem) for stem, number in first_line.items()]


def _available(names: Iterable[str]) -> str:
    """A hint that names the splits that exist, empty if none does."""
    names = sorted(names)
    return f"; available splits: {', '.join(names)}" if names else ""


def _files_by_stem(folder: Path, suffixes: tuple[str, ...], on_error: OnError) -> dict[str, Path]:
    """The files of a folder with one of the suffixes, in upper or lower case, sorted."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. {SEE_README}")
    files = sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in suffixes and not p.name.startswith(".") and _exists(p)
    )
    if not files:
        counts = Counter(p.suffix or "no suffix" for p in folder.iterdir())
        found = ", ".join(f"{n} {suffix}" for suffix, n in counts.most_common(4)) or "nothing"
        message = f"{folder}: no {', '.join(suffixes)} files; found {found}"
        if suffixes == MASK_SUFFIXES and counts.keys() & {".jpg", ".jpeg", ".webp"}:
            message += ". Lossy compression changes class ids: use the original masks"
        raise UserError(message)
    return _unique_stems(files, on_error)


def _unique_stems(files: Iterable[Path], on_error: OnError) -> dict[str, Path]:
    by_stem: dict[str, Path] = {}
    for path in files:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            error = UserError(
                f"has the same stem as {other}; stems pair images with masks and name outputs.",
                path=path,
                remedy="Remove or rename one of the two.",
                kind="duplicate stems",
            )
            on_error(error)
    return by_stem


def _masks_by_stem(images: dict[str, Path], folder: Path, on_error: OnError) -> dict[str, Path]:
    """The masks of a folder by stem; empty if the folder does not exist.

    Raises:
        UserError: the folder has masks, but none shares its stem with an image.
    """
    masks = _files_by_stem(folder, MASK_SUFFIXES, on_error) if folder.is_dir() else {}
    if masks and not masks.keys() & images.keys():
        mask, image = next(iter(masks.values())), next(iter(images.values()))
        raise UserError(
            f"none of its {len(masks)} masks has the name of an image; the first mask is "
            f"{mask.name}, the first image {image.name}.",
            path=folder,
            remedy="Rename each mask to its image's name, except for the suffix.",
            kind="masks that match no image",
        )
    return masks


def _cityscapes(
    data: DataConfig, root: Path, name: str, labels: LabelSet, on_error: OnError
) -> list[Sample]:
    folder = root / "leftImg8bit" / name
    if not folder.is_dir():
        hint = _available(p.name for p in folder.parent.glob("*/"))
        raise UserError(f"{folder}: no such folder{hint}. {SEE_README}")
    images = sorted(p for p in folder.glob(f"*/*{_CITYSCAPES_IMAGE}") if not p.name.startswith("."))
    if not images:
        raise UserError(f"{folder}: no CITY/*{_CITYSCAPES_IMAGE} files. {SEE_README}")
    samples = []
    for stem, image in _unique_stems(images, on_error).items():
        frame = image.name.removesuffix(_CITYSCAPES_IMAGE)
        mask_folder = root / "gtFine" / name / image.parent.name
        candidates = [
            (mask_folder / f"{frame}_gtFine_labelIds.png", labels),
            (mask_folder / f"{frame}_gtFine_labelTrainIds.png", CITYSCAPES_TRAIN_IDS),
        ]
        mask, mask_labels = next((c for c in candidates if _exists(c[0])), (None, labels))
        samples.append(Sample(stem, image, mask, mask_labels))
    return samples


def _folder(
    data: DataConfig, root: Path, name: str, labels: LabelSet, on_error: OnError
) -> list[Sample]:
    image_folder, mask_folder = _image_and_mask_folders(data, root, name)
    images = _files_by_stem(image_folder, IMAGE_SUFFIXES, on_error)
    masks = _masks_by_stem(images, mask_folder, on_error)
    return [Sample(stem, image, masks.get(stem), labels) for stem, image in images.items()]


def _image_and_mask_folders(data: DataConfig, root: Path, name: str) -> list[Path]:
    folders = []
    for key, pattern in (
        ("data.images", data.images or "images/{split}"),
        ("data.masks", data.masks or "masks/{split}"),
    ):
        if "{split}" not in pattern:
            raise UserError(f"{key}: found {pattern!r}, expected a path that contains {{split}}")
        folder = Path(os.path.normpath(root / pattern.replace("{split}", name)))
        if not folder.is_relative_to(os.path.normpath(root)):  # links may lead elsewhere
            raise UserError(f"{key}: {folder} is outside the dataset's folder {root}")
        folders.append(folder)
    return folders
