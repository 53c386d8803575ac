"""TODO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from segcoord.utils.console import console, format_percent

if TYPE_CHECKING:
    from segcoord.evaluation.metrics import Scores


def print_scores(scores: Scores, names: list[str], images: int, how: str = "") -> None:
    """IoU by class and the headline numbers, in percent; `how` names what is not the default."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    for head in ("IoU %", "accuracy %", "pixels %"):
        table.add_column(head, justify="right")
    share = scores.truth / max(1, scores.truth.sum())
    for name, iou, accuracy, part in zip(names, scores.iou, scores.accuracy, share):
        table.add_row(name, format_percent(iou), format_percent(accuracy), format_percent(part))
    console.print(table)
    absent = [names[i] for i in scores.absent]
    left_out = f" (absent and left out: {', '.join(absent)})" if absent else ""
    console.print(
        f"\nmIoU {format_percent(scores.miou)} % over {scores.classes_counted} of {len(names)} "
        f"classes{left_out}, {images} images{', ' if how else ''}{how}\n"
        f"frequency-weighted IoU {format_percent(scores.frequency_weighted_iou)} %, "
        f"pixel accuracy {format_percent(scores.pixel_accuracy)} %, "
        f"mean accuracy {format_percent(scores.mean_accuracy)} %"
    )


def print_cityscapes(scores: dict) -> None:
    """What Cityscapes' own tool prints besides, in percent, of `CityscapesScores.to_dict`."""
    for head in ("classes", "categories"):
        rows = scores.get(head, [])
        table = Table(head, box=None, pad_edge=False)
        columns = [c for c in ("iou", "iiou") if rows and c in rows[0]]
        for column in columns:
            table.add_column({"iou": "IoU %", "iiou": "iIoU %"}[column], justify="right")
        for row in rows:
            table.add_row(row["name"], *(format_percent(row[c]) for c in columns))
        if rows:
            console.print()
            console.print(table)
    summary = f"\ncategory mIoU {format_percent(scores['category_miou'])} %"
    if "iiou" in scores:
        summary += f", mean iIoU {format_percent(scores['iiou'])} % over classes"
        summary += f" and {format_percent(scores['category_iiou'])} % over categories"
    console.print(summary)
