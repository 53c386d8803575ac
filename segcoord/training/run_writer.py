"""All that a run writes besides its settings and checkpoints: numbers, curves, pictures.

Nothing here can end a training. What can't be written, on a full disk say, is a warning, once for
each file; metrics.csv and TensorBoard's file make up for it when there is space again.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from io import BytesIO, StringIO
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from segcoord.config.schema import ClassificationConfig, Config
from segcoord.training.loggers import Loggers
from segcoord.training.plot import write_plot
from segcoord.training.run_dir import read_metrics
from segcoord.training.tensorboard import EventFile
from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import AppendOnlyFile, atomic_write

PLOT_INTERVAL = 30.0  # seconds between two drawings of plot.png, and more where drawing is slow
PLOT_SHARE = 200  # a drawing is followed by so many times what it took


class RunWriter:
    """What one session of a run writes, from its state on; with it as a context, the training runs.

    Args:
        run: the run's folder.
        config: of the run.
        scores: the columns of a validation, the one that decides about best.ckpt first.
        step: the state's step; what an earlier session wrote after it is dropped.
        validated: the state's last validation.
        enabled: False to write nothing, as all processes but the first of several do.
    """

    def __init__(
        self,
        run: Path,
        config: Config | ClassificationConfig,
        scores: Sequence[str],
        step: int,
        validated: int,
        enabled: bool = True,
    ) -> None:
        self.run, self.config, self.enabled = run, config, enabled
        self.headline = scores[0]
        self.warned: set[str] = set()
        self.loggers: Loggers | None = None
        if not enabled:
            return
        self.metrics = MetricsFile(run / "metrics.csv", scores, step, validated)
        self.events = EventFile(run / "tensorboard", step + 1)
        self.next_plot = time.monotonic() + PLOT_INTERVAL
        for path in (run / "predictions").glob("step_*.jpg"):
            number = path.stem.removeprefix("step_")
            if number.isdigit() and int(number) > validated:
                path.unlink()

    def __enter__(self) -> RunWriter:
        if self.enabled:
            settings = self.config.train
            self.loggers = Loggers(settings.loggers, self.run, asdict(self.config))
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.enabled:
            self._plot()
            for name in self.loggers.each:
                self._send(name, lambda name=name: self.loggers.finish(name, error is not None))

    def add(self, step: int, epoch: float, seconds: float, values: dict[str, float]) -> None:
        """Adds a row of numbers.

        Args:
            step: optimiser steps done.
            epoch: passes over the training images, with a fraction.
            seconds: spent in training so far.
            values: loss and learning rate, or scores.
        """
        if not self.enabled:
            return
        row = {"step": step, "epoch": f"{epoch:.3f}", "seconds": f"{seconds:.1f}"}
        row |= {name: f"{value:.6g}" for name, value in values.items()}
        self._write("metrics.csv", lambda: self.metrics.add(row))
        self._write("tensorboard", lambda: self.events.scalars(step, values))
        for name, logger in self.loggers.each.items():
            self._send(name, lambda logger=logger: logger.log_metrics(values, step=step))
        if time.monotonic() > self.next_plot:
            self._plot()

    def add_examples(self, step: int, draw: Callable[[], np.ndarray | None]) -> None:
        """Writes predictions/step_STEP.jpg.

        Args:
            step: optimiser steps done.
            draw: returns (H, W, 3) uint8 RGB, or None where there is nothing to draw.
        """
        if not self.enabled or (picture := draw()) is None:
            return
        encoded = BytesIO()
        Image.fromarray(picture).save(encoded, "JPEG", quality=90, subsampling=0)
        jpeg = encoded.getvalue()
        path = self.run / "predictions" / f"step_{step:06d}.jpg"
        self._write("predictions", lambda: _write_bytes(path, jpeg))
        show = ("predictions", jpeg, picture.shape[:2])
        self._write("tensorboard", lambda: self.events.picture(step, *show))

    def _plot(self) -> None:
        began = time.monotonic()
        self._write("plot.png", lambda: write_plot(self.run, self.config, self.headline))
        now = time.monotonic()
        self.next_plot = now + max(PLOT_INTERVAL, PLOT_SHARE * (now - began))

    def _write(self, what: str, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, UserError) as error:
            self._warn(what, error)

    def _send(self, what: str, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:  # of a service that is out of reach: none of ours to name
            self._warn(what, error)

    def _warn(self, what: str, error: Exception) -> None:
        if what in self.warned:
            return
        self.warned.add(what)
        reason = getattr(error, "strerror", None) or error
        console.print(f"{what}: not written, but the run goes on: {reason}", style="bold red")


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


class MetricsFile:
    """metrics.csv, a row at a time; a run that goes on first drops what came after its state.

    Args:
        path: of the file.
        scores: the columns of a validation.
        step: the state's step.
        validated: the state's last validation.

    Raises:
        UserError: there is another file under its name.
    """

    def __init__(self, path: Path, scores: Sequence[str], step: int, validated: int) -> None:
        self.columns = ["step", "epoch", "loss", "lr", *scores, "seconds"]
        kept = []
        try:
            for row in read_metrics(path) if path.exists() else ():
                last = validated if row[scores[0]] else step
                if row["step"].isdigit() and int(row["step"]) <= last:
                    kept.append(row)
            with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(kept)
        except (ValueError, KeyError, csv.Error) as error:
            raise UserError(
                f"{path}: not the table that a run writes ({type(error).__name__} {error}). Move "
                "it away, and the run goes on without the rows so far."
            ) from error
        self.file = AppendOnlyFile(path)

    def add(self, row: dict[str, object]) -> None:
        """Appends a row; OSError where the disk refuses, which the next call makes up for."""
        line = StringIO(newline="")
        csv.DictWriter(line, self.columns).writerow(row)
        self.file.add(line.getvalue().encode())
