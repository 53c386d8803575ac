"""Read the text and JSON files of an export, look at their start, and check the values in them."""

import json
from pathlib import Path
from typing import Any, TypeVar

from segcoord.utils.errors import UserError

_T = TypeVar("_T")
_TYPES = {dict: "an object", list: "a list", str: "text", int: "an integer", float: "a number"}
_LARGEST = 1e9  # of a coordinate, a size or an angle
_MAX_SHOWN = 60  # characters of a value in a message
_HEAD = 1 << 16  # bytes
_MAX_PEEKED = 16 << 20  # bytes of the largest JSON file that is parsed to recognize a format
_DAMAGED = "damaged JSON files"


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        UserError: the file can't be read, or is not UTF-8.
    """
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"byte {error.start} is not UTF-8.",
            path=path,
            remedy="Save the file as UTF-8.",
            kind="text files that are not UTF-8",
        ) from None


def read_json(path: Path) -> Any:
    """Parse a JSON file in UTF-8, UTF-16 or UTF-32.

    Raises:
        UserError: missing, unreadable, cut short or not JSON.
    """
    raw = _read_bytes(path)
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        found = f"not valid JSON at line {error.lineno}, column {error.colno} ({error.msg})."
        text = error.doc.rstrip()
        if error.pos >= len(text) or text[-1] not in "}]":
            found = f"JSON that is cut short after {len(error.doc)} characters."
        raise UserError(
            found,
            path=path,
            remedy="Export it again, or copy it again completely.",
            kind=_DAMAGED,
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"not a JSON text ({error}).",
            path=path,
            remedy="Save it as UTF-8, or export it again.",
            kind=_DAMAGED,
        ) from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise UserError(
            "no such file." if missing else f"can't be read: {error.strerror or error}.",
            path=path,
            remedy="Export again, or check the file's permissions.",
            kind="unreadable files",
        ) from None


def read_head(path: Path) -> str:
    """The first 64 KiB of a file as text; empty if it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def peek(path: Path) -> str:
    """The first and the last 64 KiB of a text file; empty if it can't be read."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD)
            rest = file.seek(0, 2) - len(start)
            file.seek(-min(_HEAD, rest), 2)
            return (start + file.read()).decode("utf-8", "replace")
    except OSError:
        return ""


def peek_json(path: Path) -> Any:
    """Parse a JSON file of up to 16 MiB; None for a larger or invalid one."""
    try:
        return read_json(path) if path.stat().st_size <= _MAX_PEEKED else None
    except (UserError, OSError):
        return None


def typed(value: object, kind: type[_T], where: Path | str) -> _T:
    """Return a value of a JSON file if it has the type; raise UserError otherwise.

    Args:
        value: of the file.
        kind: dict, list, str, int or float, which integers are too.
        where: its file and key, for messages.
    """
    if not _has_type(value, kind):
        raise UserError(f"found {shown(value)}, expected {_TYPES[kind]}.", path=where)
    return value


def member(parent: object, key: str, kind: type[_T], where: Path | str) -> _T:
    """The value of a key of a JSON object.

    Args:
        parent: the object.
        key: name of the value.
        kind: dict, list, str, int or float, which integers are too.
        where: the file and the key of the parent, for messages.

    Raises:
        UserError: the parent is no object, has no such key, or the value is of another type.
    """
    if not isinstance(parent, dict):
        raise UserError(f"found {shown(parent)}, expected an object with {key!r}.", path=where)
    value = parent.get(key)
    if not _has_type(value, kind):
        found = shown(value) if key in parent else "nothing"
        raise UserError(f"{key}: found {found}, expected {_TYPES[kind]}.", path=where)
    return value


def finite(parent: object, key: str, where: Path | str) -> float:
    """The number of a key of a JSON object; raise UserError for anything but a finite number."""
    value = member(parent, key, float, where)
    if not abs(value) < _LARGEST:
        raise UserError(f"{key}: found {shown(value)}, expected a finite number.", path=where)
    return float(value)


def shown(value: object) -> str:
    """A value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _has_type(value: object, kind: type) -> bool:
    kinds = (int, float) if kind is float else kind
    return isinstance(value, kinds) and not isinstance(value, bool)
