"""What the commands show in a terminal: the summary before a run, its progress, the score."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    pass

console = Console(highlight=False, soft_wrap=True, markup=False)  # names come from files
PLAIN_INTERVAL = 30.0  # seconds between lines where the output is a file and shows no bar


def progress_bar(**kwargs: object) -> Progress:
    """A bar over things that are counted, with the time left."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, **kwargs)


@contextmanager
def progress_counter(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, or now and then a line where there is no terminal.

    Yields what is to be called with the number of things done, first with those that were before.

    Args:
        what: is counted.
        total: how many there are; None where that isn't known.
    """
    began = last = time.monotonic()
    before: int | None = None
    with progress_bar() as bar:
        task = bar.add_task(what, total=total)

        def tell(done: int) -> None:
            nonlocal before, last
            before = done if before is None else before
            bar.update(task, completed=done)
            now = time.monotonic()
            if not console.is_terminal and now - last > PLAIN_INTERVAL and done > before:
                last = now
                if total is None:
                    console.print(f"{what}: {done}")
                    return
                left = (now - began) / (done - before) * (total - done)
                console.print(f"{what}: {done}/{total}  left {format_duration(left)}")

        yield tell


def score_title(score: str) -> str:
    """A score's column as one reads it."""
    return {"miou": "mIoU", "top1": "top-1", "top5": "top-5"}.get(score, score.replace("_", " "))


def print_pairs(title: str, pairs: list[tuple[str, str]]) -> None:
    """A two-column table of what a run is about."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for pair in pairs:
        table.add_row(*pair)
    console.print(table)


def format_percent(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
