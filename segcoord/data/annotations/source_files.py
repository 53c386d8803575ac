"""Read the text and JSON files of an export, and find its images, for the readers of formats."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from segcoord.data.annotations.records import Color
from segcoord.data.file_pattern import IMAGE_SUFFIXES, list_files, nfc
from segcoord.utils.errors import UserError

_T = TypeVar("_T")
_TYPES = {dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a number"}
_LARGEST = 1e9  # of a coordinate, a size or an angle
_MAX_SHOWN = 60  # characters of a wrong value in a message


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        UserError: the file can't be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"byte {error.start} is not UTF-8.", path=path, remedy="Save the file as UTF-8."
        ) from error
    except OSError as error:
        raise UserError(f"can't be read ({error.strerror}).", path=path) from error


def read_head(path: Path, size: int = 1 << 16) -> str:
    """The first bytes of a file as text, for recognizing a format; empty if it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(size).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def read_json(path: Path) -> object:
    """Parse a JSON file; raise UserError for one that can't be read or is cut short."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        at = ""
        if isinstance(error, json.JSONDecodeError):
            at = f" at line {error.lineno}, column {error.colno}"
        raise UserError(
            f"not valid JSON{at}; it may be cut short.", path=path, remedy="Export it again."
        ) from error


def typed(value: object, kind: type[_T], where: str) -> _T:
    """Return a value of a JSON file if it has the type; raise UserError otherwise.

    Args:
        value: of the file.
        kind: dict, list, str, int or float, which integers are too.
        where: its file and key, for messages.
    """
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise UserError(f"found {shown(value)}, expected {_TYPES[kind]}.", path=where)
    return value


def member(parent: object, key: str, kind: type[_T], where: str) -> _T:
    """`parent[key]` of a JSON file; raise UserError if it is absent or of another type."""
    content = typed(parent, dict, where)
    if key not in content:
        raise UserError(f"found no {key!r}, expected {_TYPES[kind]} of that name.", path=where)
    return typed(content[key], kind, f"{where}, {key}")


def finite(parent: object, key: str, where: str) -> float:
    """`parent[key]` of a JSON file; raise UserError for anything but a finite number."""
    value = member(parent, key, float, where)
    if not abs(value) < _LARGEST:
        raise UserError(f"found {shown(value)}, expected a finite number.", path=f"{where}, {key}")
    return float(value)


def shown(value: object) -> str:
    """A value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def to_ring(points: object, where: str) -> np.ndarray:
    """(N, 2) float64 of a list of [x, y]; raise UserError for another structure."""
    if points == []:
        return np.empty((0, 2))
    try:
        ring = np.array(points, np.float64)
    except (TypeError, ValueError, OverflowError):
        ring = np.empty(0)
    if ring.ndim != 2 or ring.shape[1] != 2:
        raise UserError(f"found {shown(points)}, expected points [[x, y], ...].", path=where)
    return ring


def hex_color(text: object, where: str) -> Color:
    """Parse "#RRGGBB"; raise UserError for anything else."""
    if not isinstance(text, str) or not re.fullmatch("#[0-9A-Fa-f]{6}", text):
        raise UserError(f"found {shown(text)}, expected a color such as #FF8000.", path=where)
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:], 16)


def relative_name(name: str, where: str) -> str:
    """A path of an export with "/", normalized; raise UserError if it would leave its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise UserError(
            f"found the name {shown(name)}, expected a path below the image folder without '..'.",
            path=where,
        )
    return path.as_posix()


def without_suffix(name: str) -> str:
    """A path without the suffix of an image file; other suffixes are part of the name."""
    stem, _, suffix = name.rpartition(".")
    is_image = f".{suffix.lower()}" in IMAGE_SUFFIXES and stem and not stem.endswith("/")
    return stem if is_image else name


class ImageFiles:
    """The image files below a folder by their paths, without hidden ones.

    Paths are relative to the folder. Unicode forms and the case of suffixes may differ.

    Args:
        folder: need not exist; then there are none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[str] = []
        self._by_path: dict[str, str] = {}
        self._by_stem: dict[str, str] = {}
        files = list_files(folder) if folder.is_dir() else []
        self.paths = [file for file in files if without_suffix(file) != file]
        for path in self.paths:
            self._by_path[nfc(path)] = path
        for path in self.paths:
            self._by_path.setdefault(_lower_suffix(path), path)
            self._by_stem.setdefault(nfc(without_suffix(path)), path)

    def find(self, name: str) -> Path | None:
        """The file of a path, whose suffix may be missing."""
        if without_suffix(name) == name:
            return self.find_stem(name)
        key = nfc(name)
        return self._stored(self._by_path.get(key) or self._by_path.get(_lower_suffix(key)))

    def find_stem(self, stem: str) -> Path | None:
        """The file of a path without its suffix."""
        return self._stored(self._by_stem.get(nfc(stem)))

    def _stored(self, path: str | None) -> Path | None:
        return None if path is None else self.folder / path


def _lower_suffix(name: str) -> str:
    stem, _, suffix = nfc(name).rpartition(".")
    return f"{stem}.{suffix.lower()}"
