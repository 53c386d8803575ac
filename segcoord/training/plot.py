"""plot.png: the curves of a run, drawn from its metrics.csv."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d

from segcoord.config.schema import ClassificationConfig, SegmentationConfig
from segcoord.training.run_dir import read_metrics
from segcoord.utils.console import format_duration, score_title
from segcoord.utils.files import atomic_write
from segcoord.utils.fonts import figure_fonts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 2000  # of a curve; a longer one is averaged down to this many
INK, FAINT, GRID = "#2b2f36", "#8a919c", "#e6e8eb"
MARGINS = {"left": 0.075, "right": 0.985, "top": 0.9, "bottom": 0.08, "hspace": 0.25}
LOSS, RAW_LOSS, SCORE, LR = "#1f5fa8", "#c2d6ec", "#c8501e", "#5c7f3d"
LABEL = {"textcoords": "offset points", "fontsize": 9}


def write_plot(run: Path, config: SegmentationConfig | ClassificationConfig, score: str) -> None:
    """Write plot.png, unless metrics.csv is empty; `score` is the column that selects best.ckpt.

    Raises:
        UserError: the file can't be written.
    """
    rows = read_metrics(run / "metrics.csv")
    if rows:
        name = "/".join(run.resolve().parts[-2:])
        with figure_fonts([name]), atomic_write(run / "plot.png") as temporary:
            draw_curves(rows, config, score, name).canvas.print_png(temporary)


def draw_curves(
    rows: list[dict[str, str]],
    config: SegmentationConfig | ClassificationConfig,
    score: str,
    name: str,
) -> Figure:
    """Draw the loss, the score of each validation with the best one marked, and the learning rate.

    `rows` are at least one row of metrics.csv; `name` is the run's, for the title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    losses, lrs, scores = (_column(rows, name) for name in ("loss", "lr", score))
    figure = Figure(figsize=(9, 6.6), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, sharex=True, height_ratios=(4, 4, 1.3), gridspec_kw=MARGINS)
    _draw_loss(axes[0], *_downsample(*losses))
    _draw_score(axes[1], *scores, score_title(score))
    axes[2].plot(*_downsample(*lrs), color=LR, linewidth=1.4)
    axes[2].set_ylim(bottom=0)
    axes[2].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for axis, label in zip(axes, ("training loss", f"{score_title(score)} %", "learning rate")):
        axis.set_title(label, loc="left", fontsize=10, color=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(FAINT)
        axis.tick_params(colors=FAINT, labelcolor=INK, labelsize=9)
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.margins(x=0.01)
    axes[2].set_xlabel("step", fontsize=9, color=INK)
    axes[2].set_xlim(left=0)
    last = rows[-1]
    duration = format_duration(float(last["seconds"]))
    done = f"step {last['step']} of {config.train.max_steps}, {duration}"
    title = f"{name}   {config.model.encoder}   {done}"
    figure.suptitle(title, x=0.01, y=0.98, ha="left", fontsize=11, color=INK)
    return figure


def _column(rows: list[dict[str, str]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a column, each (n,) float64, where it has a finite number."""
    pairs = np.array([(row["step"], row[name]) for row in rows if row[name]], float)
    steps, values = pairs.reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def _downsample(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(steps) <= MAX_POINTS:
        return steps, values
    starts = np.linspace(0, len(steps), MAX_POINTS, endpoint=False).astype(int)
    sizes = np.diff(starts, append=len(steps))
    return tuple(np.add.reduceat(column, starts) / sizes for column in (steps, values))


def _draw_loss(axis, steps: np.ndarray, values: np.ndarray) -> None:
    if not len(steps):
        return
    smooth = gaussian_filter1d(values, sigma=max(1.0, len(values) / 80), mode="nearest")
    axis.plot(steps, values, color=RAW_LOSS, linewidth=1)
    axis.plot(steps, smooth, color=LOSS, linewidth=1.8)
    axis.set_ylim(0, 1.05 * max(np.quantile(values, 0.98), smooth[len(smooth) // 50]))
    end = (steps[-1], smooth[-1])
    axis.annotate(f"{smooth[-1]:.3f}", end, (-2, 8), ha="right", color=LOSS, **LABEL)


def _draw_score(axis, steps: np.ndarray, values: np.ndarray, name: str) -> None:
    if not len(steps):
        return
    values = 100 * values
    marker = "o" if len(steps) <= 60 else ""
    axis.plot(steps, values, color=SCORE, linewidth=1.6, marker=marker, markersize=3.5)
    best = int(np.argmax(values))
    axis.plot(steps[best], values[best], "*", color=SCORE, markersize=13, markeredgecolor="white")
    axis.axhline(values[best], color=SCORE, linewidth=0.8, linestyle=(0, (2, 3)))
    text = f"best {name} {values[best]:.2f} % at step {steps[best]:.0f}"
    start, coordinates = (0.01, values[best]), ("axes fraction", "data")
    axis.annotate(text, start, (0, -5), xycoords=coordinates, va="top", color=SCORE, **LABEL)
