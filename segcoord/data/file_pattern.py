"""Find the images or the masks of a dataset: a folder, or file names with a `{name}` in them.

Names are compared in Unicode's composed form (NFC): a ZIP file from macOS holds decomposed names.
"""

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from segcoord.utils.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
SEE_README = "See data/README.md for the expected folders."
_OTHER_FORMATS = (".gif", ".heic", ".heif", ".avif", ".jp2", ".npy", ".npz", ".json", ".txt")


def nfc(name: str | Path) -> str:
    """A name or path in Unicode's composed form, for comparisons."""
    return unicodedata.normalize("NFC", str(name))


def stored_path(path: Path) -> Path:
    """The existing path that differs from `path` only in Unicode form; `path` itself without."""
    if os.path.lexists(path) or path == path.parent:
        return path
    parent = stored_path(path.parent)
    if not str(path).isascii() and parent.is_dir():
        for other in sorted(parent.iterdir()):
            if nfc(other.name) == nfc(path.name):
                return other
    return parent / path.name


@dataclass(frozen=True)
class FilePattern:
    """Files below `folder` whose names are `prefix`, the sample's name, `ending` and a suffix."""

    key: str
    """The setting that it comes from, for messages."""
    text: str
    """The value of the setting."""
    folder: Path
    """Searched with its subfolders."""
    suffixes: tuple[str, ...]
    """In lower case; a file's suffix may be in upper case."""
    prefix: str = ""
    ending: str = ""
    has_name: bool = False
    """Whether the setting contains `{name}`."""

    def name(self, file: str) -> str | None:
        """The sample's name of a file, given relative to `folder`; None if it doesn't match."""
        head, slash, tail = file.rpartition("/")
        stem, _, suffix = nfc(tail).rpartition(".")
        fits = f".{suffix.lower()}" in self.suffixes and len(stem) > len(self.prefix + self.ending)
        if not (fits and stem.startswith(self.prefix) and stem.endswith(self.ending)):
            return None
        return f"{head}{slash}" + stem[len(self.prefix) : len(stem) - len(self.ending)]

    @property
    def specificity(self) -> tuple[int, bool]:
        """Of two patterns that match a file, the one with the larger value owns it."""
        return len(self.prefix + self.ending), self.has_name and len(self.suffixes) == 1


def parse_pattern(
    key: str,
    text: str,
    root: Path,
    split: str,
    suffixes: tuple[str, ...],
    split_required: bool = False,
) -> FilePattern:
    """Parse data.images or data.masks.

    Args:
        key: name of the setting.
        text: its value, a path relative to `root` with the placeholders `{split}` and, in its last
            component only, `{name}`.
        root: the folder that the files must not leave, except through links.
        split: replaces `{split}`.
        suffixes: supported ones, which `.*` or no suffix after `{name}` stands for.
        split_required: whether it is an error to leave out `{split}`.

    Raises:
        UserError: another placeholder, `{name}` elsewhere, no `{split}`, a path outside the root, a
            suffix that is not supported.
    """
    if split_required and "{split}" not in text:
        raise UserError(
            f"{key}: found {text!r}, expected a path that contains {{split}}; or set "
            "data.val_fraction or data.lists, which make the splits."
        )
    *folders, last = text.split("/")
    unknown = {*re.findall(r"\{.*?\}", text)} - {"{split}", "{name}"}
    if unknown or "{name}" in "/".join(folders) or last.count("{name}") > 1:
        raise UserError(
            f"{key}: found {text!r}, expected {{split}} as the only placeholder besides one "
            "{name} in the last component, for example {split}/{name}_mask.png"
        )
    has_name = "{name}" in last
    folder = Path(os.path.normpath(root / text.replace("{split}", split)))
    folder = folder.parent if has_name else folder
    if not folder.is_relative_to(os.path.normpath(root)):  # links may lead elsewhere
        raise UserError(f"{key}: {folder} is outside the dataset's folder {root}")
    folder = stored_path(folder)
    if not has_name:
        return FilePattern(key, text, folder, suffixes)
    prefix, _, ending = nfc(last.replace("{split}", split)).partition("{name}")
    ending, suffix = re.fullmatch(r"(.*?)(\.\*|\.[A-Za-z]+)?", ending).groups(".*")
    if suffix.lower() in suffixes:
        suffixes = (suffix.lower(),)
    elif suffix.lower() in (*IMAGE_SUFFIXES, *_OTHER_FORMATS):
        lossy = " Lossy compression changes class ids: use the original masks."
        raise UserError(
            f"{key}: found {text!r}, expected one of the suffixes {', '.join(suffixes)} or .* for "
            f"any of them.{lossy if suffix.lower() in IMAGE_SUFFIXES else ''}"
        )
    elif suffix != ".*":
        ending += suffix
    return FilePattern(key, text, folder, suffixes, prefix, ending, has_name)


def list_files(folder: Path, without: Iterable[Path] = (), limit: int | None = None) -> list[str]:
    """Paths of the files below a folder, relative to it and sorted; links to folders are followed.

    Hidden files and folders, and the folders `without`, are left out. A link to nothing is listed,
    so that reading it reports the link. The search ends after `limit` files.
    """
    skipped = {os.path.realpath(path) for path in without}

    def walk(path: str, relative: str, parents: tuple[str, ...]) -> Iterator[str]:
        real = os.path.realpath(path)
        if real in parents or (parents and real in skipped):
            return
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from walk(entry.path, f"{relative}{entry.name}/", (*parents, real))
                elif entry.is_file() or entry.is_symlink():
                    yield relative + entry.name

    files = itertools.islice(walk(str(folder), "", ()), limit)
    return sorted(files, key=lambda file: file.split("/"))


def count_files(folder: Path, files: Iterable[str]) -> str:
    """What a folder with these files of `list_files` contains, for messages."""
    counts = Counter(Path(file).suffix or "without suffix" for file in files)
    most_common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:4]
    found = [f"{n} {suffix}" for suffix, n in most_common]
    folders = sum(path.is_dir() for path in folder.iterdir())
    found += [f"{folders} folder{'s' * (folders > 1)}"] if folders else []
    return ", ".join(found) or "nothing"
