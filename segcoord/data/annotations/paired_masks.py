"""List the images of a folder with the mask images that belong to them."""

import os
from collections import Counter
from pathlib import Path

from segcoord.data.annotations.records import Record
from segcoord.data.file_pattern import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    FilePattern,
    list_files,
    parse_pattern,
)
from segcoord.data.pairing import Patterns, pair_files, raise_error
from segcoord.data.pairing_proposal import propose_pairing
from segcoord.utils.errors import UserError

_ANNOT = "annot"  # the masks of the images in `train` are in `trainannot`, as in SegNet's CamVid
_NO_SPLIT = "default"  # what CVAT and Datumaro call images without a split


def pair_folders(
    root: Path, split: str | None, images: Path, masks: Path, skipped: Counter[str]
) -> list[Record]:
    """The records of an image folder and a mask folder whose files have the same stems.

    Args:
        root: the folder of the export.
        split: name of the split, which becomes part of the records' names.
        images: folder, searched with its subfolders.
        masks: folder, searched with its subfolders. If it is missing, no image has a mask.
        skipped: gets the count of the masks without an image.

    Returns:
        A record per image, whose content is the path of its mask or None.

    Raises:
        UserError: as for `pair_files`.
    """
    return _records(_folder_patterns(root, split, images, masks), split, skipped)


def find_pairs(root: Path, skipped: Counter[str]) -> list[Record]:
    """The records of images and masks that pair by the names of their folders and files.

    Args:
        root: the folder of the export.
        skipped: gets the counts of masks without an image, and of images beside the pairs.

    Raises:
        UserError: no images and masks pair; a duplicate stem.
    """
    root = Path(os.path.normpath(root))  # as the paths of the patterns
    records = []
    for split, patterns in _find_patterns(root):
        records += _records(patterns, split, skipped)
    used = {r.image for r in records} | {r.content for r in records}
    files = [f for f in list_files(root) if Path(f).suffix.lower() in IMAGE_SUFFIXES]
    others = sum(root / f not in used for f in files) - skipped["masks without an image"]
    if others > 0:
        skipped["image files beside the pairs of images and masks"] += others
    return records


def sample_pairs(root: Path, count: int) -> list[tuple[Path, Path]]:
    """Some images with their masks, to recognize a format; empty if none pair."""
    try:
        records = [r for s, p in _find_patterns(root) for r in _records(p, s, Counter())]
    except UserError:
        return []
    pairs = [(r.image, r.content) for r in records if r.content is not None]
    return pairs[:: max(1, len(pairs) // count)][:count]


def _find_patterns(root: Path) -> list[tuple[str | None, Patterns]]:
    """The patterns of each split, which is None if the folders make no split."""
    folders = sorted(p for p in root.iterdir() if p.is_dir())
    found = []
    for images in folders:
        masks = images.with_name(images.name + _ANNOT)
        if masks in folders:
            split = None if images.name == _NO_SPLIT else images.name
            found.append((split, _folder_patterns(root, split, images, masks)))
    if found:
        return found
    proposal = propose_pairing(root)
    if proposal is None:
        raise UserError(
            "found no images and masks that pair by their names.",
            path=root,
            remedy="Put the images into a folder images, and PNG masks of the same names into a "
            "folder masks.",
        )
    for split in sorted(proposal.splits) or [None]:
        images = parse_pattern("images", proposal.images, root, split or "", IMAGE_SUFFIXES)
        masks = parse_pattern("masks", proposal.masks, root, split or "", MASK_SUFFIXES)
        found.append((split, Patterns(images, masks, root, split or "", made_split=True)))
    return found


def _folder_patterns(root: Path, split: str | None, images: Path, masks: Path) -> Patterns:
    return Patterns(
        FilePattern("images", images.name, images, IMAGE_SUFFIXES),
        FilePattern("masks", masks.name, masks, MASK_SUFFIXES),
        root,
        split or "",
        made_split=True,
    )


def _records(patterns: Patterns, split: str | None, skipped: Counter[str]) -> list[Record]:
    pairs = pair_files(patterns, raise_error)
    masks = patterns.files(patterns.masks) if patterns.masks.folder.is_dir() else {}
    if unmatched := len(masks) - sum(pair.mask is not None for pair in pairs):
        skipped["masks without an image"] += unmatched
    return [
        Record(
            name=f"{split}/{pair.name}" if split else pair.name,
            image=pair.image,
            content=pair.mask,
            where=str(pair.mask or pair.image),
            split=split,
        )
        for pair in pairs
    ]
