"""What the commands show in a terminal: the summary before a run, its progress, the score."""

from __future__ import annotations

import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, ConsoleRenderable, RenderHook
from rich.control import Control
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from segcoord.errors import UserError
from segcoord.files import GrowingFile

if TYPE_CHECKING:
    from segcoord.metrics import Scores

console = Console(highlight=False, soft_wrap=True, markup=False)  # names come from files

PLAIN_INTERVAL = 30.0  # seconds between lines where the output is a file and shows no bar
LOG_WIDTH = 100  # of tables in log.txt, in characters


class RunLog(RenderHook):
    """What the console prints while this is a context, and the error that ends it, as plain text.

    It is kept in memory until `write_to` says where the run's folder is, and then written line by
    line. Bars and colours are left out. What a full disk refuses is written later.
    """

    def __init__(self) -> None:
        self.text = StringIO()
        self.plain = Console(
            file=self.text, width=LOG_WIDTH, color_system=None, highlight=False, markup=False
        )
        self.file: GrowingFile | None = None
        self.warned = False

    def __enter__(self) -> RunLog:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.text.write(f"# {now} {shlex.join(sys.argv)}\n")
        console.push_render_hook(self)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        console.pop_render_hook()
        if isinstance(error, UserError):
            self.text.write(f"error: {error}\n")
        elif error is not None:
            self.text.write("".join(traceback.format_exception(error)))
        self._write()

    def write_to(self, path: Path) -> None:
        """Appends to this file what was printed so far and what will be."""
        self.file = GrowingFile(path)
        self._write()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Called by rich with what is about to be printed, before it adds the bars."""
        told = [each for each in renderables if not isinstance(each, Control)]
        if told:
            self.plain.print(*told, sep="", soft_wrap=True)
            self._write()
        return renderables

    def _write(self) -> None:
        if self.file is None:
            return
        new = "\n".join(line.rstrip() for line in self.text.getvalue().split("\n"))
        self.text.seek(0)
        self.text.truncate()
        try:
            self.file.add(new.encode())
        except OSError as error:
            if not self.warned:
                self.warned = True
                reason = error.strerror or error
                console.print(f"log.txt: not written, but all goes on: {reason}", style="bold red")


def counting_bar(**kwargs: object) -> Progress:
    """A bar over things that are counted, with the time left."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, **kwargs)


@contextmanager
def counted(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, or now and then a line where there is no terminal.

    Yields what is to be called with the number of things done, first with those that were before.

    Args:
        what: is counted.
        total: how many there are; None where that isn't known.
    """
    began = last = time.monotonic()
    before: int | None = None
    with counting_bar() as bar:
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
                console.print(f"{what}: {done}/{total}  left {clock(left)}")

        yield tell


class TrainingBar:
    """Step, loss, learning rate, mIoU and time left; plain lines where there is no terminal."""

    def __init__(
        self, max_steps: int, start: int, val_images: int, headline: str, best: float
    ) -> None:
        self.max_steps, self.start, self.val_images = max_steps, start, val_images
        self.headline, self.best = headline, best  # best: below 0 before the first validation
        self.loss: float | None = None
        self.lr = 0.0
        self.last_line = self.began = time.monotonic()
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=120,
        )

    def __enter__(self) -> TrainingBar:
        self.progress.start()
        self.steps = self.progress.add_task(
            "train", total=self.max_steps, completed=self.start, info=""
        )
        self.validation = self.progress.add_task(
            "validate", total=self.val_images, visible=False, info=""
        )
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def step(self, step: int, loss: float, lr: float) -> None:
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        self.lr = lr
        info = self._info()
        self.progress.update(self.steps, completed=step, info=info)
        now = time.monotonic()
        if not console.is_terminal and now - self.last_line > PLAIN_INTERVAL:
            self.last_line = now
            left = (now - self.began) / (step - self.start) * (self.max_steps - step)
            console.print(f"step {step}/{self.max_steps}  {info}  left {clock(left)}")

    def _info(self) -> str:
        info = "" if self.loss is None else f"loss {self.loss:.3f}  lr {self.lr:.1e}"
        return info if self.best < 0 else f"{info}  {spelled(self.headline)} {self.best:.4f}"

    def advance_validation(self, images: int = 1) -> None:
        self.progress.update(self.validation, visible=True, advance=images)

    def validated(self, step: int, scores: dict[str, float], best: float) -> None:
        """Prints the scores of a validation, the headline first."""
        self.best = best
        self.progress.update(self.validation, visible=False, completed=0)
        self.progress.update(self.steps, info=self._info())
        told = [f"{spelled(name)} {value:.4f}" for name, value in scores.items()]
        told[0] += "  (best)" if scores[self.headline] >= best else ""
        console.print(f"step {step}: {', '.join(told)}")


def spelled(score: str) -> str:
    """A score's column as one reads it."""
    return {"miou": "mIoU", "top1": "top-1", "top5": "top-5"}.get(score, score.replace("_", " "))


def show_pairs(title: str, pairs: list[tuple[str, str]]) -> None:
    """A two-column table of what a run is about."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for pair in pairs:
        table.add_row(*pair)
    console.print(table)


def show_scores(scores: Scores, names: list[str], images: int, how: str = "") -> None:
    """IoU by class and the headline numbers, in percent; `how` names what is not the default."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for head in ("IoU %", "accuracy %", "pixels %"):
        table.add_column(head, justify="right")
    share = scores.truth / max(1, scores.truth.sum())
    for name, iou, accuracy, part in zip(names, scores.iou, scores.accuracy, share):
        table.add_row(name, _percent(iou), _percent(accuracy), _percent(part))
    console.print(table)
    absent = [names[i] for i in scores.absent]
    left_out = f" (absent and left out: {', '.join(absent)})" if absent else ""
    console.print(
        f"\nmIoU {_percent(scores.miou)} % over {scores.classes_counted} of {len(names)} classes"
        f"{left_out}, {images} images{', ' if how else ''}{how}\n"
        f"frequency-weighted IoU {_percent(scores.frequency_weighted_iou)} %, "
        f"pixel accuracy {_percent(scores.pixel_accuracy)} %, "
        f"mean accuracy {_percent(scores.mean_accuracy)} %"
    )


def show_cityscapes(scores: dict) -> None:
    """What Cityscapes' own tool prints besides, in percent, of `CityscapesScores.to_plain`."""
    for head in ("classes", "categories"):
        rows = scores.get(head, [])
        table = Table(head, box=None, pad_edge=False)
        columns = [c for c in ("iou", "iiou") if rows and c in rows[0]]
        for column in columns:
            table.add_column({"iou": "IoU %", "iiou": "iIoU %"}[column], justify="right")
        for row in rows:
            table.add_row(row["name"], *(_percent(row[c]) for c in columns))
        if rows:
            console.print()
            console.print(table)
    summary = f"\ncategory mIoU {_percent(scores['category_miou'])} %"
    if "iiou" in scores:
        summary += f", mean iIoU {_percent(scores['iiou'])} % over classes"
        summary += f" and {_percent(scores['category_iiou'])} % over categories"
    console.print(summary)


def _percent(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{100 * value:.2f}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
