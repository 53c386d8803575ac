"""What a dataset holds, checked and shown in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from segcoord.config import DataConfig
from segcoord.console import console, counting_bar
from segcoord.data.check import SplitCheck, check_split
from segcoord.data.layouts import Split
from segcoord.errors import UserError
from segcoord.labels import CITYSCAPES, VOC

# Images by split: VOC 2012 development kit; 10582 with SBD's; cityscapes-dataset.com.
PUBLISHED = (
    (VOC, {"train": 1464, "val": 1449, "trainval": 2913, "test": 1456, "trainaug": 10582}),
    (CITYSCAPES, {"train": 2975, "val": 500, "test": 1525}),
)


def require_labels(splits: Sequence[Split], checks: Sequence[SplitCheck], data: DataConfig) -> None:
    for split, check in zip(splits, checks):
        if not check.pixels.any():
            found = "only void in its masks" if split.labelled else "no masks"
            raise UserError(
                f"split {split.name!r} of {data.root} has {found}, to train on or to score; "
                "see data/README.md for the folder where they belong"
            )


def check(split: Split) -> SplitCheck:
    with counting_bar() as bar:
        task = bar.add_task(f"check {split.name}", total=len(split))
        return check_split(split, lambda: bar.advance(task))


def show_data(splits: Sequence[Split], checks: Sequence[SplitCheck]) -> None:
    from rich.table import Table

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
        void = 100 * check.void / max(1, check.void + check.pixels.sum())
        has = f"void {void:.2f} %" if split.labelled else "no labels"
        console.print(f"{split.name}: {len(split)} images{_published(split)}, {has}")
    shared = {s.image for s in splits[0].samples} & {s.image for s in splits[-1].samples}
    if len(splits) > 1 and shared:
        console.print(
            f"{len(shared)} images are in both splits: a score on them is no score.",
            style="bold red",
        )


def _published(split: Split) -> str:
    """For the datasets whose size is known, whether this is all of it."""
    known = next((counts for labels, counts in PUBLISHED if split.labels == labels), {})
    expected = known.get(split.name)
    if expected is None:
        return ""
    return " (as published)" if len(split) == expected else f" (the published split has {expected})"
