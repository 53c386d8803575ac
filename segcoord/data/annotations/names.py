"""Names of images, records and classes in exports, and the colors of classes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath, PurePosixPath

from segcoord.data.annotations.records import ClassName, Color, Record
from segcoord.data.annotations.source_files import shown
from segcoord.data.file_pattern import IMAGE_SUFFIXES, nfc
from segcoord.utils.errors import UserError

_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test", "testing")


def relative_name(name: str, where: str) -> str:
    """A path of an export with "/", normalized; raise UserError if it would leave its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise UserError(
            f"found the name {shown(name)}, expected a path below the image folder without '..'.",
            path=where,
        )
    return path.as_posix()


def leaves_folder(name: str) -> bool:
    r"""Whether a path, with "/" or "\", could lead out of the folder that it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts


def without_suffix(name: str) -> str:
    """A path without the suffix of an image file; other suffixes are part of the name."""
    stem, _, suffix = name.rpartition(".")
    is_image = f".{suffix.lower()}" in IMAGE_SUFFIXES and stem and not stem.endswith("/")
    return stem if is_image else name


def without_any_suffix(file: str) -> str:
    """A path without its suffix, whichever it is."""
    return file.removesuffix(PurePosixPath(file).suffix)


def record_names(files: Sequence[str]) -> list[str]:
    """Names of records: the paths below the folder that contains all files, without suffix."""
    folders = [PurePosixPath(file).parent.parts for file in files]
    common = 0
    if folders:
        for parts in zip(*folders):
            if len({*parts}) > 1:
                break
            common += 1
    return [without_any_suffix("/".join(PurePosixPath(file).parts[common:])) for file in files]


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


def background_of(classes: Iterable[ClassName]) -> str | None:
    """The name of the class that is called background, in any case; None without one."""
    return next((c.name for c in classes if c.name.casefold() == "background"), None)


def is_color(value: object) -> bool:
    """Whether a parsed value is a list of three integers from 0 to 255."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(type(v) is int and 0 <= v <= 255 for v in value)
    )


def parse_hex_color(value: object) -> Color | None:
    """Parse "#RRGGBB"; None for anything else."""
    if not isinstance(value, str) or not re.fullmatch("#[0-9A-Fa-f]{6}", value):
        return None
    return int(value[1:3], 16), int(value[3:5], 16), int(value[5:], 16)


def hex_color(value: object, where: str) -> Color:
    """Parse "#RRGGBB"; raise UserError for anything else."""
    color = parse_hex_color(value)
    if color is None:
        raise UserError(f"found {shown(value)}, expected a color such as #FF8000.", path=where)
    return color
