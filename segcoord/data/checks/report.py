"""Show class statistics and findings in the terminal, or write them as JSON."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from segcoord.config.base import split_parts
from segcoord.config.schema import DataConfig
from segcoord.data.checks.findings import Finding, group_findings, only_errors
from segcoord.data.checks.split import SplitCheck
from segcoord.data.labels import CITYSCAPES, VOC
from segcoord.data.pack.reader import describe_left_out
from segcoord.data.split import Split
from segcoord.utils.console import console
from segcoord.utils.files import write_json

# Number of images by split: VOC 2012 development kit; trainaug adds SBD; cityscapes-dataset.com.
PUBLISHED = (
    (VOC, {"train": 1464, "val": 1449, "trainval": 2913, "test": 1456, "trainaug": 10582}),
    (CITYSCAPES, {"train": 2975, "val": 500, "test": 1525}),
)
_MAX_PRINTED = 3  # files of each group of findings
_STYLES = {"error": "bold red", "warning": "yellow"}


def print_split_tables(splits: Sequence[Split], checks: Sequence[SplitCheck]) -> None:
    """Print a table of classes by split, and a summary line per split."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for split in splits:
        table.add_column(f"{split.name}: images", justify="right")
        table.add_column("pixels %", justify="right")
    for index, name in enumerate(splits[0].labels.names):
        row = [name]
        for check in checks:
            percent = 100 * check.pixels[index] / max(1, check.pixels.sum())
            row += [str(check.images[index]), f"{percent:.2f}"]
        table.add_row(*row)
    console.print(table)
    for split, check in zip(splits, checks):
        void = f"void {100 * _void_fraction(check):.2f} %" if split.labelled else "no labels"
        console.print(
            f"{split.name}: {len(split)} images{_published(split)}, {_sizes(check)}, {void}"
            f"{describe_left_out(split)}"
        )


def print_findings(findings: Sequence[Finding]) -> None:
    """Print each group of findings: their number, the first ones, the remedy."""
    for group in group_findings(findings):
        first = group[0]
        number = f" ({len(group)})" if len(group) > 1 else ""
        heading = f"\n{first.level}, {first.split}: {first.kind}{number}"
        console.print(heading, style=_STYLES[first.level])
        for finding in group[:_MAX_PRINTED]:
            console.print(f"  {replace(finding, remedy='')}")
        if len(group) > _MAX_PRINTED:
            console.print(f"  ... and {len(group) - _MAX_PRINTED} more")
        if first.remedy:
            console.print(f"  -> {first.remedy}")


def write_report(
    path: Path,
    data: DataConfig,
    splits: Sequence[Split],
    checks: Sequence[SplitCheck],
    findings: Sequence[Finding],
) -> None:
    """Write {"ok", "errors", "warnings", "layout", "root", "splits": [...], "findings": [...]}.

    A class's "share" is its fraction of the labeled pixels, "void_share" is that of all pixels.
    """
    errors = len(only_errors(findings))
    report = {
        "ok": not errors,
        "errors": errors,
        "warnings": len(findings) - errors,
        "layout": data.layout,
        "root": data.root,
        "splits": [_describe_split(split, check) for split, check in zip(splits, checks)],
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


def _describe_split(split: Split, check: SplitCheck) -> dict:
    labeled = int(check.pixels.sum())
    classes = zip(split.labels.classes, check.pixels.tolist(), check.images.tolist())
    return {
        "name": split.name,
        "images": len(split),
        "published_images": _published_images(split),
        "labelled": split.labelled,
        "unusable": check.unusable,
        "sizes": {f"{w}x{h}": n for (w, h), n in sorted(check.sizes.items())},
        "void_pixels": check.void,
        "void_share": _void_fraction(check),
        "classes": [
            {
                "name": c.name,
                "id": c.id_or_ids,
                "pixels": pixels,
                "share": pixels / max(1, labeled),
                "images": images,
            }
            for c, pixels, images in classes
        ],
    }


def _void_fraction(check: SplitCheck) -> float:
    return check.void / max(1, check.void + int(check.pixels.sum()))


def _sizes(check: SplitCheck) -> str:
    if not check.sizes:
        return "unknown sizes"
    by_area = [f"{w}x{h}" for w, h in sorted(check.sizes, key=lambda size: size[0] * size[1])]
    if len(by_area) == 1:
        return f"all {by_area[0]}"
    return f"{len(by_area)} sizes from {by_area[0]} to {by_area[-1]}"


def _published(split: Split) -> str:
    """Compare the number of images with that of the published dataset, if it is known."""
    expected = _published_images(split)
    if expected is None:
        return ""
    return " (as published)" if len(split) == expected else f" (the published split has {expected})"


def _published_images(split: Split) -> int | None:
    counts = next((counts for labels, counts in PUBLISHED if split.labels == labels), {})
    numbers = [counts.get(part) for part in split_parts(split.name)]
    return None if None in numbers else sum(numbers)
