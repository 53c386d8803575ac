"""Label Studio: tasks with predictions in JSON, and the labeling interface that they need.

Its polygons have no holes, so a hole is joined to the outer boundary by a line of no width. Source
of the format: https://labelstud.io/guide/predictions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from urllib.parse import quote

from segcoord.inference.polygon_files.image_polygons import (
    Add,
    Classes,
    ImagePolygons,
    PolygonFormat,
)
from segcoord.inference.polygons import Region, join_rings
from segcoord.utils.files import atomic_write

TASKS, INTERFACE = "tasks.json", "interface.xml"
IMAGES = "/data/local-files/?d="
"""URL of an image in Label Studio's local storage, before its path."""


@contextmanager
def _write(folder: Path, classes: Classes, model: str) -> Iterator[Add]:
    with atomic_write(folder / TASKS) as temporary, temporary.open("w") as file:
        separator = ""

        def add(image: ImagePolygons) -> None:
            nonlocal separator
            file.write(separator + json.dumps(_task(image, classes, model)))
            separator = ",\n"

        file.write("[\n")
        yield add
        file.write("\n]\n")
    with atomic_write(folder / INTERFACE) as temporary:
        temporary.write_text(_interface(classes), encoding="utf-8")


def _task(image: ImagePolygons, classes: Classes, model: str) -> dict:
    shapes = [
        _shape(f"region{number}", region, image.size, classes[region.index].name)
        for number, region in enumerate(image.regions, 1)
    ]
    prediction = {"model_version": model, "result": shapes}
    pixels = sum(region.pixels for region in image.regions)
    if pixels and image.regions[0].score is not None:
        score = sum(region.pixels * region.score for region in image.regions) / pixels
        prediction["score"] = round(score, 4)
    return {
        "data": {"image": IMAGES + quote(image.file_name)},
        "predictions": [prediction],
    }


def _shape(number: str, region: Region, size: tuple[int, int], label: str) -> dict:
    height, width = size
    points = join_rings(region.rings) * (100 / width, 100 / height)
    return {
        "id": number,
        "type": "polygonlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "points": points.round(7).tolist(),
            "polygonlabels": [label],
            "closed": True,
        },
    } | ({} if region.score is None else {"score": round(region.score, 4)})


def _interface(classes: Classes) -> str:
    """The labeling interface of the project, whose names the predictions refer to."""
    labels = "".join(
        f'    <Label value="{escape(c.name)}" '
        f'background="#{c.color[0]:02x}{c.color[1]:02x}{c.color[2]:02x}"/>\n'
        for c in classes.values()
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        '  <PolygonLabels name="label" toName="image" strokeWidth="2">\n'
        f"{labels}  </PolygonLabels>\n</View>\n"
    )


FORMAT = PolygonFormat("Label Studio", (TASKS, INTERFACE), None, _write)
