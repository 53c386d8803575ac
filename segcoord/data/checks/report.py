"""What a dataset holds and what is wrong with it, in a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from rich.table import Table

from segcoord.config.schema import DataConfig
from segcoord.data.checks.cross_split import check_across_splits
from segcoord.data.checks.findings import Finding, first_findings, group_findings, only_errors
from segcoord.data.checks.split import SplitCheck, check_split, inspect_split
from segcoord.data.labels import CITYSCAPES, VOC
from segcoord.data.split import Split
from segcoord.utils.console import console, progress_counter
from segcoord.utils.errors import UserError
from segcoord.utils.files import write_json

# Images by split: VOC 2012 development kit; 10582 with SBD's; cityscapes-dataset.com.
PUBLISHED = (
    (VOC, {"train": 1464, "val": 1449, "trainval": 2913, "test": 1456, "trainaug": 10582}),
    (CITYSCAPES, {"train": 2975, "val": 500, "test": 1525}),
)
NAMED = 3  # files of each group of findings that the terminal shows
_STYLES = {"error": "bold red", "warning": "yellow"}


def check_split_with_progress(split: Split) -> SplitCheck:
    """`check_split` with a bar."""
    done = count(1)
    with progress_counter(f"check {split.name}", len(split)) as tell:
        return check_split(split, lambda: tell(next(done)))


def inspect_split_with_progress(split: Split) -> SplitCheck:
    """`inspect_split` of all content, with a bar."""
    done = count(1)
    with progress_counter(f"check {split.name}", len(split)) as tell:
        return inspect_split(split, lambda: tell(next(done)), content=True)


def check_for_training(splits: Sequence[Split], data: DataConfig) -> list[SplitCheck]:
    """The cheap part of the check, shown; it decodes masks and no images.

    Raises:
        UserError: the first mistakes, for which training would stop or be wrong.
    """
    checks = [check_split_with_progress(split) for split in splits]
    findings = check_across_splits(splits, checks, data.root)
    for group in group_findings(only_errors(findings)):
        raise UserError(first_findings(group))
    print_split_tables(splits, checks)
    print_findings([f for c in checks for f in c.findings] + findings)
    return checks


def print_split_tables(splits: Sequence[Split], checks: Sequence[SplitCheck]) -> None:
    """A table of the classes in each split, and a line for each split."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for split in splits:
        table.add_column(f"{split.name}: images", justify="right")
        table.add_column("pixels %", justify="right")
    for index, name in enumerate(splits[0].labels.names):
        row = [name]
        for check in checks:
            share = 100 * check.pixels[index] / max(1, check.pixels.sum())
            row += [str(check.images[index]), f"{share:.2f}"]
        table.add_row(*row)
    console.print(table)
    for split, check in zip(splits, checks):
        has = f"void {100 * _void_share(check):.2f} %" if split.labelled else "no labels"
        count = f"{split.name}: {len(split)} images{_published(split)}"
        console.print(f"{count}, {_sizes(check)}, {has}")


def print_findings(findings: Sequence[Finding]) -> None:
    """Those that need the same remedy together: how many, the first few, what to do."""
    for group in group_findings(findings):
        first = group[0]
        many = f" ({len(group)})" if len(group) > 1 else ""
        console.print(
            f"\n{first.level}, {first.split}: {first.kind}{many}", style=_STYLES[first.level]
        )
        for finding in group[:NAMED]:
            where = "" if finding.path is None else f"{finding.path}: "
            console.print(f"  {where}{finding.found}")
        if len(group) > NAMED:
            console.print(f"  ... and {len(group) - NAMED} more")
        if first.remedy:
            console.print(f"  -> {first.remedy}")


def write_report(
    path: Path,
    data: DataConfig,
    splits: Sequence[Split],
    checks: Sequence[SplitCheck],
    findings: Sequence[Finding],
) -> None:
    """Writes {"ok", "errors", "warnings", "layout", "root", "splits": [...], "findings": [...]}.

    Shares are fractions of 1: a class's of the labelled pixels, void's of all.
    """
    wrong = len(only_errors(findings))
    report = {
        "ok": not wrong,
        "errors": wrong,
        "warnings": len(findings) - wrong,
        "layout": data.layout,
        "root": data.root,
        "splits": [_plain(split, check) for split, check in zip(splits, checks)],
        "findings": [
            {
                "level": f.level,
                "kind": f.kind,
                "split": f.split,
                "file": f.path,
                "found": f.found,
                "remedy": f.remedy,
            }
            for f in findings
        ],
    }
    write_json(path, report)


def _plain(split: Split, check: SplitCheck) -> dict:
    labelled = int(check.pixels.sum())
    classes = zip(split.labels.classes, check.pixels.tolist(), check.images.tolist())
    return {
        "name": split.name,
        "images": len(split),
        "published_images": _expected(split),
        "labelled": split.labelled,
        "unusable": check.bad,
        "sizes": {f"{w}x{h}": n for (w, h), n in sorted(check.sizes.items())},
        "void_pixels": check.void,
        "void_share": _void_share(check),
        "classes": [
            {
                "name": c.name,
                "id": c.id,
                "pixels": pixels,
                "share": pixels / max(1, labelled),
                "images": images,
            }
            for c, pixels, images in classes
        ],
    }


def _void_share(check: SplitCheck) -> float:
    return check.void / max(1, check.void + int(check.pixels.sum()))


def _sizes(check: SplitCheck) -> str:
    if not check.sizes:
        return "no size known"
    (w, h), (wide, high) = min(check.sizes, key=_area), max(check.sizes, key=_area)
    if len(check.sizes) == 1:
        return f"all {w}x{h}"
    return f"{len(check.sizes)} sizes from {w}x{h} to {wide}x{high}"


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _published(split: Split) -> str:
    """For the datasets whose size is known, whether this is all of it."""
    expected = _expected(split)
    if expected is None:
        return ""
    return " (as published)" if len(split) == expected else f" (the published split has {expected})"


def _expected(split: Split) -> int | None:
    known = next((counts for labels, counts in PUBLISHED if split.labels == labels), {})
    return known.get(split.name)
