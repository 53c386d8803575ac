"""Find the images and masks of a split: Pascal VOC, Cityscapes, or folders of images and masks.

Lists file names and reads no pixels, unless data.skip_bad asks for it. Samples are sorted by path,
or in the order of a list.
"""

import glob
from collections.abc import Sequence
from pathlib import Path

from segcoord.config.schema import DataConfig
from segcoord.data.custom_labels import custom_labels
from segcoord.data.file_pattern import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    SEE_README,
    list_files,
    nfc,
    parse_pattern,
    stored_path,
)
from segcoord.data.labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS, VOC, LabelSet
from segcoord.data.pairing import (
    OnError,
    Pair,
    Patterns,
    duplicate_stem_error,
    pair_files,
    raise_error,
)
from segcoord.data.split import Sample, SampleList, Split, dataset_root
from segcoord.data.split_lists import available_splits, has_columns_only, listed_pairs, split_pairs
from segcoord.data.unusable import leave_out_unusable
from segcoord.utils.errors import UserError

_CITYSCAPES_IMAGE = "_leftImg8bit.png"
_VOC_MASKS = ("SegmentationClass", "SegmentationClassAug")


def label_set(data: DataConfig) -> LabelSet:
    """The classes of a dataset: those of data.classes, else those of its layout."""
    if data.layout == "cityscapes":
        return CITYSCAPES
    if data.classes is None:
        return LabelSet(VOC.classes, data.void_ids)
    return custom_labels(data.classes, data.void_ids)


def find_split(data: DataConfig, name: str, on_error: OnError = raise_error) -> Split:
    """List the samples of a split.

    Args:
        data: the dataset's root and layout.
        name: of the split.
        on_error: called with each error about a single file, which is then skipped. The default
            raises the first one. With data.skip_bad such files are left out instead.

    Raises:
        UserError: a missing root, split, image or mask; an empty split; a duplicate stem; a listed
            name that would leave the root; an image that is its own mask.
    """
    root = dataset_root(data.root)
    if name in {"", ".", ".."} or any(c in name for c in "/\\\0"):
        raise UserError(f"split {name!r}: expected a name without folders")
    labels = label_set(data)
    left_out: list[UserError] = []
    on_error = left_out.append if data.skip_bad else on_error
    if data.layout == "cityscapes":
        samples = _cityscapes(root, name, labels, on_error)
    else:
        pairs = _pairs(data, root, name, on_error)
        samples = [Sample(pair.name, pair.image, pair.mask, labels) for pair in pairs]
    if not samples:
        raise left_out[0] if left_out else UserError(f"split {name!r} of {root} is empty")
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
    split = Split(name, SampleList(samples), labels, exif=data.exif)
    return leave_out_unusable(split, data, len(left_out)) if data.skip_bad else split


def find_patterns(data: DataConfig, name: str) -> Patterns | None:
    """Where the images and masks of a split are; None for Cityscapes, whose names are fixed.

    Raises:
        UserError: a missing root, a setting that is not a valid pattern.
    """
    if data.layout == "cityscapes":
        return None
    root = dataset_root(data.root)
    made = data.val_fraction is not None or data.lists is not None
    if data.layout == "voc":
        base = _voc_base(root, data.images)
        defaults = "JPEGImages", _VOC_MASKS[name == "trainaug"]
    else:
        base = root
        defaults = ("images", "masks") if made else ("images/{split}", "masks/{split}")
    images, masks = (
        parse_pattern(
            key, text or default, base, name, suffixes, data.layout == "folder" and not made
        )
        for key, text, default, suffixes in (
            ("data.images", data.images, defaults[0], IMAGE_SUFFIXES),
            ("data.masks", data.masks, defaults[1], MASK_SUFFIXES),
        )
    )
    return Patterns(images, masks, base, name, made or data.layout == "voc")


def in_dataset(data: DataConfig, split: Split, folder: Path) -> bool:
    """Whether outputs in a folder would be among the files of a split.

    They would overwrite the dataset, or be read as part of it. For example, predictions in VOC's
    mask folder become the ground truth of its unlabeled test split.
    """
    folder = folder.resolve()
    files = [path for s in split.samples for path in (s.image, s.mask) if path]
    folders = {path.parent for path in files} | {path.resolve().parent for path in files}
    patterns = find_patterns(data, split.name)
    searched = [] if patterns is None else [patterns.images, patterns.masks]
    if data.layout == "voc":
        folders |= {patterns.root / name for name in _VOC_MASKS}
    folders |= {pattern.folder for pattern in searched if not pattern.has_name}
    if folder in {f.resolve() for f in folders}:
        return True
    for pattern in searched:
        base = pattern.folder.resolve()
        if folder.is_relative_to(base) and pattern.name("output.png"):
            hidden = any(part.startswith(".") for part in folder.relative_to(base).parts)
            if not hidden:  # as `list_files` skips
                return True
    return False


def masks_without_image(data: DataConfig, split: Split) -> list[Path]:
    """Masks next to the split's masks that no image of its image folders belongs to.

    They are never read, but may point to a misspelled name.
    """
    if not split.labelled:
        return []
    patterns = find_patterns(data, split.name)
    if patterns is None:
        return _cityscapes_masks_without_image(split)
    if not (patterns.images.folder.is_dir() and patterns.masks.folder.is_dir()):
        return []  # a list names the files of other folders
    images, masks = (patterns.files(p, lambda _: None) for p in (patterns.images, patterns.masks))
    used = {sample.mask for sample in split.samples}
    return [path for key, path in masks.items() if key not in images and path not in used]


