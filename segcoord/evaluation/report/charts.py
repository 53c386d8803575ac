"""The charts, drawn by matplotlib once for the page and once for papers.

matplotlib, because the same drawing gives SVG that a page holds inline (15 to 40 kB each, sharp, in
the page's own colours, no script) and PNG and PDF for papers. Libraries that draw in the browser
would put 0.8 to 4.5 MB of script into each page, for charts that nobody needs to zoom.

Colours are Okabe and Ito's, which differ for all common kinds of colour vision; what is told by a
colour is told by a marker or a dash too. It is imported late, for it is an optional dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from segcoord.data.labels import LabelSet
from segcoord.evaluation.bootstrap import FEW_IMAGES, Comparison
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.report.boundary import WIDTHS, BoundaryBands
from segcoord.evaluation.report.calibration import BINS, Calibration
from segcoord.evaluation.report.object_sizes import ObjectSizes, bin_names

matplotlib.rcParams["text.parse_math"] = False  # a "$" in a class's name is a "$"
FEW_PIXELS = 0.001
"""A bin of confidence with a smaller share of the pixels is drawn hollow."""

TIP = "tip:"
"""An artist whose gid begins so is a place to point at; the rest is what it tells."""


@dataclass(frozen=True)
class Theme:
    """Colours of a drawing.

    Args:
        ink, muted, grid: text, what is less important, lines behind.
        first, second: of the two things that a chart compares.
        pointed: under a place to point at; None draws no such places.
    """

    ink: str = "#1b1f24"
    muted: str = "#5f6772"
    grid: str = "#dde1e6"
    first: str = "#0072b2"
    second: str = "#d55e00"
    pointed: str | None = None


PRINT = Theme()


def classes(scores: Scores, labels: LabelSet, theme: Theme = PRINT) -> Figure:
    """IoU of each class, with its share of the labelled pixels."""
    share = scores.truth / max(1, scores.truth.sum())
    figure = Figure((6.4, 0.8 + 0.26 * len(labels)), layout="constrained")
    bars, shares = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    place = np.arange(len(labels))
    for ax, values, color in ((bars, scores.iou, theme.first), (shares, share, theme.muted)):
        ax.barh(place, np.nan_to_num(values), 0.66, color=color)
        for y, value in zip(place, values):
            text = f"{100 * value:.1f}" if np.isfinite(value) else "absent"
            ax.annotate(text, (np.nan_to_num(value), y), (3, 0), textcoords="offset points",
                        va="center", fontsize=8, color=theme.ink)  # fmt: skip
        _plain(ax, theme, grid=None)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(bottom=False, labelbottom=False)
    bars.set(yticks=place, yticklabels=labels.names, ylim=(len(labels) - 0.4, -0.6), xlim=(0, 1.1))
    bars.set_title("IoU, %", fontsize=9, loc="left", color=theme.ink)
    shares.set_title("share of pixels, %", fontsize=9, loc="left", color=theme.ink)
    shares.set_xlim(0, 1.4 * max(share.max(), 0.01))
    return figure


def confusion(scores: Scores, labels: LabelSet, theme: Theme = PRINT) -> Figure:
    """Where the pixels of each class went: rows sum to 100 %."""
    shares = scores.confusion / np.maximum(scores.truth, 1)[:, None]
    side = 1.8 + 0.34 * len(labels)
    figure = Figure((side + 0.6, side), layout="constrained")
    ax = figure.subplots()
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    place = np.arange(len(labels))
    ax.set_xticks(place, labels.names, rotation=90, fontsize=8, color=theme.ink)
    ax.set_yticks(place, labels.names, fontsize=8, color=theme.ink)
    ax.set_xlabel("predicted", color=theme.muted, fontsize=9)
    ax.set_ylabel("truth", color=theme.muted, fontsize=9)
    for y, x in np.argwhere(shares >= 0.005):
        color = "white" if shares[y, x] > 0.55 else theme.ink
        ax.text(x, y, f"{100 * shares[y, x]:.0f}", ha="center", va="center", color=color, size=7)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def sizes(counted: ObjectSizes, theme: Theme = PRINT) -> Figure:
    """IoU and recall by the area of objects, averaged over the classes."""
    figure, ax = _one((6.4, 3.1), theme)
    objects = counted.objects.sum(1)
    place = np.arange(len(objects))
    iou, recall = counted.over_classes()
    _line(ax, place, recall, theme.second, "s", "--")
    _line(ax, place, iou, theme.first, "o", "-")
    widest = int(np.argmax(np.nan_to_num(recall - iou, nan=-1.0)))  # recall is never the lower
    _name(ax, place, recall, "recall", theme.second, widest, (0, 11))
    _name(ax, place, iou, "IoU", theme.first, widest, (0, -12))
    names = [f"{name} px\n{n:,} objects" for name, n in zip(bin_names(), objects)]
    ax.set_xticks(place, names)
    ax.set(xlim=(-0.5, len(place) - 0.5), ylim=(0, 1))
    for i, name in enumerate(bin_names()):
        counts = f"{objects[i]:,} objects of {np.count_nonzero(counted.truth[i])} classes"
        told = f"{name} px: IoU {percent(iou[i])}, recall {percent(recall[i])}; {counts}"
        _point_at(ax, (i - 0.5, i + 0.5), told, theme)
    return figure


def boundary(counted: BoundaryBands, whole: Scores, theme: Theme = PRINT) -> Figure:
    """mIoU and pixel accuracy within bands around the boundaries, beside those of the whole."""
    figure, ax = _one((6.4, 3.1), theme)
    bands, widths = counted.bands(), np.arange(1, WIDTHS + 1)
    miou = np.array([band.miou for band in bands])
    accuracy = np.array([band.pixel_accuracy for band in bands])
    _line(ax, widths, accuracy, theme.second, "s", "--", size=2.5)
    _line(ax, widths, miou, theme.first, "o", "-", size=3)
    _name(ax, widths, accuracy, "pixel accuracy", theme.second, WIDTHS // 2, (0, -12))
    _name(ax, widths, miou, "mIoU", theme.first, WIDTHS // 2, (0, -12))
    for value, color in ((whole.pixel_accuracy, theme.second), (whole.miou, theme.first)):
        ax.axhline(value, color=color, linewidth=0.8, linestyle=":")
        ax.annotate("whole images", (WIDTHS + 0.5, value), (0, 4), textcoords="offset points",
                    ha="right", fontsize=8, color=color)  # fmt: skip
    ax.set(xlim=(0.5, WIDTHS + 0.5), ylim=(0, 1), xticks=[1, *range(5, WIDTHS + 1, 5)])
    ax.set_xlabel(
        "width of the band, pixels to either side of a boundary", color=theme.muted, fontsize=9
    )
    pixels = np.array([band.confusion.sum() for band in bands]) / max(1, whole.confusion.sum())
    for i, width in enumerate(widths):
        told = f"mIoU {percent(miou[i])}, pixel accuracy {percent(accuracy[i])}"
        told = f"within {width} px: {told}; {percent(pixels[i])} of the pixels"
        _point_at(ax, (width - 0.5, width + 0.5), told, theme)
    return figure


def calibration(counted: Calibration, theme: Theme = PRINT) -> Figure:
    """Accuracy by confidence, and how many pixels there are of each confidence."""
    figure = Figure((4.8, 4.4), layout="constrained")
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    edges = np.linspace(0, 1, BINS + 1)
    share = counted.pixels / max(1, counted.pixels.sum())
    ax.plot([0, 1], [0, 1], color=theme.muted, linewidth=0.9, linestyle=":")
    ax.annotate("dotted: as often right as sure", (0.99, 0.04), ha="right", fontsize=8,
                color=theme.muted)  # fmt: skip
    filled = counted.pixels > 0
    sure, right = counted.mean_confidence[filled], counted.accuracy[filled]
    many = share[filled] >= FEW_PIXELS
    _line(ax, sure, right, theme.first, "", "-")
    faces = np.where(many, theme.first, "none")
    for x, y, face in zip(sure, right, faces):
        ax.plot([x], [y], "o", color=theme.first, markersize=5, markerfacecolor=str(face),
                clip_on=False)  # fmt: skip
    below.bar(edges[:-1] + 0.5 / BINS, share, 0.8 / BINS, color=theme.muted)
    for each in (ax, below):
        _plain(each, theme)
        each.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_ylabel("accuracy", color=theme.muted, fontsize=9)
    below.set_ylabel("pixels", color=theme.muted, fontsize=9)
    below.set_xlabel("confidence", color=theme.muted, fontsize=9)
    for axis in (ax.yaxis, below.yaxis, below.xaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    below.set_yticks([0, 0.5, 1])
    for i in np.flatnonzero(counted.pixels):
        told = (
            f"confidence {percent(counted.mean_confidence[i])}: right "
            f"{percent(counted.accuracy[i])} of the time; {percent(share[i])} of the pixels"
        )
        _point_at(ax, (edges[i], edges[i + 1]), told, theme)
    return figure


def change(result: Comparison, names: Sequence[str], theme: Theme = PRINT) -> Figure:
    """The difference of each class and of the mean, with its interval."""
    rows = [("mIoU", result.difference, result.drawn)]
    rows += [(n, e, c) for n, e, c in zip(names, result.classes, result.images) if c]
    figure, ax = _one((6.4, 0.9 + 0.27 * len(rows)), theme, grid="x")
    ax.axvline(0, color=theme.muted, linewidth=0.9)
    ax.axhline(0.5, color=theme.grid, linewidth=0.9)
    for y, (name, each, images) in enumerate(rows):
        color = theme.muted
        if each.outside_noise:
            color = theme.first if each.value > 0 else theme.second
        marker = "|" if not each.outside_noise else "o" if y else "D"
        ax.plot([each.low, each.high], [y, y], color=color, linewidth=2.6 if y == 0 else 1.6)
        ax.plot([each.value], [y], marker, color=color, markersize=6, markeredgewidth=1.6)
        told = f"{name}: {points(each.value)}, {points(each.low)} to {points(each.high)}"
        few = f"; in {images} images, too few to trust" if images < FEW_IMAGES else ""
        _point_at(ax, (y - 0.5, y + 0.5), told + few, theme, across=True)
    labels = [f"{n} *" if images < FEW_IMAGES else n for n, _, images in rows]
    ax.set_yticks(range(len(rows)), labels)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:+.4g}" if x else "0"))
    ax.yaxis.set_major_formatter(matplotlib.ticker.FixedFormatter(labels))
    ax.set_xlabel("change of IoU, percentage points", color=theme.muted, fontsize=9)
    ax.tick_params(axis="y", length=0)
    return figure


def percent(value: float) -> str:
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%" if np.isfinite(value) else "-"


def points(value: float) -> str:
    """A difference of two fractions in percentage points, with its sign."""
    return f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "-"


def _one(size: tuple[float, float], theme: Theme, grid: str = "y") -> tuple[Figure, Axes]:
    figure = Figure(size, layout="constrained")
    ax = figure.subplots()
    _plain(ax, theme, grid)
    if grid == "y":
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure, ax


def _plain(ax: Axes, theme: Theme, grid: str | None = "y") -> None:
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(theme.grid)
    ax.tick_params(labelcolor=theme.ink, color=theme.grid, labelsize=8.5, length=3)
    ax.tick_params(axis="y", length=0)
    ax.patch.set_visible(False)
    if grid:
        ax.grid(axis=grid, color=theme.grid, linewidth=0.7)
    ax.set_axisbelow(True)


def _line(
    ax: Axes, x: np.ndarray, y: np.ndarray, color: str, marker: str, dash: str, size: float = 5
) -> None:
    ax.plot(x, y, dash, marker=marker, color=color, markersize=size, linewidth=1.6, clip_on=False)


def _name(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    name: str,
    color: str,
    at: int,
    offset: tuple[float, float],
) -> None:
    """Names a line beside itself, where one needs no legend to find it."""
    if np.isfinite(y[at]):
        ax.annotate(name, (x[at], y[at]), offset, textcoords="offset points", color=color,
                    ha="center", va="center", fontsize=9, annotation_clip=False)  # fmt: skip


def _point_at(
    ax: Axes, span: tuple[float, float], told: str, theme: Theme, across: bool = False
) -> None:
    if theme.pointed is not None:
        draw = ax.axhspan if across else ax.axvspan
        draw(*span, facecolor=theme.pointed, edgecolor="none", zorder=10, gid=TIP + told)
