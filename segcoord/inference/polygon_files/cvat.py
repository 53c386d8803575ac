"""CVAT for images 1.1: an XML file with the polygons of all images.

Its polygons have no holes, so a hole is joined to the outer boundary by a line of no width. Source
of the format: https://docs.cvat.ai/docs/other/xml_format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from itertools import count
from pathlib import Path

from segcoord.inference.polygon_files.image_polygons import (
    Add,
    Classes,
    ImagePolygons,
    PolygonFormat,
)
from segcoord.inference.polygons import Region, join_rings
from segcoord.utils.files import atomic_write

FILE = "annotations.xml"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@contextmanager
def _write(folder: Path, classes: Classes, model: str) -> Iterator[Add]:
    numbers = count()
    with atomic_write(folder / FILE) as temporary, temporary.open("w", encoding="utf-8") as file:

        def add(image: ImagePolygons) -> None:
            height, width = image.size
            name = _text(image.file_name)
            size = f'width="{width}" height="{height}"'
            file.write(f'  <image id="{next(numbers)}" name="{name}" {size}>\n')
            file.writelines(_polygon(region, classes) for region in image.regions)
            file.write("  </image>\n")

        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
        file.write("  <version>1.1</version>\n  <meta>\n    <task>\n      <labels>\n")
        for c in classes.values():
            color = "#{:02x}{:02x}{:02x}".format(*c.color)
            label = f"<name>{_text(c.name)}</name><color>{color}</color>"
            file.write(f"        <label>{label}<attributes></attributes></label>\n")
        file.write("      </labels>\n    </task>\n  </meta>\n")
        yield add
        file.write("</annotations>\n")


def _polygon(region: Region, classes: Classes) -> str:
    label = _text(classes[region.index].name)
    points = ";".join(f"{x:.12g},{y:.12g}" for x, y in join_rings(region.rings).tolist())
    settings = 'source="auto" occluded="0"'
    return f'    <polygon label="{label}" {settings} points="{points}" z_order="0"></polygon>\n'


def _text(text: str) -> str:
    """Escaped for XML, without the characters that it has no way to write.

    Not by `xml.sax.saxutils`, which imports an HTTP client in 20 ms.
    """
    return escape(_NOT_XML.sub("\ufffd", text))


FORMAT = PolygonFormat("CVAT for images 1.1", (FILE,), None, _write)
