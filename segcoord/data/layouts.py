"""Find the images and masks of a split: Pascal VOC, Cityscapes, or folders of images and masks.

Lists file names and reads no pixels, unless data.skip_bad asks for it. Samples are sorted by path,
or in the order of a list. "train+val" is the samples of train, then those of val.
"""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from segcoord.config.base import split_parts
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
        name: of the split, or of several, joined with "+".
        on_error: called with each error about a single file, which is then skipped. The default
            raises the first one. With data.skip_bad such files are left out instead.

    Raises:
        UserError: a missing root, split, image or mask; an empty split; a duplicate stem; a listed
            name that would leave the root; an image that is its own mask; a sample in two of the
            joined splits.
    """
    root = dataset_root(data.root)
    labels = label_set(data)
    left_out: list[UserError] = []
    on_error = left_out.append if data.skip_bad else on_error
    parts: dict[str, list[Sample]] = {}
    for part in split_parts(name):
        if part in {"", ".", ".."} or any(c in part for c in "/\\\0"):
            raise UserError(f"split {part!r}: expected a name without folders")
        before = len(left_out)
        parts[part] = _samples(data, root, part, labels, on_error)
        if not parts[part]:
            errors = left_out[before:]
            raise errors[0] if errors else UserError(f"split {part!r} of {root} is empty")
    if len(parts) > 1:
        _require_joinable(data, root, name, parts)
    samples = [sample for part in parts.values() for sample in part]
    return _make_split(data, name, samples, labels, on_error, left_out)


def find_all(data: DataConfig) -> Split:
    """List the samples of a whole dataset that have a mask; ignores lists and data.val_fraction.

    With `{split}` in data.images or data.masks, or with folders images/SPLIT, they are those of
    data.train_split and data.val_split, joined; otherwise all, in a split named "all".

    Raises:
        UserError: layout cityscapes, whose folders make its splits; no masks; as in `find_split`.
    """
    if data.layout == "cityscapes":
        raise UserError(
            "data.layout: found cityscapes, whose folders make its splits; expected voc or folder"
        )
    root = dataset_root(data.root)
    names = [*dict.fromkeys([*split_parts(data.train_split), *split_parts(data.val_split)])]
    plain = replace(data, lists=None, val_fraction=None, split_seed=0)
    default = data.layout == "folder" and data.images is None
    folders = default and any((root / "images" / name).is_dir() for name in names)
    if folders or "{split}" in f"{data.images} {data.masks}":
        found = [name for name in names if _source(plain, root, name).exists()]
        return find_split(plain, "+".join(found or names))
    data = replace(plain, val_fraction=0.5)  # any: the default folders are those without {split}
    patterns = _patterns(data, names[0])
    left_out: list[UserError] = []  # by data.skip_bad
    on_error = left_out.append if data.skip_bad else raise_error
    pairs = _labeled_pairs(patterns, data.layout, on_error)
    if not any(pair.mask for pair in pairs):
        raise UserError(
            f"none of the {len(pairs)} images in {patterns.images.folder} has a mask in "
            f"{patterns.masks.folder} (data.masks). {patterns.remedy() or SEE_README}"
        )
    labels = label_set(data)
    samples = [Sample(pair.name, pair.image, pair.mask, labels) for pair in pairs]
    return _make_split(data, "all", samples, labels, on_error, left_out)


def _make_split(
    data: DataConfig,
    name: str,
    samples: list[Sample],
    labels: LabelSet,
    on_error: OnError,
    left_out: Sequence[UserError],
) -> Split:
    """The split of samples with masks, or of samples without any; `left_out` by data.skip_bad."""
    unlabeled = [s for s in samples if s.mask is None]
    found = f"{len(unlabeled)} of {len(samples)} images in split {name!r} have no mask."
    if unlabeled and len(unlabeled) < len(samples):
        for sample in unlabeled:
            error = UserError(
                f"has no mask; {found}",
                path=sample.image,
                remedy="Add the masks, or remove these images from the split.",
                kind="images without a mask",
            )
            on_error(error)
        samples = [s for s in samples if s.mask is not None]
    split = Split(name, SampleList(samples), labels, exif=data.exif)
    return leave_out_unusable(split, data, len(left_out)) if data.skip_bad else split


def find_patterns(data: DataConfig, name: str) -> list[Patterns]:
    """Where the images and masks of each of the joined splits are.

    Empty for Cityscapes, whose names are fixed.

    Raises:
        UserError: a missing root, a setting that is not a valid pattern.
    """
    if data.layout == "cityscapes":
        return []
    return [_patterns(data, part) for part in split_parts(name)]


def _patterns(data: DataConfig, name: str) -> Patterns:
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
    found = find_patterns(data, split.name)
    searched = [pattern for patterns in found for pattern in (patterns.images, patterns.masks)]
    if data.layout == "voc":
        folders |= {found[0].root / name for name in _VOC_MASKS}
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
    if data.layout == "cityscapes":
        return _cityscapes_masks_without_image(split)
    used = {sample.mask for sample in split.samples}
    unmatched: dict[Path, None] = {}  # ordered; joined splits may share a folder
    for patterns in find_patterns(data, split.name):
        both = patterns.images, patterns.masks
        if all(pattern.folder.is_dir() for pattern in both):  # else a list names other folders
            images, masks = (patterns.files(pattern, lambda _: None) for pattern in both)
            paths = (path for key, path in masks.items() if key not in images)
            unmatched |= dict.fromkeys(path for path in paths if path not in used)
    return list(unmatched)


def skipped_files(data: DataConfig, split: Split) -> list[Path]:
    """Files in the split's image folder that are neither images nor masks; none for Cityscapes."""
    found = find_patterns(data, split.name)
    # Ordered; joined splits may share a folder.
    return list(dict.fromkeys(path for patterns in found for path in _skipped_files(patterns)))


