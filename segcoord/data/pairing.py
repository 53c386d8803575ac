"""Pair the images of a dataset with their masks by name."""

import filecmp
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segcoord.data.file_pattern import (
    MASK_SUFFIXES,
    SEE_README,
    FilePattern,
    count_files,
    list_files,
    nfc,
)
from segcoord.data.pairing_proposal import propose_pairing
from segcoord.utils.errors import UserError

OnError = Callable[[UserError], None]
"""Receives an error about a single file, which the listing then skips."""


def raise_error(error: UserError) -> None:
    """The `OnError` callback that stops at the first error."""
    raise error


@dataclass(frozen=True)
class Pair:
    """An image, its mask if it has one, and the name of the sample."""

    name: str  # path of the image below its folder, without suffix
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Patterns:
    """Where the images and the masks of a split are.

    `root` is the dataset's folder; `made_split` is True if a list or a fraction makes the split.
    """

    images: FilePattern
    masks: FilePattern
    root: Path
    split: str
    made_split: bool = False

    def files(self, which: FilePattern, on_error: OnError = raise_error) -> dict[str, Path]:
        """The files of one of the two patterns by name; names are in composed Unicode form.

        Raises:
            UserError: no such folder; a file that is both an image and a mask.
        """
        other = self.masks if which is self.images else self.images
        if not which.folder.is_dir():
            raise UserError(f"{which.folder}: no such folder. {self.remedy() or SEE_README}")
        shared = self.shared
        by_name: dict[str, Path] = {}
        for file in list_files(which.folder, () if shared else (other.folder,)):
            name, path = which.name(file), which.folder / file
            if name is None or (shared and self._belongs_to(other, which, file, path)):
                continue
            first = by_name.setdefault(nfc(name), path)
            if first is not path:
                on_error(duplicate_stem_error(path, first))
        return by_name

    @property
    def shared(self) -> bool:
        """Whether images and masks are in the same folder, possibly through a link."""
        try:
            return self.images.folder.samefile(self.masks.folder)
        except OSError:
            return False

    def _belongs_to(self, other: FilePattern, own: FilePattern, file: str, path: Path) -> bool:
        """Whether a file of the shared folder is the other pattern's, which matches it better.

        Raises:
            UserError: the two patterns match it equally well.
        """
        if other.name(file) is None:
            return False
        if other.specificity != own.specificity:
            return other.specificity > own.specificity
        raise self.both_error(path)

    def is_lossy_mask(self, image: Path) -> bool:
        """Whether an image is named like a mask, apart from its suffix, which masks can't have."""
        masks = self.masks
        if image.suffix.lower() in MASK_SUFFIXES or not (masks.prefix or masks.ending):
            return False
        name = image.relative_to(self.images.folder).with_suffix(masks.suffixes[0]).as_posix()
        fits = self.shared and masks.name(name) is not None
        return fits and masks.specificity > self.images.specificity

    def both_error(self, path: Path) -> UserError:
        """The error for a file that both patterns match."""
        return UserError(
            f"is both an image and a mask, because data.images is {self.images.text!r} and "
            f"data.masks is {self.masks.text!r}.",
            path=path,
            remedy=self.remedy()
            or "Give each a pattern that only its files match, for example {name}.jpg and "
            "{name}_mask.png.",
            kind="images that are their own masks",
        )

    def remedy(self) -> str:
        """Settings that pair the files of the dataset's folder; empty if none do."""
        proposal = propose_pairing(self.root, self.made_split)
        if proposal is None:
            return ""
        same = (proposal.images, proposal.masks) == (self.images.text, self.masks.text)
        if same and (self.made_split or self.split in proposal.splits):
            return ""
        return f"These settings pair its files:\n{proposal}"


def pair_files(patterns: Patterns, on_error: OnError) -> list[Pair]:
    """Pair images and masks with the same name, sorted by the images' paths.

    Args:
        patterns: of the images and the masks. A missing mask folder means that no image has one.
        on_error: called with each error about a single file, which is then skipped.

    Raises:
        UserError: no images; masks of which none belongs to an image; a file that is both an image
            and a mask.
    """
    images = patterns.files(patterns.images, on_error)
    if not images:
        raise _no_files_error(patterns, patterns.images)
    masks = _masks(patterns, images, on_error)
    pairs = []
    for key, image in images.items():
        mask = masks.get(key)
        if mask is None and patterns.is_lossy_mask(image):
            on_error(_lossy_mask_error(image, patterns.masks))
            continue
        pairs.append(Pair(_stored_name(patterns.images, image), image, mask))
    _require_two_files(pairs, patterns)
    return pairs


