"""labelme, version 5: a JSON file for each image, which names the image.

Its polygons have no holes, so a hole is joined to the outer boundary by a line of no width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segcoord.inference.inputs import printable
from segcoord.inference.polygon_files.image_polygons import (
    Add,
    Classes,
    ImagePolygons,
    PolygonFormat,
)
from segcoord.inference.polygons import join_rings
from segcoord.utils.files import write_json

VERSION = "5.0.0"  # labelme warns of other major versions than its own


def _image_file(name: Path) -> Path:
    return name.with_name(f"{name.name}.json")


@contextmanager
def _write(folder: Path, classes: Classes, model: str) -> Iterator[Add]:
    def add(image: ImagePolygons) -> None:
        path = folder / _image_file(image.name)
        shapes = [
            {
                "label": classes[region.index].name,
                "points": join_rings(region.rings).tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
            }
            for region in image.regions
        ]
        # Links to folders are resolved, because ".." leaves the folder that a link points to.
        relative = os.path.relpath(image.path.parent.resolve(), path.parent.resolve())
        content = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": printable((Path(relative) / image.path.name).as_posix()),
            "imageData": None,
            "imageHeight": image.size[0],
            "imageWidth": image.size[1],
        }
        write_json(path, content)

    yield add


FORMAT = PolygonFormat("labelme", (), _image_file, _write)
