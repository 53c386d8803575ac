"""What a check finds: one file's mistake each, listed with those that need the same remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from segcoord.utils.errors import UserError
from segcoord.utils.text import first_lines

SHOWN = 10  # mistakes named in one error


@dataclass(frozen=True)
class Finding:
    """A mistake, or something to know.

    Args:
        level: error where a training would stop or be wrong, warning otherwise.
        kind: what findings of its kind are called.
        split: where it is.
        found: what is there and what was expected.
        remedy: what to do.
        path: of the file, with the line in a list; None where it is the split's as a whole.
    """

    level: Literal["error", "warning"]
    kind: str
    split: str
    found: str
    remedy: str
    path: str | None = None

    @classmethod
    def of(cls, error: UserError, split: str) -> Finding:
        path = None if error.path is None else str(error.path)
        kind = error.kind or "a split that can't be read"
        return cls("error", kind, split, error.found, error.remedy, path)

    def __str__(self) -> str:
        where = "" if self.path is None else f"{self.path}: "
        return f"{where}{self.found} {self.remedy}".rstrip()


def only_errors(findings: Iterable[Finding]) -> list[Finding]:
    return [f for f in findings if f.level == "error"]


def group_findings(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Those of the same split, kind and remedy together, errors first, else in their order."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.level, finding.split, finding.kind, finding.remedy)
        groups.setdefault(key, []).append(finding)
    return sorted(groups.values(), key=lambda group: group[0].level)  # "error" < "warning"


def first_findings(found: Sequence[Finding]) -> str:
    """The first ones, a line each, and how many more there are."""
    return first_lines(found, SHOWN)