def _masks(patterns: Patterns, images: dict[str, Path], on_error: OnError) -> dict[str, Path]:
    """The masks by name; empty without their folder, or if no name in a shared folder matches."""
    if not patterns.masks.folder.is_dir():
        return {}
    masks = patterns.files(patterns.masks, on_error)
    if not masks and patterns.shared:
        for image in images.values():
            if patterns.masks.name(image.relative_to(patterns.images.folder).as_posix()):
                raise patterns.both_error(image)
        if patterns.masks.has_name:
            return {}
    if not masks:
        raise _no_files_error(patterns, patterns.masks)
    if not masks.keys() & images.keys():
        mask, image = next(iter(masks.values())), next(iter(images.values()))
        raise UserError(
            f"none of its {len(masks)} masks has the name of an image; the first mask is "
            f"{mask.name}, the first image {image.name}.",
            path=patterns.masks.folder,
            remedy=patterns.remedy()
            or "Rename each mask to its image's name, except for the suffix; or describe the names "
            "with data.images and data.masks, such as {split}/{name}_mask.png.",
            kind="masks that match no image",
        )
    return masks


def _require_two_files(pairs: Sequence[Pair], patterns: Patterns) -> None:
    """Raise UserError if an image is its own mask, through a link to its folder."""
    same_folder: dict[tuple[Path, Path], bool] = {}
    for pair in pairs:
        if pair.mask is None or pair.image.name != pair.mask.name:
            continue
        key = pair.image.parent, pair.mask.parent
        if key not in same_folder:
            same_folder[key] = key[0].resolve() == key[1].resolve()
        if same_folder[key]:
            raise own_mask_error(pair.image, patterns.remedy())


def is_own_mask(image: Path, mask: Path) -> bool:
    """Whether the two files are the same, through a link, or have the same content."""
    try:
        return image.samefile(mask) or (
            image.stat().st_size == mask.stat().st_size and filecmp.cmp(image, mask, shallow=False)
        )
    except OSError:  # reading them reports it
        return False


def duplicate_stem_error(path: Path, first: Path) -> UserError:
    """The error for a file with the name of another one."""
    forms = ""
    if path.stem != first.stem and nfc(path.stem) == nfc(first.stem):
        forms = f" up to its Unicode form: this name is {_unicode_form(path)}, the other "
        forms += _unicode_form(first)
    return UserError(
        f"has the same stem as {first}{forms}; stems pair images with masks and name outputs.",
        path=path,
        remedy="Remove or rename one of the two.",
        kind="duplicate stems",
    )


def _unicode_form(path: Path) -> str:
    """The normal form of a file's name, with the name in escapes: NFC ('\\xe9.png')."""
    forms = [f for f in ("NFC", "NFD") if unicodedata.is_normalized(f, path.name)]
    return f"{forms[0] if forms else 'neither NFC nor NFD'} ({path.name!a})"


def _lossy_mask_error(path: Path, masks: FilePattern) -> UserError:
    """The error for a lossy file that is named like a mask, in the folder of the images."""
    remedy = "Use the original masks. If it is an image, rename it."
    for twin in map(path.with_suffix, masks.suffixes):
        if twin.exists():
            remedy = f"Remove it: {twin.name} is the mask."
            break
    return UserError(
        f"is named like a mask, because data.masks is {masks.text!r}, but lossy compression "
        f"changes ids and colors; masks are {', '.join(masks.suffixes)} files.",
        path=path,
        remedy=remedy,
        kind="masks with lossy compression",
    )


def own_mask_error(image: Path, remedy: str = "") -> UserError:
    """The error for an image that is its own mask."""
    return UserError(
        "is its own mask: the image and the mask are the same file, or equal files.",
        path=image,
        remedy=remedy or "Set data.masks, or the list's second column, to the masks.",
        kind="images that are their own masks",
    )


def _stored_name(pattern: FilePattern, path: Path) -> str:
    """The name of a file of a pattern, in the Unicode form of the file system."""
    file = path.relative_to(pattern.folder).as_posix()
    if not pattern.has_name:  # the composed form could change the names in packs and outputs
        return file[: len(file) - len(path.suffix)]
    return pattern.name(file)


def _no_files_error(patterns: Patterns, pattern: FilePattern) -> UserError:
    what = f"no {', '.join(pattern.suffixes)} files"
    if pattern.has_name:
        what += f" that match {pattern.key} {pattern.text!r}"
    files = list_files(pattern.folder)
    message = f"{pattern.folder}: {what}; found {count_files(pattern.folder, files)}"
    suffixes = {Path(f).suffix.lower() for f in files}
    if pattern.suffixes == MASK_SUFFIXES and suffixes & {".jpg", ".jpeg", ".webp"}:
        message += ". Lossy compression changes class ids: use the original masks"
    remedy = patterns.remedy()
    return UserError(f"{message}. {remedy}" if remedy else message)
