"""COCO instances: polygons, and uncompressed run lengths for regions with holes.

COCO's polygons have no holes: several polygons of an annotation are joined. Source of the format:
https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from segcoord.inference.polygon_files.image_polygons import (
    Add,
    Classes,
    ImagePolygons,
    PolygonFormat,
)
from segcoord.inference.polygons import Region, run_lengths
from segcoord.utils.files import atomic_write

FILE = "instances.json"


@contextmanager
def _write(folder: Path, classes: Classes, model: str) -> Iterator[Add]:
    """Annotations are written at once; the entries of the images follow at the end."""
    images: list[str] = []
    numbers = count(1)
    categories = [{"id": index + 1, "name": c.name} for index, c in classes.items()]
    with atomic_write(folder / FILE) as temporary, temporary.open("w") as file:

        def add(image: ImagePolygons) -> None:
            height, width = image.size
            entry = {"file_name": image.file_name, "height": height, "width": width}
            images.append(json.dumps({"id": len(images) + 1, **entry}))
            for region in image.regions:
                number = next(numbers)
                content = {"id": number, "image_id": len(images), **_annotation(region, image.size)}
                file.write((",\n" if number > 1 else "") + json.dumps(content))

        file.write(f'{{"info": {{"description": {json.dumps(f"Predictions of {model}")}}},\n')
        file.write(f'"categories": {json.dumps(categories)},\n"annotations": [\n')
        yield add
        file.write('\n],\n"images": [\n' + ",\n".join(images) + "\n]}\n")


def _annotation(region: Region, size: tuple[int, int]) -> dict:
    outer = region.rings[0]
    low, high = outer.min(0), outer.max(0)
    if len(region.rings) == 1:
        segmentation = [outer.ravel().tolist()]
    else:
        segmentation = {"size": list(size), "counts": run_lengths(region.rings, size)}
    return {
        "category_id": region.index + 1,
        "segmentation": segmentation,
        "area": region.pixels,
        "bbox": [*low.tolist(), *(high - low).tolist()],
        "iscrowd": 0,
    } | ({} if region.score is None else {"score": round(region.score, 4)})


FORMAT = PolygonFormat("COCO", (FILE,), None, _write)
