"""Terminal output: the shared console, progress bars, number formats."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

console = Console(highlight=False, soft_wrap=True, markup=False)  # file names may look like markup
PLAIN_INTERVAL = 30.0  # seconds between progress lines when the output is not a terminal


def progress_bar(**kwargs: object) -> Progress:
    """A progress bar with a count and the remaining time."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, **kwargs)


@contextmanager
def progress_counter(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a callback that takes the number of items done.

    Shows a progress bar, or prints a line every PLAIN_INTERVAL when the output is not a terminal.
    The first call sets the start: items done in an earlier session don't count for the speed.

    Args:
        description: shown before the bar.
        total: number of items; None if unknown.
    """
    start_time = last_line = time.monotonic()
    start: int | None = None
    with progress_bar() as bar:
        task = bar.add_task(description, total=total)

        def update(done: int) -> None:
            nonlocal start, last_line
            start = done if start is None else start
            bar.update(task, completed=done)
            now = time.monotonic()
            if console.is_terminal or now - last_line <= PLAIN_INTERVAL or done <= start:
                return
            last_line = now
            if total is None:
                console.print(f"{description}: {done}")
            else:
                left = (now - start_time) / (done - start) * (total - done)
                console.print(f"{description}: {done}/{total}  left {format_duration(left)}")

        yield update


def score_title(score: str) -> str:
    """Name of a column of metrics.csv for display: "miou" -> "mIoU"."""
    titles = {"miou": "mIoU", "top1": "top-1", "top5": "top-5"}
    titles |= {"foreground_iou": "foreground IoU", "foreground_dice": "foreground Dice"}
    return titles.get(score, score.replace("_", " "))


def print_pairs(title: str, pairs: list[tuple[str, str]]) -> None:
    """Print a two-column table of names and values."""
    style = {"title_justify": "left", "show_header": False, "box": None, "pad_edge": False}
    table = Table(Column(style="dim"), Column(), title=title, **style)
    for pair in pairs:
        table.add_row(*pair)
    console.print(table)


def format_percent(value: float | None) -> str:
    """A fraction as percent with two decimals; "-" for None and NaN."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def format_duration(seconds: float) -> str:
    """Seconds as H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