def _skipped_files(patterns: Patterns) -> list[Path]:
    images, shared = patterns.images, patterns.shared
    if not images.folder.is_dir():
        return []
    files = list_files(images.folder, () if shared else (patterns.masks.folder,))
    skipped = [
        images.folder / file
        for file in files
        if images.name(file) is None and not (shared and patterns.masks.name(file))
    ]
    if images.has_name:  # in a folder of anything, only those that may be images
        skipped = [path for path in skipped if path.suffix.lower() in IMAGE_SUFFIXES]
    return skipped


def _samples(
    data: DataConfig, root: Path, name: str, labels: LabelSet, on_error: OnError
) -> list[Sample]:
    """The samples of one split, not of joined ones."""
    if data.layout == "cityscapes":
        return _cityscapes(root, name, labels, on_error)
    pairs = _pairs(data, root, name, on_error)
    return [Sample(pair.name, pair.image, pair.mask, labels) for pair in pairs]


def _require_joinable(
    data: DataConfig, root: Path, name: str, parts: Mapping[str, Sequence[Sample]]
) -> None:
    """Raise UserError if two parts of a split share a sample, or the split exists by itself."""
    own = _source(data, root, name)
    if own.exists() and own != _source(data, root, next(iter(parts))):
        raise UserError(
            f"{own}: is the file or folder of a split {name!r}, but + joins the splits "
            f"{' and '.join(parts)}. Give it a name without +."
        )
    first: dict[str | Path, tuple[str, Sample]] = {}
    for part, samples in parts.items():
        for sample in samples:
            for key in (nfc(sample.stem), sample.image):
                other, same = first.setdefault(key, (part, sample))
                if other != part:
                    raise UserError(
                        f"split {name!r}: sample {sample.stem!r} is in split {other!r} "
                        f"({same.image}) and in split {part!r} ({sample.image}). Joined splits "
                        "can't share a sample, or its name, which also names its outputs. Remove "
                        "one of the two or rename its files, or list the images by their paths "
                        "(data.lists)."
                    )


def _source(data: DataConfig, root: Path, name: str) -> Path:
    """The list or image folder that makes a split; with data.val_fraction the same for each."""
    if data.layout == "cityscapes":
        return root / "leftImg8bit" / name
    if data.lists is not None:
        return stored_path(root / Path(data.lists.replace("{split}", name)).expanduser())
    patterns = _patterns(data, name)
    if data.layout == "voc" and data.val_fraction is None:
        return stored_path(patterns.root / "ImageSets" / "Segmentation" / f"{name}.txt")
    return patterns.images.folder


def _pairs(data: DataConfig, root: Path, name: str, on_error: OnError) -> list[Pair]:
    """The images and masks of a split of layout voc or folder."""
    patterns = _patterns(data, name)
    if data.val_fraction is not None:
        made = list(dict.fromkeys([*split_parts(data.train_split), data.val_split]))
        if name not in made:
            raise UserError(
                f"split {name!r}: data.val_fraction makes the splits "
                f"{' and '.join(map(repr, made))} only. For a split with its own files use "
                "--data.val_fraction null with --data.images and --data.masks."
            )
        pairs = _labeled_pairs(patterns, data.layout, on_error)
        if len(pairs) < 2:
            raise UserError(f"{root}: data.val_fraction needs 2 images or more, found {len(pairs)}")
        return split_pairs(pairs, data.val_fraction, data.split_seed, name == data.val_split)
    if data.lists is None and data.layout == "folder":
        return pair_files(patterns, on_error)
    list_file = _source(data, root, name)
    if data.lists is None and not list_file.is_file():
        raise _no_voc_list(list_file, patterns)
    roots = patterns.root, root
    columns_only = list_file.is_file() and has_columns_only(list_file, roots)
    pairs = [] if columns_only else pair_files(patterns, on_error)
    return listed_pairs(list_file, pairs, patterns, roots, on_error)


def _labeled_pairs(patterns: Patterns, layout: str, on_error: OnError) -> list[Pair]:
    """All pairs; in layout voc those with a mask, if any has one: most of its images have none."""
    pairs = pair_files(patterns, on_error)
    if layout == "voc" and any(pair.mask for pair in pairs):
        return [pair for pair in pairs if pair.mask]
    return pairs


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


def _no_voc_list(file: Path, patterns: Patterns) -> UserError:
    """The error for a split without a list in ImageSets/Segmentation."""
    hint = available_splits(path.stem for path in file.parent.glob("*.txt"))
    remedy = "Set data.lists to the list files"
    if not hint and patterns.images.folder.is_dir():
        remedy += ", or data.val_fraction: 0.2 to split the images that have masks"
    return UserError(f"{file}: no such split list{hint}. {remedy}. {SEE_README}")


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
