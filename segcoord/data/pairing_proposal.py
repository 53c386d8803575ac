"""Propose data.images and data.masks for a folder whose files pair in some other way."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from segcoord.data.file_pattern import IMAGE_SUFFIXES, MASK_SUFFIXES, list_files, nfc

_TRAIN, _VAL = ("train", "training"), ("val", "valid", "validation", "test", "testing")
_SPLIT = re.compile(rf"({'|'.join(_TRAIN + _VAL)})((?:[_\-. ].+)?)", re.I)
_MASK_WORDS = re.compile(
    r"mask|label|annot|lbl|seg|ground.?truth|(?<![a-z])gt(?![a-z])|target|trimap|matte", re.I
)
_MAX_AFFIXES, _MAX_GROUPS = 6, 12  # the most frequent ones
_MAX_FILES = 20_000  # of a group
_MAX_SEARCHED = 300_000  # more files: the root is probably not the dataset's folder

_ANY = ".*"

Affix = tuple[str, str]
"""Beginning and end of a file's stem, around the sample's name."""


@dataclass(frozen=True)
class _Group:
    """Files with the same suffix below a folder, which may contain `{split}`.

    The suffix ".*" stands for images of several types.
    """

    root: Path
    folder: str
    suffix: str
    files: tuple[tuple[str, str, str], ...]  # (split, stem with subfolders, path below the root)

    @property
    def splits(self) -> frozenset[str]:
        return frozenset(split for split, _, _ in self.files if split)

    @cached_property
    def names(self) -> dict[Affix, dict[tuple[str, str], str]]:
        """(split, name) and path of the files with each affix that many of them share."""
        counts: Counter[Affix] = Counter()
        for _, path, _ in self.files:
            stem = path.rpartition("/")[2]
            starts = re.findall(r"^[^_\-. ]+[_\-. ]+|^[A-Za-z]+(?=\d)", stem)
            ends = re.findall(r"[_\-. ]+[^_\-. ]+$|(?<=\d)[A-Za-z]+$", stem)
            ends += re.findall(r"[_\-. ]+[^_\-. ]+[_\-. ]+[^_\-. ]+$", stem)
            counts.update({("", end) for end in ends} | {(start, "") for start in starts})
        frequent = [a for a, n in counts.most_common(_MAX_AFFIXES) if 4 * n >= len(self.files)]
        return {affix: self._cut(affix) for affix in [("", ""), *frequent]}

    def _cut(self, affix: Affix) -> dict[tuple[str, str], str]:
        start, end = affix
        names = {}
        for split, path, file in self.files:
            head, slash, stem = path.rpartition("/")
            if stem.startswith(start) and stem.endswith(end) and len(stem) > len(start + end):
                names[split, head + slash + stem[len(start) : len(stem) - len(end)]] = file
        return names

    def has_mask_mode(self, affix: Affix) -> bool:
        """Whether the first file is a palette, gray or 1-bit image."""
        try:
            with Image.open(self.root / next(iter(self.names[affix].values()))) as image:
                return image.mode in ("1", "L", "P", "I;16")
        except (OSError, ValueError):
            return False


@dataclass(frozen=True)
class Proposal:
    """Patterns of images and masks, and the splits that their folders make."""

    images: str
    masks: str
    splits: frozenset[str]
    made_split: bool = False  # whether data.lists or data.val_fraction is set

    def __str__(self) -> str:
        """The lines of a configuration."""
        lines = ["data:", f'  images: "{self.images}"', f'  masks: "{self.masks}"']
        if not self.splits:
            return "\n".join(lines if self.made_split else [*lines, "  val_fraction: 0.2"])
        for key, names in (("train", _TRAIN), ("val", _VAL)):
            name = next((s for n in names for s in sorted(self.splits) if s.lower() == n), key)
            lines += [f"  {key}_split: {name}"] if name != key else []
        return "\n".join(lines)


def propose_pairing(root: Path, made_split: bool = False) -> Proposal | None:
    """Find the two patterns that pair the most files below a folder.

    Args:
        root: the dataset's folder.
        made_split: whether a list or a fraction makes the split, so that no `{split}` is needed.

    Returns:
        None if at most half of the masks have an image, if it is unclear which are the masks, or if
        the folder has 300,000 files or more.
    """
    groups = _groups(root, made_split)
    ranked = []
    for masks in groups:
        for images in groups if masks.suffix in MASK_SUFFIXES else []:
            for image_affix, mask_affix, pairs in _matches(images, masks):
                clues = _mask_clues(masks, mask_affix, images, image_affix)
                if clues <= 0:
                    continue
                proposal = _with_val_split(
                    Proposal(
                        _pattern(images, image_affix, masks),
                        _pattern(masks, mask_affix, images),
                        images.splits & masks.splits,
                        made_split,
                    )
                )
                length = len(proposal.images) + len(proposal.masks)
                one_type = images.suffix != _ANY
                ranked.append(
                    (pairs, clues, one_type, -length, proposal.images, proposal.masks, proposal)
                )
    return max(ranked, key=lambda row: row[:-1])[-1] if ranked else None


def _with_val_split(proposal: Proposal) -> Proposal:
    """The proposal, without {split} if there is no other split than train.

    Then a fraction makes both splits. Kaggle's Carvana challenge has train and train_masks.
    """
    if len(proposal.splits) != 1 or next(iter(proposal.splits)).lower() not in _TRAIN:
        return proposal
    patterns = (p.replace("{split}", *proposal.splits) for p in (proposal.images, proposal.masks))
    return Proposal(*patterns, frozenset(), proposal.made_split)


def _groups(root: Path, made_split: bool) -> list[_Group]:
    """The largest groups of images; a folder with the name of a split becomes {split}.

    The files of subfolders are in the groups of their folder and of each folder above it.
    """
    members: dict[tuple[str, str], list[tuple[str, str, str]]] = defaultdict(list)
    files = list_files(root, limit=_MAX_SEARCHED) if root.is_dir() else []
    for file in files if len(files) < _MAX_SEARCHED else []:
        head, _, tail = nfc(file).rpartition("/")
        stem, _, suffix = tail.rpartition(".")
        suffix = f".{suffix.lower()}"
        if suffix not in IMAGE_SUFFIXES:
            continue
        parts, split = head.split("/") if head else [], ""
        for position, part in enumerate(parts):
            match = None if made_split else _SPLIT.fullmatch(part)
            if match:  # train, or train_masks beside it
                split, parts[position] = match[1], "{split}" + match[2]
                break
        for depth in range(len(parts) + 1):
            if split and not any("{split}" in part for part in parts[:depth]):
                continue
            below = "/".join([*parts[depth:], stem])
            for key in (suffix, _ANY):
                members["/".join(parts[:depth]), key].append((split, below, file))
    for folder, suffix in [key for key in members if key[1] == _ANY]:
        if any(
            len(members.get((folder, s), ())) == len(members[folder, suffix])
            for s in IMAGE_SUFFIXES
        ):
            del members[folder, suffix]  # one type only
    distinct = {}  # the deepest folder of the same files
    for (folder, suffix), files in sorted(members.items(), key=lambda item: -len(item[0][0])):
        group = _Group(root, folder, suffix, tuple(files[:_MAX_FILES]))
        distinct.setdefault((suffix, len(files), files[0][2], files[-1][2]), group)
    return sorted(distinct.values(), key=lambda group: -len(group.files))[:_MAX_GROUPS]


def _matches(images: _Group, masks: _Group) -> list[tuple[Affix, Affix, int]]:
    """(affix of the images, affix of the masks, pairs) for which most masks have an image."""
    found = []
    for mask_affix, mask_names in masks.names.items():
        for image_affix, image_names in images.names.items():
            common = image_names.keys() & mask_names.keys()
            pairs = sum(image_names[name] != mask_names[name] for name in common)
            if 2 * pairs > len(mask_names):
                found.append((image_affix, mask_affix, pairs))
    return found


def _pattern(group: _Group, affix: Affix, other: _Group) -> str:
    """A folder where that is enough, otherwise a pattern with {name}."""
    if affix == ("", "") and group.folder and group.folder != other.folder:
        return group.folder
    folder = f"{group.folder}/" if group.folder else ""
    return f"{folder}{affix[0]}{{name}}{affix[1]}{group.suffix}"


def _mask_clues(masks: _Group, affix: Affix, images: _Group, image_affix: Affix) -> int:
    """How clearly the masks are masks; 0 or less if the images may be the masks."""
    own, other = f"{masks.folder}/{''.join(affix)}", f"{images.folder}/{''.join(image_affix)}"
    words = bool(_MASK_WORDS.search(own)) - bool(_MASK_WORDS.search(other))
    if words:
        return 2 * words
    if images.suffix not in (*MASK_SUFFIXES, _ANY):
        return 1
    return masks.has_mask_mode(affix) - images.has_mask_mode(image_affix)