def skipped_files(data: DataConfig, split: Split) -> list[Path]:
    """Files in the split's image folder that are neither images nor masks; none for Cityscapes."""
    patterns = find_patterns(data, split.name)
    if patterns is None or not patterns.images.folder.is_dir():
        return []
    images, shared = patterns.images, patterns.shared
    files = list_files(images.folder, () if shared else (patterns.masks.folder,))
    skipped = [
        images.folder / file
        for file in files
        if images.name(file) is None and not (shared and patterns.masks.name(file))
    ]
    if images.has_name:  # in a folder of anything, only those that may be images
        skipped = [path for path in skipped if path.suffix.lower() in IMAGE_SUFFIXES]
    return skipped


def _pairs(data: DataConfig, root: Path, name: str, on_error: OnError) -> list[Pair]:
    """The images and masks of a split of layout voc or folder."""
    patterns = find_patterns(data, name)
    if data.val_fraction is not None:
        if name not in (data.train_split, data.val_split):
            raise UserError(
                f"split {name!r}: data.val_fraction makes the splits {data.train_split!r} and "
                f"{data.val_split!r} only. For a split with its own files use --data.val_fraction "
                "null with --data.images and --data.masks."
            )
        pairs = pair_files(patterns, on_error)
        if data.layout == "voc" and any(pair.mask for pair in pairs):
            pairs = [pair for pair in pairs if pair.mask]  # most of VOC's images have none
        if len(pairs) < 2:
            raise UserError(f"{root}: data.val_fraction needs 2 images or more, found {len(pairs)}")
        return split_pairs(pairs, data.val_fraction, data.split_seed, name == data.val_split)
    if data.lists is not None:
        list_file = stored_path(root / Path(data.lists.replace("{split}", name)).expanduser())
    elif data.layout == "voc":
        list_file = _voc_list(patterns, name)
    else:
        return pair_files(patterns, on_error)
    roots = patterns.root, root
    columns_only = list_file.is_file() and has_columns_only(list_file, roots)
    pairs = [] if columns_only else pair_files(patterns, on_error)
    return listed_pairs(list_file, pairs, patterns, roots, on_error)


def _voc_base(root: Path, images: str | None) -> Path:
    """The folder that contains JPEGImages: VOCdevkit/VOC2012, the root, or the only one below it.

    Raises:
        UserError: several folders have one.
    """
    base = root / "VOCdevkit" / "VOC2012"
    folder = (images or "JPEGImages").split("/")[0]
    if base.is_dir() or (root / folder).is_dir():
        return base if base.is_dir() else root
    for below in ("*", "*/*", "*/*/*"):
        pattern = f"{below}/{glob.escape(folder)}"
        found = sorted(path.parent for path in root.glob(pattern) if path.is_dir())
        if len(found) > 1:
            names = ", ".join(path.relative_to(root).as_posix() for path in found)
            raise UserError(
                f"{root}: found {folder} in {names}, expected one VOC folder. Set data.root to the "
                "one to use."
            )
        if found:
            return found[0]
    return root


def _voc_list(patterns: Patterns, name: str) -> Path:
    """The list of a split in ImageSets/Segmentation."""
    folder = stored_path(patterns.root / "ImageSets" / "Segmentation")
    file = stored_path(folder / f"{name}.txt")
    if file.is_file():
        return file
    hint = available_splits(path.stem for path in folder.glob("*.txt"))
    remedy = "Set data.lists to the list files"
    if not hint and patterns.images.folder.is_dir():
        remedy += ", or data.val_fraction: 0.2 to split the images that have masks"
    raise UserError(f"{file}: no such split list{hint}. {remedy}. {SEE_README}")


def _cityscapes(root: Path, name: str, labels: LabelSet, on_error: OnError) -> list[Sample]:
    folder = root / "leftImg8bit" / name
    if not folder.is_dir():
        hint = available_splits(p.name for p in folder.parent.glob("*/"))
        raise UserError(f"{folder}: no such folder{hint}. {SEE_README}")
    images = sorted(p for p in folder.glob(f"*/*{_CITYSCAPES_IMAGE}") if not p.name.startswith("."))
    if not images:
        raise UserError(f"{folder}: no CITY/*{_CITYSCAPES_IMAGE} files. {SEE_README}")
    by_stem: dict[str, Path] = {}
    for image in images:
        if (first := by_stem.setdefault(nfc(image.stem), image)) is not image:
            on_error(duplicate_stem_error(image, first))
    samples = []
    for image in by_stem.values():
        frame = image.name.removesuffix(_CITYSCAPES_IMAGE)
        mask_folder = root / "gtFine" / name / image.parent.name
        candidates = [
            (stored_path(mask_folder / f"{frame}_gtFine_labelIds.png"), labels),
            (stored_path(mask_folder / f"{frame}_gtFine_labelTrainIds.png"), CITYSCAPES_TRAIN_IDS),
        ]
        found = (c for c in candidates if c[0].is_file() or c[0].is_symlink())
        mask, mask_labels = next(found, (None, labels))
        samples.append(Sample(image.stem, image, mask, mask_labels))
    return samples


def _cityscapes_masks_without_image(split: Split) -> list[Path]:
    """Label ids share a folder with color masks and polygons, which are left out."""
    images = {nfc(p.stem) for p in _siblings([s.image for s in split.samples])}
    unmatched = []
    for path in _siblings([s.mask for s in split.samples]):
        frame, _, kind = path.stem.rpartition("_gtFine_")
        is_mask = path.suffix == ".png" and kind in ("labelIds", "labelTrainIds")
        if is_mask and not path.name.startswith(".") and nfc(f"{frame}_leftImg8bit") not in images:
            unmatched.append(path)
    return unmatched


def _siblings(paths: Sequence[Path]) -> list[Path]:
    return sorted(p for folder in {path.parent for path in paths} for p in folder.iterdir())
