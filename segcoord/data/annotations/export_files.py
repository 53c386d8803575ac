"""Read the files of exports: text, JSON and its values, rings, masks, and images by their names."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np

from segcoord.data.annotations.records import ClassName, Record
from segcoord.data.file_pattern import IMAGE_SUFFIXES, list_files, nfc
from segcoord.utils.errors import UserError

_KINDS = {dict: "an object", list: "a list", str: "text", int: "an integer"}
_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")
_MAX_SHOWN = 60  # characters of a value in a message
MAX_PEEKED = 16 << 20
"""Size in bytes of the largest JSON file that is read to recognize a format."""


def read_text(path: Path) -> str:
    """Read a file as UTF-8 text; UserError if it can't be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("no such file.", path=path) from None
    except UnicodeDecodeError:
        raise UserError("not UTF-8 text.", path=path, remedy="Save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"can't be read: {error.strerror}.", path=path) from error


def read_json(path: Path) -> Any:
    """Parse a JSON file; UserError if it can't be read or is not JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        end = error.pos >= len(text.rstrip())
        found = "it ends too early" if end else f"line {error.lineno}, column {error.colno}"
    except RecursionError:
        found = "it is nested too deeply"
    raise UserError(
        f"not valid JSON: {found}.", path=path, remedy="The file may be cut short: export it again."
    )


def peek_json(path: Path) -> Any:
    """Parse a JSON file of up to `MAX_PEEKED` bytes; None for a larger or invalid one."""
    try:
        return read_json(path) if path.stat().st_size <= MAX_PEEKED else None
    except (UserError, OSError):
        return None


def member(parent: object, key: str, kind: type, where: Path | str) -> Any:
    """The value of a key of a JSON object.

    Args:
        parent: the object.
        key: name of the value.
        kind: dict, list, str or int.
        where: the file and the key of the parent, for the error.

    Raises:
        UserError: the parent is no object, has no such key, or the value is of another type.
    """
    if type(parent) is not dict:
        raise UserError(f"found {shown(parent)}, expected an object with {key!r}.", path=where)
    value = parent.get(key)
    if type(value) is not kind:
        found = shown(value) if key in parent else "nothing"
        raise UserError(f"{key}: found {found}, expected {_KINDS[kind]}.", path=where)
    return value


def shown(value: object) -> str:
    """A value as a message shows it, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def ring(values: object, where: Path | str) -> np.ndarray:
    """Convert [x, y, x, y, ...] to (N, 2) float64; UserError for anything but finite numbers."""
    is_list = isinstance(values, Sequence) and all(type(v) in (int, float) for v in values)
    points = np.array(values if is_list else [], np.float64)
    if not is_list or len(points) % 2 or not np.isfinite(points).all():
        raise UserError(
            f"found {shown(values)}, expected a list of finite numbers: x and y of each point.",
            path=where,
        )
    return points.reshape(-1, 2)


def crop_mask(mask: np.ndarray) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Cut an (H, W) bool mask to its bounding box.

    Returns:
        The (h, w) part, and the column and row of its top left pixel; None for an empty mask.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return part.copy(), (int(columns[0]), int(rows[0]))


def is_color(value: object) -> bool:
    """Whether a parsed value is a list of three integers from 0 to 255."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(type(v) is int and 0 <= v <= 255 for v in value)
    )


def background_of(classes: Iterable[ClassName]) -> str | None:
    """The name of the class that is called background, in any case; None without one."""
    return next((c.name for c in classes if c.name.casefold() == "background"), None)


def leaves_folder(name: str) -> bool:
    """Whether a relative path could lead out of the folder that it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts


class ImageIndex:
    """The image files below a folder, by name.

    A name may differ from that of its file in its Unicode form and in the case of its suffix.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, str] = {}
        self._stems: dict[str, str] = {}
        for file in list_files(folder) if folder.is_dir() else []:
            stem, suffix = _split_suffix(file)
            if suffix in IMAGE_SUFFIXES:
                self._files.setdefault(stem + suffix, file)
                self._stems.setdefault(stem, file)

    def __len__(self) -> int:
        return len(self._files)

    def find(self, names: Iterable[str], stems: Iterable[str] = ()) -> str | None:
        """The path below the folder of the first name that is a file.

        Args:
            names: relative to the folder.
            stems: names without a suffix, tried after `names`.
        """
        for name in names:
            if found := self._files.get("".join(_split_suffix(name))):
                return found
        return next(filter(None, (self._stems.get(nfc(stem)) for stem in stems)), None)


def _split_suffix(file: str) -> tuple[str, str]:
    """The stem with its folders, in composed Unicode form, and the suffix in lower case."""
    path = PurePosixPath(nfc(file))
    return str(path.with_suffix("")) if path.suffix else str(path), path.suffix.lower()


def report_missing(
    missing: Sequence[str], records: Sequence[Record], folder: Path, skipped: Counter[str]
) -> None:
    """Count the images that an export names but doesn't hold.

    Args:
        missing: their names.
        records: those of the images that were found.
        folder: where they were looked up.
        skipped: gets the count, with the first name.

    Raises:
        UserError: no image was found.
    """
    if not records:
        found = f" of the {len(missing)} that it names, such as {missing[0]}" if missing else ""
        raise UserError(
            f"found no image{found}.",
            path=folder,
            remedy="Export the dataset with its images, or copy them there.",
        )
    if missing:
        skipped[f"images that are not there, such as {missing[0]}"] += len(missing)


def require_unique(records: Iterable[Record]) -> None:
    """Raise UserError if two records have the same name."""
    seen: dict[str, Record] = {}
    for record in records:
        first = seen.setdefault(nfc(record.name), record)
        if first is record:
            continue
        if first.image == record.image and first.split != record.split:
            raise UserError(
                f"is in two splits, {first.split} and {record.split}.",
                path=record.image,
                remedy="Remove it from one of the two.",
            )
        if first.image == record.image:
            raise UserError(
                f"a second annotation of {record.image}; the first is {first.where}.",
                path=record.where,
                remedy="Keep one of the two.",
            )
        raise UserError(
            f"has the same name as {first.image}, apart from its suffix.",
            path=record.image,
            remedy="Rename one of the two, in the tool.",
        )


def listed_classes(names: Mapping[int, str]) -> list[ClassName]:
    """The classes by their numbers in the tool, without repeated names."""
    by_name: dict[str, ClassName] = {}
    for number in sorted(names):
        by_name.setdefault(names[number], ClassName(names[number], id=number))
    return list(by_name.values())


def images_folder(image: PurePath) -> int | None:
    """The position of the last folder called images in a relative path; None without one."""
    found = [i for i, part in enumerate(image.parts[:-1]) if part == "images"]
    return found[-1] if found else None


def name_without_images(image: PurePath) -> str:
    """The name of a record: a relative path without the folder images and the suffix."""
    parts = list(image.with_suffix("").parts)
    if (position := images_folder(image)) is not None:
        del parts[position]
    return "/".join(parts)


def split_of(image: PurePath) -> str | None:
    """The first folder of a relative path that is called like a split; None without one."""
    return next((part for part in image.parts[:-1] if part.lower() in _SPLIT_FOLDERS), None)
