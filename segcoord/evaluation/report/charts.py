"""The charts of a report, drawn with matplotlib for the page (SVG) and for papers (PNG, PDF).

The colors are Okabe and Ito's, which remain distinct with color vision deficiencies; markers or
dashes always carry the same information. Import this module late: matplotlib is optional.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from segcoord.data.labels import LabelSet
from segcoord.evaluation.bootstrap import MIN_IMAGES, Comparison
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.report.boundary import MAX_WIDTH, BoundaryBands
from segcoord.evaluation.report.calibration import BINS, Calibration
from segcoord.evaluation.report.object_sizes import ObjectSizes, bin_names

matplotlib.rcParams["text.parse_math"] = False  # keep a "$" in a class name
MIN_FRACTION = 0.001
"""A confidence bin with a smaller fraction of the pixels gets a hollow marker."""

INK, MUTED, GRID = "#1b1f24", "#5f6772", "#d0d5db"
FIRST, SECOND = "#0072b2", "#d55e00"
"""Colors of the two curves that a chart compares."""


def classes(scores: Scores, labels: LabelSet) -> Figure:
    """IoU of each class, with its fraction of the labeled pixels."""
    fractions = scores.truth / max(1, scores.truth.sum())
    figure = Figure((6.4, 0.8 + 0.26 * len(labels)), layout="constrained")
    iou_ax, pixels_ax = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    rows = np.arange(len(labels))
    for ax, values, color in ((iou_ax, scores.iou, FIRST), (pixels_ax, fractions, MUTED)):
        ax.barh(rows, np.nan_to_num(values), 0.66, color=color)
        for y, value in zip(rows, values):
            text = f"{100 * value:.1f}" if np.isfinite(value) else "absent"
            ax.annotate(text, (np.nan_to_num(value), y), (3, 0), textcoords="offset points",
                        va="center", fontsize=8, color=INK)  # fmt: skip
        _style(ax, grid=None)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.spines["bottom"].set_visible(False)
        ax.tick_params(bottom=False, labelbottom=False)
    iou_ax.set(yticks=rows, yticklabels=labels.names, ylim=(len(labels) - 0.4, -0.6), xlim=(0, 1.1))
    iou_ax.set_title("IoU, %", fontsize=9, loc="left", color=INK)
    pixels_ax.set_title("share of pixels, %", fontsize=9, loc="left", color=INK)
    pixels_ax.set_xlim(0, 1.4 * max(fractions.max(), 0.01))
    return figure


def confusion(scores: Scores, labels: LabelSet) -> Figure:
    """Confusion matrix; each row (truth) sums to 100 %."""
    rates = scores.confusion / np.maximum(scores.truth, 1)[:, None]
    predicted = [*labels.names, "void"][: rates.shape[1]]
    side = 1.8 + 0.34 * len(labels)
    figure = Figure((side + 0.6, side), layout="constrained")
    ax = figure.subplots()
    ax.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    ticks = np.arange(len(labels))
    ax.set_xticks(range(len(predicted)), predicted, rotation=90, fontsize=8, color=INK)
    ax.set_yticks(ticks, labels.names, fontsize=8, color=INK)
    ax.set_xlabel("predicted", color=MUTED, fontsize=9)
    ax.set_ylabel("truth", color=MUTED, fontsize=9)
    for y, x in np.argwhere(rates >= 0.005):
        color = "white" if rates[y, x] > 0.55 else INK
        ax.text(x, y, f"{100 * rates[y, x]:.0f}", ha="center", va="center", color=color, size=7)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def sizes(counted: ObjectSizes) -> Figure:
    """IoU and recall by object area, averaged over the classes."""
    figure, ax = _single_axes((6.4, 3.1))
    objects = counted.objects.sum(1)
    bins = np.arange(len(objects))
    iou, recall = counted.over_classes()
    _line(ax, bins, recall, SECOND, "s", "--")
    _line(ax, bins, iou, FIRST, "o", "-")
    widest = int(np.argmax(np.nan_to_num(recall - iou, nan=-1.0)))  # recall >= IoU
    _label_line(ax, bins, recall, "recall", SECOND, widest, 11)
    _label_line(ax, bins, iou, "IoU", FIRST, widest, -12)
    names = [f"{name} px\n{n:,} objects" for name, n in zip(bin_names(), objects)]
    ax.set_xticks(bins, names)
    ax.set(xlim=(-0.5, len(bins) - 0.5), ylim=(0, 1))
    return figure


def boundary(counted: BoundaryBands, overall: Scores) -> Figure:
    """mIoU and pixel accuracy within bands around boundaries, and those of whole images."""
    figure, ax = _single_axes((6.4, 3.1))
    bands, widths = counted.bands(), np.arange(1, MAX_WIDTH + 1)
    miou = np.array([band.miou for band in bands])
    accuracy = np.array([band.pixel_accuracy for band in bands])
    _line(ax, widths, accuracy, SECOND, "s", "--", size=2.5)
    _line(ax, widths, miou, FIRST, "o", "-", size=3)
    _label_line(ax, widths, accuracy, "pixel accuracy", SECOND, MAX_WIDTH // 2, -12)
    _label_line(ax, widths, miou, "mIoU", FIRST, MAX_WIDTH // 2, -12)
    for value, color in ((overall.pixel_accuracy, SECOND), (overall.miou, FIRST)):
        ax.axhline(value, color=color, linewidth=0.8, linestyle=":")
        ax.annotate("whole images", (MAX_WIDTH + 0.5, value), (0, 4), textcoords="offset points",
                    ha="right", fontsize=8, color=color)  # fmt: skip
    ax.set(xlim=(0.5, MAX_WIDTH + 0.5), ylim=(0, 1), xticks=[1, *range(5, MAX_WIDTH + 1, 5)])
    ax.set_xlabel("band width, pixels on each side of a boundary", color=MUTED, fontsize=9)
    return figure


def calibration(counted: Calibration) -> Figure:
    """Reliability diagram: accuracy by confidence, above the histogram of the confidence."""
    figure = Figure((4.8, 4.4), layout="constrained")
    ax, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    edges = np.linspace(0, 1, BINS + 1)
    fractions = counted.pixels / max(1, counted.pixels.sum())
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=":")
    ax.annotate("dotted: perfect calibration", (0.99, 0.04), ha="right", fontsize=8, color=MUTED)
    filled = counted.pixels > 0
    confidence, accuracy = counted.mean_confidence[filled], counted.accuracy[filled]
    _line(ax, confidence, accuracy, FIRST, "", "-")
    faces = np.where(fractions[filled] >= MIN_FRACTION, FIRST, "none")
    for x, y, face in zip(confidence, accuracy, faces):
        ax.plot([x], [y], "o", color=FIRST, markersize=5, markerfacecolor=str(face), clip_on=False)
    histogram.bar(edges[:-1] + 0.5 / BINS, fractions, 0.8 / BINS, color=MUTED)
    for each in (ax, histogram):
        _style(each)
        each.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_ylabel("accuracy", color=MUTED, fontsize=9)
    histogram.set_ylabel("pixels", color=MUTED, fontsize=9)
    histogram.set_xlabel("confidence", color=MUTED, fontsize=9)
    for axis in (ax.yaxis, histogram.yaxis, histogram.xaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    histogram.set_yticks([0, 0.5, 1])
    return figure


def change(result: Comparison, names: Sequence[str]) -> Figure:
    """The differences of the mIoU and of each class's IoU, with their intervals."""
    rows = [("mIoU", result.difference, result.drawn)]
    rows += [(n, e, c) for n, e, c in zip(names, result.classes, result.images) if c]
    figure, ax = _single_axes((6.4, 0.9 + 0.27 * len(rows)), grid="x")
    ax.axvline(0, color=MUTED, linewidth=0.9)
    ax.axhline(0.5, color=GRID, linewidth=0.9)
    for y, (_, estimate, _) in enumerate(rows):
        color, marker = MUTED, "|"
        if estimate.outside_noise:
            color, marker = FIRST if estimate.value > 0 else SECOND, "o" if y else "D"
        width = 2.6 if y == 0 else 1.6
        ax.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=width)
        ax.plot([estimate.value], [y], marker, color=color, markersize=6, markeredgewidth=1.6)
    labels = [f"{n} *" if images < MIN_IMAGES else n for n, _, images in rows]
    ax.set_yticks(range(len(rows)), labels)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:+.4g}" if x else "0"))
    ax.set_xlabel("change of IoU, percentage points", color=MUTED, fontsize=9)
    ax.tick_params(axis="y", length=0)
    return figure


def _single_axes(size: tuple[float, float], grid: str = "y") -> tuple[Figure, Axes]:
    figure = Figure(size, layout="constrained")
    ax = figure.subplots()
    _style(ax, grid)
    if grid == "y":
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure, ax


def _style(ax: Axes, grid: str | None = "y") -> None:
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(GRID)
    ax.tick_params(labelcolor=INK, color=GRID, labelsize=8.5, length=3)
    ax.tick_params(axis="y", length=0)
    ax.patch.set_visible(False)
    if grid:
        ax.grid(axis=grid, color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)


def _line(
    ax: Axes, x: np.ndarray, y: np.ndarray, color: str, marker: str, dash: str, size: float = 5
) -> None:
    ax.plot(x, y, dash, marker=marker, color=color, markersize=size, linewidth=1.6, clip_on=False)


def _label_line(
    ax: Axes, x: np.ndarray, y: np.ndarray, name: str, color: str, at: int, offset: float
) -> None:
    """Writes a line's name above or below its point `at`, instead of a legend."""
    if np.isfinite(y[at]):
        ax.annotate(name, (x[at], y[at]), (0, offset), textcoords="offset points", color=color,
                    ha="center", va="center", fontsize=9, annotation_clip=False)  # fmt: skip
