"""Divide the pairs of a dataset into splits: by list files, or by a fraction and a seed."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from segcoord.data.file_pattern import IMAGE_SUFFIXES, SEE_README, nfc, stored_path
from segcoord.data.pairing import OnError, Pair, Patterns, own_mask_error, raise_error
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

_SUFFIX = "|".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
_TWO_FILES = re.compile(rf"(.+\.(?:{_SUFFIX}))[\s,;]+(.+\.(?:{_SUFFIX}))", re.IGNORECASE)
_PLAIN, _PATH = "without a folder or suffix", "relative to data.root"


def split_pairs(pairs: Sequence[Pair], fraction: float, seed: int, val: bool) -> list[Pair]:
    """Part of the pairs: for validation, the fraction with the smallest SHA-256 of "SEED/NAME".

    So a new file moves few others to the other part. Each part has at least one pair if there are
    two; the validation part has the rounded number, and both keep the order of `pairs`.
    """
    count = min(max(1, round(fraction * len(pairs))), len(pairs) - 1)

    def digest(pair: Pair) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{nfc(pair.name)}")).digest()

    chosen = {id(pair) for pair in sorted(pairs, key=digest)[:count]}
    return [pair for pair in pairs if (id(pair) in chosen) == val]


def read_list(
    path: Path, on_error: OnError = raise_error, paths: bool = False
) -> list[tuple[int, str]]:
    """Read a split list as (line number, text) pairs; skips blank lines, accepts CRLF and a BOM.

    Args:
        path: a text file in UTF-8.
        on_error: called with each error about a line, which is then skipped.
        paths: whether a line may contain folders.

    Raises:
        UserError: missing, or not UTF-8. Through `on_error`: a line twice, or a line that could
            leave the dataset's folder.
    """
    if not path.is_file():
        lists = sorted(p.name for p in path.parent.glob("*.txt"))
        hint = f"; its folder has {join_first(lists, 8)}" if lists else ""
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
        text = line.strip()
        if not text:
            continue
        parts = re.split(r"[/\\\s,;]+", text)
        is_path = "/" in text or "\\" in text
        if "\0" in text or text == "." or ".." in parts or (is_path and not paths):
            what = "a path in the dataset's folder" if paths else "a plain file name"
            error = UserError(
                f"{text!r} is not {what}, and could leave the dataset's folder.",
                path=f"{path}:{number}",
                remedy=f"Write one name per line, {_PATH if paths else _PLAIN}.",
                kind="invalid names in a split list",
            )
            on_error(error)
        elif text in first_line:
            on_error(_duplicate_error(text, f"{path}:{number}", first_line[text]))
        else:
            first_line[text] = number
    return [(number, text) for text, number in first_line.items()]


def list_line(image: Path, mask: Path | None, root: Path) -> str:
    """The line of a list for an image and its mask: their paths in `root`, separated by a tab.

    Raises:
        UserError: a path contains a line break or a tab, or isn't valid Unicode.
    """
    paths = []
    for path in (image, mask):
        if path is None:
            continue
        bases = root, Path(os.path.normpath(root)), root.resolve()
        base = next(base for base in bases if path.is_relative_to(base))
        text = path.relative_to(base).as_posix()
        if any(c in text for c in "\t\n\r") or text != os.fsencode(text).decode(errors="replace"):
            raise UserError(
                f"{text!a}: its name contains a tab, a line break or bytes that aren't UTF-8, so "
                "that no list can name it. Rename the file."
            )
        paths.append(text)
    return "\t".join(paths)


def available_splits(names: Iterable[str]) -> str:
    """A hint that names the splits that exist, empty if none does."""
    names = sorted(names)
    return f"; available splits: {', '.join(names)}" if names else ""


def listed_pairs(
    path: Path, pairs: Sequence[Pair], patterns: Patterns, roots: Sequence[Path], on_error: OnError
) -> list[Pair]:
    """The pairs that a list file names, in its order.

    A line is a sample's name, or the path of its image, with or without suffix, relative to the
    folder of the images or the dataset; the path may begin above that folder or with a slash. Or it
    holds two paths, of an image and of its mask, separated by a tab, spaces or a comma.

    Args:
        path: the list file.
        pairs: of the dataset.
        patterns: of images and masks.
        roots: folders that the paths are relative to; no path leaves them.
        on_error: called with each error about a line, which is then skipped.
    """
    by_key = _by_key(pairs, patterns, roots)
    listed: dict[str, tuple[int, Pair]] = {}
    for number, text in read_list(path, on_error, paths=True):
        where = f"{path}:{number}"
        pair = _find_pair(text, by_key, patterns, roots)
        if pair is None:
            on_error(_unlisted_error(text, where, patterns))
            continue
        first, _ = listed.setdefault(nfc(pair.name), (number, pair))
        if first != number:
            on_error(_duplicate_error(text, where, first))
    return [pair for _, pair in listed.values()]


def has_columns_only(path: Path, roots: Sequence[Path]) -> bool:
    """Whether each line of a list names an image and a mask, so that no pairing is needed.

    `roots` are as in `listed_pairs`; a name may contain spaces and a suffix ("a.jpg 1.png").
    """
    lines = [text for _, text in read_list(path, lambda _: None, paths=True)]
    return bool(lines) and all(
        _columns(text) and ("\t" in text or _existing(text, roots) is None) for text in lines
    )


def _columns(text: str) -> tuple[str, str] | None:
    """The paths of the image and the mask in a line of two columns; a tab wins over spaces."""
    if "\t" in text:
        parts = [part.strip() for part in text.split("\t") if part.strip()]
        return (parts[0], parts[1]) if len(parts) == 2 else None
    match = _TWO_FILES.fullmatch(text)
    return match and (match[1], match[2])


def _find_pair(
    text: str, by_key: dict[str, Pair], patterns: Patterns, roots: Sequence[Path]
) -> Pair | None:
    pair = None if "\t" in text else _look_up(text, by_key)
    words = text.split()
    columns = _columns(text) or (words if len(words) == 2 else None)
    if pair is not None or columns is None:
        return pair
    first, mask = columns
    pair = _look_up(first, by_key)
    image = _existing(first, (patterns.images.folder, *roots)) if pair is None else pair.image
    mask = _existing(mask, (patterns.masks.folder, *roots))
    if image is None or mask is None or image.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    if image == mask or image.samefile(mask):
        raise own_mask_error(image)
    if pair is not None:
        return Pair(pair.name, image, mask)
    base = next(f for f in (patterns.images.folder, *roots) if image.is_relative_to(f))
    file = image.relative_to(base).as_posix()
    name = patterns.images.name(file) if base == patterns.images.folder else None
    return Pair(name or file.removesuffix(image.suffix), image, mask)


def _by_key(pairs: Sequence[Pair], patterns: Patterns, roots: Sequence[Path]) -> dict[str, Pair]:
    """The pairs by everything that a line may call them.

    Keys that begin with "/" are paths from the roots, which may follow other folders in a line.
    """
    by_key: dict[str, Pair] = {}
    for pair in pairs:
        image = nfc(pair.image)
        folders = [patterns.images.folder, *(r for r in roots if pair.image.is_relative_to(r))]
        paths = [image[len(nfc(folder)) + 1 :] for folder in folders]
        keys = [*paths, *(f"/{folder.name}/{p}" for folder, p in zip(folders, paths))]
        keys += [f"/{p}" for p in paths[1:] if "/" in p]
        keys += [key[: len(key) - len(pair.image.suffix)] for key in keys]
        for key in (nfc(pair.name), nfc(pair.name) + pair.image.suffix, *keys):
            by_key.setdefault(key, pair)
    return by_key


def _look_up(text: str, by_key: dict[str, Pair]) -> Pair | None:
    """The pair of a name or path, without the first folders of the path if necessary."""
    text = nfc(text).replace("\\", "/").removeprefix("./")
    text = text.lstrip("/")
    if text in by_key:
        return by_key[text]
    parts = text.split("/")
    keys = ("/" + "/".join(parts[i:]) for i in range(len(parts)))
    return next((by_key[key] for key in keys if key in by_key), None)


def _existing(text: str, folders: Sequence[Path]) -> Path | None:
    """The file of a path relative to one of the folders, or to a folder above it."""
    parts = text.replace("\\", "/").removeprefix("./").strip("/").split("/")
    for start in range(len(parts)):
        for folder in folders:
            path = stored_path(folder.joinpath(*parts[start:]))
            named = start == 0 or len(parts) - start > 1 or parts[start - 1] == folder.name
            if named and path.is_file():
                return path
    return None


def _duplicate_error(text: str, where: str, first: int) -> UserError:
    return UserError(
        f"{text!r} is already listed in line {first}.",
        path=where,
        remedy="Remove one of the two lines.",
        kind="duplicate names in a split list",
    )


def _unlisted_error(text: str, where: str, patterns: Patterns) -> UserError:
    images = patterns.images
    if len(text.split()) > 1:
        return UserError(
            f"no image and mask {text!r}, and no image of this name in {images.folder}.",
            path=where,
            remedy="Write one name per line, or the paths of the image and its mask, relative to "
            "data.root.",
            kind="listed images that don't exist",
        )
    suffix = "" if Path(text).suffix.lower() in IMAGE_SUFFIXES else ".*"
    return UserError(
        f"no image {text}{suffix} in {images.folder}.",
        path=where,
        remedy="Add the missing images, or remove their names from the list.",
        kind="listed images that don't exist",
    )
