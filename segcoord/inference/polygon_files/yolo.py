"""YOLO segmentation: a text file for each image, and data.yaml with the names of the classes.

The layout is that of CVAT's "Ultralytics YOLO Segmentation 1.0". Its polygons have no holes, so a
hole is joined to the outer boundary by a line of no width. Source of the format:
https://docs.ultralytics.com/datasets/segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from segcoord.inference.polygon_files.image_polygons import (
    Add,
    Classes,
    ImagePolygons,
    PolygonFormat,
)
from segcoord.inference.polygons import Region, join_rings
from segcoord.utils.files import atomic_write

CONFIG, LIST = "data.yaml", "train.txt"
LABELS = Path("labels", "train")


def _image_file(name: Path) -> Path:
    return LABELS / name.with_name(f"{name.name}.txt")


@contextmanager
def _write(folder: Path, classes: Classes, model: str) -> Iterator[Add]:
    numbers = {index: number for number, index in enumerate(classes)}
    names = {number: c.name for number, c in enumerate(classes.values())}
    with atomic_write(folder / LIST) as temporary, temporary.open("w", encoding="utf-8") as file:

        def add(image: ImagePolygons) -> None:
            lines = [_line(numbers[r.index], r, image.size) for r in image.regions]
            with atomic_write(folder / _image_file(image.name)) as own:
                own.write_text("".join(lines))
            file.write(f"./images/train/{image.file_name}\n")

        yield add
    content = {"train": LIST, "names": names}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    with atomic_write(folder / CONFIG) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _line(number: int, region: Region, size: tuple[int, int]) -> str:
    points = join_rings(region.rings) / size[::-1]
    return f"{number} {' '.join(f'{value:.8g}' for value in points.ravel().tolist())}\n"


FORMAT = PolygonFormat("YOLO segmentation", (CONFIG, LIST), _image_file, _write)
