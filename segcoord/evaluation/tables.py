"""Score tables on the console."""

from pathlib import Path

from rich.table import Column, Table

from segcoord.data.labels import LabelSet
from segcoord.evaluation.bootstrap import MIN_IMAGES, Comparison
from segcoord.evaluation.metrics import Scores
from segcoord.utils.console import console, format_percent


def print_scores(scores: Scores, labels: LabelSet, images: int, views: str = "") -> None:
    """Prints IoU, accuracy and pixels per class and the overall scores, in percent.

    For binary segmentation, also IoU and Dice coefficient of the foreground. `views` names the
    test-time augmentation; it is empty for the default.
    """
    names = labels.names
    table = _table("class", "IoU %", "accuracy %", "pixels %")
    fractions = scores.truth / max(1, scores.truth.sum())
    for name, *values in zip(names, scores.iou, scores.accuracy, fractions):
        table.add_row(name, *map(format_percent, values))
    console.print(table)
    absent = [names[i] for i in scores.absent]
    left_out = f" (absent and left out: {', '.join(absent)})" if absent else ""
    console.print(
        f"\nmIoU {format_percent(scores.miou)} % over {scores.classes_counted} of {len(names)} "
        f"classes{left_out}, {images} images{', ' if views else ''}{views}\n"
        f"frequency-weighted IoU {format_percent(scores.frequency_weighted_iou)} %, "
        f"pixel accuracy {format_percent(scores.pixel_accuracy)} %, "
        f"mean accuracy {format_percent(scores.mean_accuracy)} %"
    )
    if labels.binary:
        console.print(
            f"foreground ({names[1]}): IoU {format_percent(scores.foreground_iou)} %, "
            f"Dice {format_percent(scores.foreground_dice)} %"
        )


def print_cityscapes(scores: dict) -> None:
    """Prints `CityscapesScores.to_dict()`: IoU and iIoU per class and category, in percent."""
    for heading in ("classes", "categories"):
        rows = scores.get(heading, [])
        if not rows:
            continue
        titles = {"iou": "IoU %", "iiou": "iIoU %"}
        columns = [column for column in titles if column in rows[0]]
        table = _table(heading, *(titles[column] for column in columns))
        for row in rows:
            table.add_row(row["name"], *(format_percent(row[column]) for column in columns))
        console.print()
        console.print(table)
    summary = f"\ncategory mIoU {format_percent(scores['category_miou'])} %"
    if "iiou" in scores:
        summary += f", mean iIoU {format_percent(scores['iiou'])} % over classes"
        summary += f" and {format_percent(scores['category_iiou'])} % over categories"
    console.print(summary)


def print_comparison(result: Comparison, names: list[str], paths: list[Path]) -> None:
    """Prints IoU of A and B per class, the differences with intervals, and a conclusion."""
    interval = f"{100 * result.level:g} % interval"
    table = _table("class", "A, IoU %", "B, IoU %", "B - A", interval, "images")
    rows = [*zip(names, result.iou_a, result.iou_b, result.classes, result.images)]
    rows += [("mIoU", result.a, result.b, result.difference, result.drawn)]
    for name, a, b, difference, images in rows:
        if not images:
            continue
        table.add_row(
            name,
            f"{100 * a:.2f}",
            f"{100 * b:.2f}",
            f"{100 * difference.value:+.2f}",
            f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}",
            f"{images}{' *' if images < MIN_IMAGES else ''}",
        )
    console.print(table)
    console.print(f"\nA: {paths[0]}\nB: {paths[1]}")
    left_out = [name for name, images in zip(names, result.images) if not images]
    if left_out:
        console.print(f"left out of both, absent from the truth: {', '.join(left_out)}")
    if ((result.images > 0) & (result.images < MIN_IMAGES)).any():
        console.print(f"*: in fewer than {MIN_IMAGES} images, too few to trust the interval")
    console.print(
        f"{result.summary()}\nThe interval covers the choice of images ({result.resamples} "
        "resamples), not the variance between training runs; compare several seeds for that."
    )


def _table(first: str, *columns: str) -> Table:
    numbers = (Column(column, justify="right", no_wrap=True) for column in columns)
    return Table(first, *numbers, box=None, pad_edge=False)
