"""Writes a ranking as CSV and JSON, and prints its first lines."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.table import Column, Table

from segcoord.data.split import Split
from segcoord.evaluation.suspects.options import LISTED
from segcoord.evaluation.suspects.ranking import ScoredRegion, Suspect, SuspectRanking
from segcoord.inference.inputs import printable
from segcoord.utils.console import console
from segcoord.utils.files import atomic_write, write_json

REGIONS = 5
"""Regions listed per image."""

_REGION_COLUMNS = ("region", "region_score", "given", "predicted")
_BOX_COLUMNS = ("x", "y", "width", "height", "area", "reason")
_COLUMNS = ("rank", "image", "score", *_REGION_COLUMNS, *_BOX_COLUMNS)


def write_suspects(
    folder: Path, ranking: SuspectRanking, suspects: Sequence[Suspect], split: Split, protocol: dict
) -> None:
    """Writes suspects.csv, with a row for each region, and suspects.json.

    Args:
        folder: to write to.
        ranking: gives the self-confidence of the classes.
        suspects: from `ranking.ranked`, of the samples of `split`.
        split: the ranked images.
        protocol: how the ranking was made, for the JSON.

    Raises:
        UserError: a file can't be written.
    """
    names = ranking.names
    rows, images = [], []
    for rank, suspect in enumerate(suspects, 1):
        sample = split.samples[suspect.index]
        regions = suspect.regions[:REGIONS]
        image = printable(sample.stem)
        for number, each in enumerate(regions, 1):
            region = each.region
            classes = names[region.given], names[region.predicted]
            scores = f"{suspect.score:.4f}", number, f"{each.score:.4f}"
            rows.append((rank, image, *scores, *classes, *region.box, region.area, each.reason))
        content = {
            "rank": rank,
            "image": image,
            "score": suspect.score,
            "disagreement": suspect.disagreement,
            "image_file": printable(sample.image),
            "mask_file": printable(sample.mask),
            "regions": [_region_to_dict(each, names) for each in regions],
        }
        images.append(content)
    classes = [
        {"name": name, "pixels": int(pixels), "self_confidence": float(value) if pixels else None}
        for name, pixels, value in zip(names, ranking.pixels, ranking.self_confidence)
    ]
    write_csv(folder / "suspects.csv", _COLUMNS, rows)
    content = {"suspects": images, "classes": classes, "protocol": protocol}
    write_json(folder / "suspects.json", content)


def _region_to_dict(scored: ScoredRegion, names: Sequence[str]) -> dict:
    region = scored.region
    return {
        "score": scored.score,
        "given": names[region.given],
        "predicted": names[region.predicted],
        "box": list(region.box),
        "center": list(region.center),
        "area": region.area,
        "radius": region.radius,
        "predicted_probability": region.confidence,
        "given_probability": region.support,
        "reason": scored.reason,
    }


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a header and rows as UTF-8.

    Raises:
        UserError: the file can't be written.
    """
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def print_ranking(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints the first `LISTED` rows, numbered, and how many follow.

    Args:
        columns: titles: of the image, of its score, and of any others.
        rows: a text for each column, the first image first.
    """
    image, *others = columns
    heads = [Column("rank", justify="right"), Column(image, overflow="fold")]
    table = Table(*heads, *others, box=None, pad_edge=False)
    for rank, row in enumerate(rows[:LISTED], 1):
        table.add_row(str(rank), *row)
    console.print(table)
    if len(rows) > LISTED:
        console.print(f"... and {len(rows) - LISTED} more")
