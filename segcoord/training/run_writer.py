"""What a run writes besides its settings and checkpoints: metrics, curves, images, loggers.

No failed write ends a training. Each kind of file that can't be written, for example on a full
disk, gives one warning; metrics.csv and TensorBoard catch up when there is space again.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
from PIL import Image

from segcoord.config.schema import ClassificationConfig, SegmentationConfig
from segcoord.training.loggers import Logger, open_loggers
from segcoord.training.plot import write_plot
from segcoord.training.run_dir import read_metrics
from segcoord.training.tensorboard import EventFile
from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import AppendOnlyFile, atomic_write

PLOT_INTERVAL = 30.0  # seconds between updates of plot.png
PLOT_PAUSE = 200  # but at least this many times the duration of the latest update


class RunWriter:
    """Writes the files of one session of a run; use it as a context manager around the training.

    Args:
        run: the run folder.
        config: configuration of the run.
        scores: columns of a validation, the one that selects best.ckpt first.
        step: step of the state to resume from; later rows and events are dropped.
        validated: step of the state's latest validation.
        enabled: False writes nothing; set in all processes but the main one.
    """

    def __init__(
        self,
        run: Path,
        config: SegmentationConfig | ClassificationConfig,
        scores: Sequence[str],
        step: int,
        validated: int,
        enabled: bool = True,
    ) -> None:
        self.run, self.config, self.enabled = run, config, enabled
        self.headline = scores[0]
        self.warned: set[str] = set()
        self.loggers: dict[str, Logger] = {}
        if not enabled:
            return
        self.metrics = MetricsFile(run / "metrics.csv", scores, step, validated)
        self.events = EventFile(run / "tensorboard", step + 1)
        self.next_plot = time.monotonic() + PLOT_INTERVAL
        for path in (run / "predictions").glob("step_*.jpg"):
            image_step = path.stem.removeprefix("step_")
            if image_step.isdigit() and int(image_step) > validated:
                path.unlink()

    def __enter__(self) -> RunWriter:
        if self.enabled:
            names = self.config.train.loggers
            self.loggers = open_loggers(names, self.run, asdict(self.config))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.enabled:
            self._plot()
            for name, logger in self.loggers.items():
                self._write(name, partial(logger.finish, failed=error is not None))

    def add(self, step: int, epoch: float, seconds: float, values: dict[str, float]) -> None:
        """Add a row: optimizer steps, passes over the training images, training time and values."""
        if not self.enabled:
            return
        row = {"step": step, "epoch": f"{epoch:.3f}", "seconds": f"{seconds:.1f}"}
        row |= {name: f"{value:.6g}" for name, value in values.items()}
        self._write("metrics.csv", lambda: self.metrics.add(row))
        self._write("tensorboard", lambda: self.events.add_scalars(step, values))
        for name, logger in self.loggers.items():
            self._write(name, partial(logger.log, step, values))
        if time.monotonic() > self.next_plot:
            self._plot()

    def add_examples(self, step: int, draw: Callable[[], np.ndarray | None]) -> None:
        """Write predictions/step_STEP.jpg, unless `draw` returns None instead of an RGB image."""
        if not self.enabled or (image := draw()) is None:
            return
        encoded = BytesIO()
        Image.fromarray(image).save(encoded, "JPEG", quality=90, subsampling=0)
        jpeg, size = encoded.getvalue(), image.shape[:2]
        path = self.run / "predictions" / f"step_{step:06d}.jpg"
        self._write("predictions", lambda: _write_bytes(path, jpeg))
        self._write("tensorboard", lambda: self.events.add_image(step, "predictions", jpeg, size))

    def _plot(self) -> None:
        began = time.monotonic()
        self._write("plot.png", lambda: write_plot(self.run, self.config, self.headline))
        now = time.monotonic()
        self.next_plot = now + max(PLOT_INTERVAL, PLOT_PAUSE * (now - began))

    def _write(self, name: str, write: Callable[[], None]) -> None:
        # An unreachable logger raises exceptions of its own types.
        errors = (Exception,) if name in self.loggers else (OSError, UserError)
        try:
            write()
        except errors as error:
            if name not in self.warned:
                self.warned.add(name)
                reason = getattr(error, "strerror", None) or error
                console.print(f"{name}: can't be written, continuing: {reason}", style="bold red")


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


class MetricsFile:
    """metrics.csv, row by row; a resumed run first drops the rows after its state.

    Raises:
        UserError: the existing file is not a table of metrics.
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
                f"{path}: not the metrics of a run ({type(error).__name__} {error}). Move it away "
                "to resume the run without its earlier rows."
            ) from error
        self.file = AppendOnlyFile(path)

    def add(self, row: dict[str, object]) -> None:
        """Append a row; an OSError means that the next call writes it."""
        line = StringIO(newline="")
        csv.DictWriter(line, self.columns).writerow(row)
        self.file.add(line.getvalue().encode())
