"""Which files a command's inputs mean, and where the outputs of each belong. Imports no torch."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from segcoord.utils.errors import UserError

# fmt: off
IMAGES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".tif", ".tiff", ".gif",
    ".bmp", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif",
})
VIDEOS = frozenset({
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
    ".mts", ".m2ts",
})


# fmt: on
LIST = ".txt"
OUTPUTS = ("masks", "overlays", "probs")
"""Folders below that of all outputs, where what they hold is no input."""


@dataclass(frozen=True)
class Source:
    """What to predict.

    Args:
        path: of the file, or of an entry that only looks like one, which reading it tells.
        name: of its outputs: relative, without a suffix.
        camera: its number, where it is no file.
    """

    path: Path
    name: Path
    camera: int | None = None

    @property
    def is_video(self) -> bool:
        return self.camera is not None or self.path.suffix.lower() in VIDEOS

    @property
    def shown(self) -> str:
        return printable(self.path)


@dataclass
class Sources:
    """What inputs mean.

    Args:
        images, videos: in the order of the inputs, each once; cameras are videos.
        passed_over: how many files of other kinds folders and globs hold, by suffix.
    """

    images: list[Source] = field(default_factory=list)
    videos: list[Source] = field(default_factory=list)
    passed_over: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        counts = (("image", len(self.images)), ("video", len(self.videos)))
        return ", ".join(f"{n} {what}{'s' * (n != 1)}" for what, n in counts if n)


def find_sources(inputs: list[str], out: Path) -> Sources:
    """The images, videos and cameras that inputs mean.

    An input is an image, a video, a folder, a glob, a list of files, or the number of a camera. A
    folder is searched with all folders below it. Passed over are what is hidden, links to folders,
    and what lies in `OUTPUTS` below `out`. In folders and globs suffixes decide, in upper or lower
    case; a file that is named is an image where it is neither a video nor a list.

    Args:
        inputs: as a user gives them. A list is a .txt with a path in each line, relative to it.
        out: where outputs will go.

    Returns:
        Each file once. Its outputs are named as it is; below a folder, below what a glob has before
        its first wildcard, or below the folder that all files of a list share, by its path there.

    Raises:
        UserError: an input that isn't there; nothing found, with what was found instead.
    """
    found, written = Sources(), {out.resolve() / kind for kind in OUTPUTS}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            _sort_in(found, [(file, file.relative_to(path)) for file in _below(path, written)])
        elif path.suffix.lower() == LIST and path.is_file():
            _add(found, _listed(path))
        elif path.exists() or path.is_symlink():
            _add(found, [(path, Path(path.name))])
        elif text.isdecimal():
            found.videos.append(Source(path, Path(f"camera{int(text)}"), int(text)))
        elif glob.has_magic(text):
            _sort_in(found, _matching(text, written))
        else:
            raise UserError(
                f"{printable(path)}: no such file or folder. Expected an image, a video, a folder, "
                "a quoted glob, a .txt list of files, or the number of a camera."
            )
    found.images = list(dict.fromkeys(found.images))
    found.videos = list(dict.fromkeys(found.videos))
    if not (found.images or found.videos):
        there = f"only {by_suffix(found.passed_over)}" if found.passed_over else "no file"
        raise UserError(
            f"{', '.join(printable(Path(text)) for text in inputs)}: no image or video, {there}. "
            f"Expected files that end in {' '.join(sorted(IMAGES))}, or for videos in "
            f"{' '.join(sorted(VIDEOS))}."
        )
    return found


def _below(folder: Path, written: set[Path]) -> Iterator[Path]:
    """All files, by name; and folders that hold none though they are named like an image."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif not path.is_symlink() and path.resolve() not in written:
            inside = list(_below(path, written))
            yield from inside or [p for p in [path] if p.suffix.lower() in IMAGES]


def _matching(pattern: str, written: set[Path]) -> list[tuple[Path, Path]]:
    """Files that match, all below folders that do, and their paths from before the wildcards."""
    stem, dot, suffix = pattern.rpartition(".")
    if dot and re.fullmatch(r"[\w*?]+", suffix):
        suffix = "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in suffix)
    parts = Path(pattern).parts
    start = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    found: list[Path] = []
    for match in sorted(glob.glob(f"{stem}{dot}{suffix}", recursive=True)):  # noqa: PTH207
        path = Path(match)
        if written.isdisjoint((path.resolve(), *path.resolve().parents)):
            found += _below(path, written) if path.is_dir() else [path]
    return [(path, path.relative_to(start)) for path in dict.fromkeys(found)]


def _listed(file: Path) -> list[tuple[Path, Path]]:
    """The files of a list, and their paths from the folder that they share."""
    lines = os.fsdecode(file.read_bytes().removeprefix(b"\xef\xbb\xbf")).splitlines()
    paths = [file.parent / line.strip() for line in lines if line.strip()]
    if not paths:
        raise UserError(f"{printable(file)}: is empty, expected the path of a file in each line")
    whole = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (keeps links)
    shared = os.path.commonpath([path.parent for path in whole])
    return [(path, full.relative_to(shared)) for path, full in zip(paths, whole)]


def _sort_in(found: Sources, named: list[tuple[Path, Path]]) -> None:
    """Adds what its suffix tells to be an image or a video, and counts the rest."""
    known = IMAGES | VIDEOS
    _add(found, [(path, name) for path, name in named if path.suffix.lower() in known])
    rest = [path.suffix.lower() for path, _ in named if path.suffix.lower() not in known]
    found.passed_over.update(suffix or "without suffix" for suffix in rest)


def _add(found: Sources, named: list[tuple[Path, Path]]) -> None:
    for path, name in named:
        source = Source(path, name.with_name(name.stem))
        (found.videos if source.is_video else found.images).append(source)


def by_suffix(counts: Counter) -> str:
    """As "3 .txt, 1 .pdf", the most frequent first."""
    return ", ".join(f"{n} {printable(Path(suffix))}" for suffix, n in counts.most_common())


def check_outputs(outputs: list[tuple[Source, list[Path]]], table: Path) -> None:
    """Sees to it that no file is written twice, and none over an input.

    Args:
        outputs: every source with the files that will be written of it.
        table: a file that will be written of all of them.

    Raises:
        UserError: two sources of one name, an output that is an input, or a folder of others.
    """
    owners: dict[Path, Source] = {}
    for source, files in outputs:
        for file in files:
            other = owners.setdefault(file, source)
            if other is not source:
                raise UserError(
                    f"{source.shown} and {other.shown} would both become {printable(file)}. "
                    "Rename one of them, or predict them into two folders."
                )
    inputs = {source.path.resolve() for source, _ in outputs}
    over = next((file for file in [table, *owners] if file.resolve() in inputs), None)
    if over is not None:
        raise UserError(
            f"{printable(over)}: is an input, and would be written over. Choose another folder "
            "for --out."
        )
    for file, source in owners.items():
        above = next((folder for folder in file.parents if folder in owners), None)
        if above is not None:
            raise UserError(
                f"{source.shown} would become {printable(file)}, in a folder named as what "
                f"{owners[above].shown} would become. Rename one of them."
            )


def printable(path: Path) -> str:
    """A path for a terminal, whatever bytes it has."""
    return os.fsencode(path).decode("utf-8", "replace")
