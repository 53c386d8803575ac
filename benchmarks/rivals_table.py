"""The table and the plot of benchmarks/rivals.py."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

COLUMNS = ["512x512 fp32", "512x512 bf16", "512x512 int8"]
COLUMNS += ["1024x2048 fp32", "1024x2048 bf16", "1024x2048 int8"]
X_AXES = {
    "ms 1024x2048 int8": "ms, 1024x2048, OpenVINO int8",
    "gmacs 1024x2048": "G multiply-adds, 1024x2048",
}
OURS, OTHERS = "#0072b2", "#d55e00"


def table(results: list[dict], speeds: dict) -> str:
    """Markdown, one row per training, best first."""
    heads = ["model", "weights", "mIoU %", "steps", "minutes", "CPU minutes", "parameters, M"]
    heads += ["G multiply-adds at 512x512", "at 1024x2048", *(f"ms {c}" for c in COLUMNS)]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for r in sorted(results, key=lambda r: (r["start"], -r["miou"])):
        cells = [r["entry"], r["start"], f"{100 * r['miou']:.2f}", str(r["steps"])]
        cells += [f"{r['train_seconds'] / 60:.1f}", f"{r['cpu_seconds'] / 60:.1f}"]
        speed = speeds[r["entry"]]
        cells += [f"{speed['parameters']:.2f}"]
        cells += [f"{speed[f'gmacs {size}']:.2f}" for size in ("512x512", "1024x2048")]
        cells += [f"{speed[f'ms {column}']:.1f}" for column in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def classes(results: list[dict]) -> str:
    """Markdown, the IoU of each class."""
    names = list(results[0]["classes"])
    lines = [f"| IoU % | weights | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 2)}"]
    for r in sorted(results, key=lambda r: (r["start"], -r["miou"])):
        values = ["-" if r["classes"][n] is None else f"{100 * r['classes'][n]:.1f}" for n in names]
        lines.append(f"| {r['entry']} | {r['start']} | {' | '.join(values)} |")
    return "\n".join(lines)


def plot(results: list[dict], speeds: dict, path: Path) -> None:
    """mIoU against milliseconds and against multiply-adds; hollow: from random weights."""
    figure = Figure((9.6, 4.2), layout="constrained")
    axes = figure.subplots(1, len(X_AXES), sharey=True)
    for ax, (key, label) in zip(axes, X_AXES.items()):
        for rank, r in enumerate(sorted(results, key=lambda r: r["miou"])):
            x, y = speeds[r["entry"]][key], 100 * r["miou"]
            color = OURS if r["kind"] == "ours" else OTHERS
            face = color if r["start"] == "imagenet" else "none"
            ax.plot([x], [y], "o", color=color, markerfacecolor=face, markersize=7)
            # Labels of neighbors, by mIoU, are on different sides of their points.
            place, side = ((-6, -11), "right") if rank % 2 else ((6, 4), "left")
            options = {"textcoords": "offset points", "fontsize": 8, "ha": side}
            ax.annotate(r["entry"], (x, y), place, **options)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel(label)
        ax.margins(x=0.35, y=0.1)
        ax.grid(color="#d0d5db", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mIoU, %")
    axes[0].set_title("filled: from ImageNet weights; hollow: from random weights", fontsize=9,
                      loc="left")  # fmt: skip
    figure.savefig(path, dpi=150)
