"""One finding per mistake, grouped by what has to be done about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from segcoord.utils.errors import UserError

MAX_LISTED = 10  # files listed in one error


@dataclass(frozen=True)
class Finding:
    """An error or a warning about a dataset."""

    level: Literal["error", "warning"]  # error: training would fail or be wrong
    kind: str  # heading for all findings of this kind
    split: str  # name of the split, or of both
    found: str  # what was found and what was expected
    remedy: str  # what to do
    path: str | None = None  # the file, with the line in a list; None for the split as a whole

    @classmethod
    def from_error(cls, error: UserError, split: str) -> Finding:
        path = None if error.path is None else str(error.path)
        is_setting = error.found.startswith("data.")
        kind = error.kind or ("wrong settings" if is_setting else "unreadable splits")
        return cls("error", kind, split, error.found, error.remedy, path)

    def __str__(self) -> str:
        where = "" if self.path is None else f"{self.path}: "
        return f"{where}{self.found} {self.remedy}".rstrip()


def only_errors(findings: Iterable[Finding]) -> list[Finding]:
    return [f for f in findings if f.level == "error"]


def group_findings(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Group findings of the same split, kind and remedy, errors first, otherwise in given order."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.level, finding.split, finding.kind, finding.remedy)
        groups.setdefault(key, []).append(finding)
    return sorted(groups.values(), key=lambda group: group[0].level)  # "error" < "warning"
