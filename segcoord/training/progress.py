"""The progress bar of a training run."""

from __future__ import annotations

import time

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from segcoord.utils.console import PLAIN_INTERVAL, console, format_duration, score_title


class TrainingBar:
    """Step, smoothed loss, learning rate, best score and time left; plain lines without a terminal.

    `headline` is the score that selects best.ckpt; `best` is below 0 before the first validation.
    """

    def __init__(
        self, max_steps: int, start: int, val_images: int, headline: str, best: float
    ) -> None:
        self.max_steps, self.start, self.val_images = max_steps, start, val_images
        self.headline, self.best = headline, best
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

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def step(self, step: int, loss: float, lr: float) -> None:
        """Advance to a step with its loss and learning rate."""
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        self.lr = lr
        info = self._info()
        self.progress.update(self.steps, completed=step, info=info)
        now = time.monotonic()
        if not console.is_terminal and now - self.last_line > PLAIN_INTERVAL:
            self.last_line = now
            left = (now - self.began) / (step - self.start) * (self.max_steps - step)
            console.print(f"step {step}/{self.max_steps}  {info}  left {format_duration(left)}")

    def _info(self) -> str:
        info = "" if self.loss is None else f"loss {self.loss:.3f}  lr {self.lr:.1e}"
        return info if self.best < 0 else f"{info}  {score_title(self.headline)} {self.best:.4f}"

    def advance_validation(self, images: int = 1) -> None:
        """Advance the validation bar."""
        self.progress.update(self.validation, visible=True, advance=images)

    def validated(self, step: int, scores: dict[str, float], best: float) -> None:
        """Print the scores of a validation, the headline first; `best` includes this validation."""
        mark = "  (best)" if best > self.best else ""
        if not mark and scores[self.headline] == best:
            mark = "  (ties the best)"
        self.best = best
        self.progress.update(self.validation, visible=False, completed=0)
        self.progress.update(self.steps, info=self._info())
        shown = [f"{score_title(name)} {value:.4f}" for name, value in scores.items()]
        shown[0] += mark
        console.print(f"step {step}: {', '.join(shown)}")
