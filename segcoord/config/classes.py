"""The classes of a custom dataset: `data.classes`, as a list or a text file."""

from dataclasses import dataclass, fields
from pathlib import Path

from segcoord.utils.errors import UserError

KEY = "data.classes"
_EXPECTED = (
    "a list of names, [road, car]; a list of {name, color, id}; or the path of a text file with "
    "one name per line"
)
MAX_ID = 65535


@dataclass
class ClassConfig:
    """A class of a custom dataset.

    Raises:
        UserError: a value of the wrong type or out of range.
    """

    name: str
    """Name in tables and legends."""
    color: list[int] | str | None = None
    """[R, G, B], 0 to 255, or "#rrggbb", in masks stored as RGB, palettes and overlays; null picks
    one that differs from the others, also for color-blind readers."""
    id: int | list[int] | None = None
    """Value in the mask files, 0 to 65535, or a list of values, of which the first is written; null
    for the position in the list of classes."""

    def __post_init__(self) -> None:
        name = self.name
        if isinstance(name, (int, float)) and not isinstance(name, bool):
            self.name = str(name)
        elif not isinstance(name, str):
            raise UserError(f'{KEY}: name: found {name!r}, expected text; write it in quotes: "a"')
        if not self.name.strip():
            raise UserError(f"{KEY}: found an empty name, expected at least one character")
        self.color = self._parse_color()
        ids = self.id if isinstance(self.id, list) else [0 if self.id is None else self.id]
        if not ids or not all(type(v) is int and 0 <= v <= MAX_ID for v in ids):
            raise UserError(
                f"{KEY}: class {self.name!r}: id: found {self.id!r}, expected an integer from 0 "
                f"to {MAX_ID}, or a list of such integers"
            )

    def _parse_color(self) -> list[int] | None:
        color = self.color
        if color is None:
            return None
        if isinstance(color, str) and len(color) == 7 and color[0] == "#":
            try:
                return list(bytes.fromhex(color[1:]))
            except ValueError:
                pass
        is_rgb = isinstance(color, (list, tuple)) and len(color) == 3
        if is_rgb and all(type(v) is int and 0 <= v <= 255 for v in color):
            return list(color)
        raise UserError(
            f"{KEY}: class {self.name!r}: color: found {color!r}, expected [R, G, B] with values "
            'from 0 to 255, or "#rrggbb" in quotes'
        )


def parse_classes(value: object) -> list[ClassConfig] | str | None:
    """Convert the elements of a list to `ClassConfig`; a path and None stay as they are.

    Raises:
        UserError: no list of classes, or an invalid one.
    """
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    if not isinstance(value, list):
        raise UserError(f"{KEY}: found {value!r}, expected {_EXPECTED}")
    if not value:
        raise UserError(f"{KEY}: found an empty list, expected {_EXPECTED}")
    return [_parse_class(each) for each in value]


def _parse_class(value: object) -> ClassConfig:
    if isinstance(value, ClassConfig):
        return value
    if not hasattr(value, "keys"):  # a scalar, which is a name
        return ClassConfig(value)
    keys = [f.name for f in fields(ClassConfig)]
    unknown = [str(key) for key in value.keys() if key not in keys]  # noqa: SIM118 (Namespace)
    if unknown:
        raise UserError(
            f"{KEY}: unknown key {unknown[0]!r} in {_shown(value)}, expected {', '.join(keys)}"
        )
    if "name" not in value:
        raise UserError(f"{KEY}: found {_shown(value)} without a name, expected {_EXPECTED}")
    return ClassConfig(**{key: value[key] for key in value.keys()})  # noqa: SIM118


def _shown(value: object) -> str:
    return "{" + ", ".join(f"{key}: {value[key]}" for key in value.keys()) + "}"  # noqa: SIM118


def read_class_names(path: str, root: str) -> list[ClassConfig]:
    """Read the classes from a text file with one name per line; blank lines are skipped.

    Args:
        path: relative to the working directory or to `root`.
        root: folder of the dataset.

    Raises:
        UserError: no such file, two different ones, not UTF-8 text, or no names.
    """
    candidates = [Path(path).expanduser(), Path(root).expanduser() / path]
    found = {file.resolve(): file for file in candidates if file.is_file()}
    if not found:
        raise UserError(
            f"{KEY}: found {path!r}, but no file {candidates[0]} or {candidates[1]}; expected "
            f"{_EXPECTED}. A single class is a list too: [{path}]"
        )
    try:
        contents = {file: file.read_text(encoding="utf-8-sig") for file in found.values()}
    except (OSError, UnicodeDecodeError) as error:
        file = ", ".join(map(str, found.values()))
        raise UserError(f"{file}: not a readable UTF-8 text file ({KEY}); save it as UTF-8") from (
            error
        )
    if len({*contents.values()}) > 1:
        raise UserError(
            f"{KEY}: both {candidates[0]} and {candidates[1]} exist and differ; give the absolute "
            "path of one"
        )
    names = [line.strip() for line in next(iter(contents.values())).splitlines() if line.strip()]
    if not names:
        raise UserError(f"{next(iter(contents))}: empty, expected one class name per line ({KEY})")
    return [ClassConfig(name) for name in names]
