"""Resolve the inputs of `segcoord predict` to images, videos and cameras. Imports no torch."""

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
POLYGONS = "polygons"
OUTPUTS = ("masks", "overlays", "probs", POLYGONS)
"""Subfolders of the output folder, whose files are never inputs."""


@dataclass(frozen=True)
class Source:
    """An image, a video or a camera to predict."""

    path: Path  # may not be readable, which is reported when it is read
    name: Path  # of its outputs: a relative path without suffix
    camera: int | None = None  # the camera's number

    @property
    def is_video(self) -> bool:
        return self.camera is not None or self.path.suffix.lower() in VIDEOS

    @property
    def shown(self) -> str:
        return printable(self.path)


@dataclass
class Sources:
    """All sources of a command, in the order of the inputs, without duplicates."""

    images: list[Source] = field(default_factory=list)
    videos: list[Source] = field(default_factory=list)  # and cameras
    skipped: Counter = field(default_factory=Counter)  # other files in folders and globs, by suffix

    def __str__(self) -> str:
        counts = (("image", len(self.images)), ("video", len(self.videos)))
        return ", ".join(f"{n} {what}{'s' * (n != 1)}" for what, n in counts if n)


def find_sources(inputs: list[str], out: Path) -> Sources:
    """Find the images, videos and cameras that the inputs refer to.

    An input is an image, a video, a folder, a glob, a list of files, or the number of a camera.
    Folders are searched recursively. Hidden files, links to folders, and files in `OUTPUTS` below
    `out` are skipped. In folders and globs the suffix decides, in any case; a file given by name is
    an image unless its suffix is that of a video or a list.

    Args:
        inputs: as given on the command line. A list is a .txt file with one path per line, relative
            to the list.
        out: the output folder.

    Returns:
        Each file once. Outputs are named after the file; below a folder, below the part of a glob
        before its first wildcard, or below the common folder of a list, after its relative path.

    Raises:
        UserError: an input doesn't exist, or no image or video was found.
    """
    sources, outputs = Sources(), {out.resolve() / kind for kind in OUTPUTS}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            files = [(file, file.relative_to(path)) for file in _walk(path, outputs)]
            _add_by_suffix(sources, files)
        elif path.suffix.lower() == LIST and path.is_file():
            _add(sources, _read_list(path))
        elif path.exists() or path.is_symlink():
            _add(sources, [(path, Path(path.name))])
        elif text.isdecimal():
            sources.videos.append(Source(path, Path(f"camera{int(text)}"), int(text)))
        elif glob.has_magic(text):
            _add_by_suffix(sources, _glob(text, outputs))
        else:
            raise UserError(
                f"{printable(path)}: no such file or folder. Expected an image, a video, a folder, "
                "a quoted glob, a .txt list of files, or the number of a camera."
            )
    sources.images = list(dict.fromkeys(sources.images))
    sources.videos = list(dict.fromkeys(sources.videos))
    if not (sources.images or sources.videos):
        found = f"only {by_suffix(sources.skipped)}" if sources.skipped else "no file"
        raise UserError(
            f"{', '.join(printable(Path(text)) for text in inputs)}: no image or video, {found}. "
            f"Expected files that end in {' '.join(sorted(IMAGES))}, or for videos in "
            f"{' '.join(sorted(VIDEOS))}."
        )
    return sources


def _walk(folder: Path, outputs: set[Path]) -> Iterator[Path]:
    """All files, sorted; also empty folders named like an image, which fail when they are read."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif not path.is_symlink() and path.resolve() not in outputs:
            files = list(_walk(path, outputs))
            yield from files or [p for p in [path] if p.suffix.lower() in IMAGES]


def _glob(pattern: str, outputs: set[Path]) -> list[tuple[Path, Path]]:
    """Matching files, all files below matching folders, and their paths below the wildcards."""
    stem, dot, suffix = pattern.rpartition(".")
    if dot and re.fullmatch(r"[\w*?]+", suffix):
        suffix = "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in suffix)
    parts = Path(pattern).parts
    start = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    files: list[Path] = []
    for match in sorted(glob.glob(f"{stem}{dot}{suffix}", recursive=True)):  # noqa: PTH207
        path = Path(match)
        if outputs.isdisjoint((path.resolve(), *path.resolve().parents)):
            files += _walk(path, outputs) if path.is_dir() else [path]
    return [(path, path.relative_to(start)) for path in dict.fromkeys(files)]


def _read_list(file: Path) -> list[tuple[Path, Path]]:
    """The files of a list, and their paths below their common folder."""
    lines = os.fsdecode(file.read_bytes().removeprefix(b"\xef\xbb\xbf")).splitlines()
    paths = [file.parent / line.strip() for line in lines if line.strip()]
    if not paths:
        raise UserError(f"{printable(file)}: is empty, expected one path per line")
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (keeps links)
    common = os.path.commonpath([path.parent for path in absolute])
    return [(path, full.relative_to(common)) for path, full in zip(paths, absolute)]


def _add_by_suffix(sources: Sources, files: list[tuple[Path, Path]]) -> None:
    """Add images and videos, and count the other files."""
    known = IMAGES | VIDEOS
    _add(sources, [(path, name) for path, name in files if path.suffix.lower() in known])
    others = [path.suffix.lower() for path, _ in files if path.suffix.lower() not in known]
    sources.skipped.update(suffix or "without suffix" for suffix in others)


def _add(sources: Sources, files: list[tuple[Path, Path]]) -> None:
    for path, name in files:
        source = Source(path, name.with_name(name.stem))
        (sources.videos if source.is_video else sources.images).append(source)


def by_suffix(counts: Counter) -> str:
    """Format counts as "3 .txt, 1 .pdf", the most frequent first."""
    return ", ".join(f"{n} {printable(Path(suffix))}" for suffix, n in counts.most_common())


def check_outputs(outputs: list[tuple[Source, list[Path]]], table: Path) -> None:
    """Check that no output is written twice or replaces an input.

    Args:
        outputs: each source with its output files.
        table: the output file of all sources.

    Raises:
        UserError: two sources with the same output, an output that is an input, or an output inside
            a folder that is itself an output file.
    """
    owners: dict[Path, Source] = {}
    for source, files in outputs:
        for file in files:
            other = owners.setdefault(file, source)
            if other is not source:
                raise UserError(
                    f"{source.shown} and {other.shown} would both be written to "
                    f"{printable(file)}. Rename one of them, or predict them into two folders."
                )
    inputs = {source.path.resolve() for source, _ in outputs}
    overwritten = next((file for file in [table, *owners] if file.resolve() in inputs), None)
    if overwritten is not None:
        raise UserError(
            f"{printable(overwritten)}: is an input and would be overwritten. Choose another "
            "folder for --out."
        )
    for file, source in owners.items():
        parent = next((folder for folder in file.parents if folder in owners), None)
        if parent is not None:
            raise UserError(
                f"{source.shown} would be written to {printable(file)}, inside a folder with the "
                f"name of the output of {owners[parent].shown}. Rename one of them."
            )


def printable(path: str | Path) -> str:
    """A path with undecodable bytes replaced, so that it can be printed and drawn."""
    return os.fsencode(path).decode("utf-8", "replace")
