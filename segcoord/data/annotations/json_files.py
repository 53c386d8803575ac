"""Read JSON files, and look at the start of large ones."""

import json
from pathlib import Path

from segcoord.utils.errors import UserError

_PEEK = 1 << 16  # bytes


def peek(path: Path) -> str:
    """The first and the last 64 KiB of a text file; empty if it can't be read."""
    try:
        with path.open("rb") as file:
            start = file.read(_PEEK)
            rest = file.seek(0, 2) - len(start)
            file.seek(-min(_PEEK, rest), 2)
            return (start + file.read()).decode("utf-8", "replace")
    except OSError:
        return ""


def read_json(path: Path) -> object:
    """Parse a JSON file in UTF-8, UTF-16 or UTF-32.

    Raises:
        UserError: missing, unreadable, cut short or not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"can't be read: {error.strerror or error}.",
            path=path,
            remedy="Export again, or check the file's permissions.",
            kind="unreadable JSON files",
        ) from None
    except json.JSONDecodeError as error:
        found = f"not valid JSON at line {error.lineno}, column {error.colno} ({error.msg})."
        if error.doc.rstrip()[-1:] not in ("}", "]"):
            found = f"JSON that is cut short after {len(error.doc)} characters."
        raise UserError(
            found,
            path=path,
            remedy="Export it again, or copy it again completely.",
            kind="damaged JSON files",
        ) from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"not a JSON text ({error}).",
            path=path,
            remedy="Save it as UTF-8, or export it again.",
            kind="damaged JSON files",
        ) from None
