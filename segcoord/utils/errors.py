"""The one exception for mistakes that a user can mend; the commands print it in words."""

from __future__ import annotations

from pathlib import Path


class UserError(Exception):
    """Something outside the code is wrong: a file, a setting, an argument.

    The message says what was found, where, what was expected and what to do.

    Args:
        message: all of that; or only what was found and expected, where the rest is given apart,
            so that files with the same mistake can be listed together.
        path: the file that is wrong, which then begins the text.
        remedy: what to do, which then ends it.
        kind: of mistake, in a few words; not part of the text.
    """

    def __init__(
        self, message: str, *, path: Path | str | None = None, remedy: str = "", kind: str = ""
    ) -> None:
        where = "" if path is None else f"{path}: "
        super().__init__(f"{where}{message} {remedy}" if remedy else f"{where}{message}")
        self.found, self.path, self.remedy, self.kind = message, path, remedy, kind
