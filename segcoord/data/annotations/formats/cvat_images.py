"""CVAT's "CVAT for images 1.1": one XML file with the shapes of all images.

    annotations.xml
    images/NAME.jpg             of a task or a job, if saved with images
    images/SUBSET/NAME.jpg      of a project

CVAT stacks shapes by their z_order, and of equal ones puts the later in the file on top, as its own
masks do. Group ids and attributes are left out. Polylines are drawn 1 pixel wide.

Source: `cvat/apps/dataset_manager/formats/cvat.py` of github.com/cvat-ai/cvat.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from segcoord.data.annotations.image_lookup import ImageFiles
from segcoord.data.annotations.names import hex_color, relative_name, without_suffix
from segcoord.data.annotations.records import ClassName, Export, Format, Record, Shape
from segcoord.data.annotations.rings import box_ring, ellipse_ring, rotate
from segcoord.data.annotations.source_files import shown
from segcoord.utils.errors import UserError

_REGIONS = ("polygon", "box", "ellipse", "polyline", "mask")
_LEFT_OUT = {"points": "points", "cuboid": "cuboids", "skeleton": "skeletons", "tag": "image tags"}
_NO_REGION_TYPES = ("points", "cuboid", "skeleton", "tag")  # of labels
_DEFAULT_SUBSET = "default"  # of tasks without one
_LINE_WIDTH = 1.0
_HEAD = 1 << 16  # bytes that show whether a file is of this format
_MAX_OPENED = 20  # files that `recognize` opens


@dataclass(frozen=True, slots=True)
class _Place:
    """An element of the file: its attributes and where it is."""

    attributes: dict[str, str]
    line: int
    start: int
    end: int = 0
    """Offset in bytes of its end tag, or of its end if it is an empty-element tag."""
    regions: int = 0


class _Scan:
    """One pass over an XML file, which keeps the places of the images but not their shapes.

    Raises:
        UserError: the file can't be read, is no valid XML, declares a DOCTYPE or another encoding
            than UTF-8, or has tracks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: list[_Place] = []
        self.meta: _Place | None = None
        self.labels: dict[str, int] = {}
        """The labels of regions, with the line of the first."""
        self.skipped: Counter[str] = Counter()
        self._open: list[_Place] = []
        self._regions = 0
        self._parser = expat.ParserCreate()
        self._parser.XmlDeclHandler = self._declaration
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        try:
            with path.open("rb") as file:
                self._parser.ParseFile(file)
        except expat.ExpatError as error:
            raise UserError(
                f"not valid XML at line {error.lineno}, column {error.offset + 1}; it may be "
                "cut short.",
                path=path,
                remedy="Export it again.",
            ) from error
        except OSError as error:
            raise UserError(f"can't be read: {error.strerror}.", path=path) from error

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if (encoding or "utf-8").lower() not in ("utf-8", "us-ascii"):
            raise UserError(f"found the encoding {encoding}, expected utf-8.", path=self.path)

    def _doctype(self, *_: object) -> None:
        raise UserError(
            "found a DOCTYPE, which CVAT does not write.", path=self.path, remedy="Remove it."
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        parser = self._parser
        place = _Place(attributes, parser.CurrentLineNumber, parser.CurrentByteIndex)
        self._open.append(place)
        depth = len(self._open)
        if depth == 2 and tag == "track":
            raise UserError(
                "found a track, expected images. This is CVAT for video.",
                path=f"{self.path}: line {place.line}",
                remedy="Export the task as CVAT for images 1.1.",
            )
        if depth == 2:
            self._regions = 0
        elif depth == 3 and tag in _LEFT_OUT:
            self.skipped[_LEFT_OUT[tag]] += 1
        elif depth == 3 and tag in _REGIONS:
            if label := attributes.get("label"):
                self.labels.setdefault(label, place.line)
                self._regions += 1
            else:
                self.skipped["shapes without a label"] += 1

    def _end(self, tag: str) -> None:
        place = self._open.pop()
        if len(self._open) != 1 or tag not in ("image", "meta"):
            return
        end = self._parser.CurrentByteIndex
        attributes = place.attributes if tag == "image" else {}
        place = _Place(attributes, place.line, place.start, end, self._regions)
        if tag == "image":
            self.images.append(place)
        else:
            self.meta = place


def recognize(folder: Path) -> str | None:
    files = _cvat_files(folder)
    return f"{files[0].name} with <annotations>" if files else None


def read(folder: Path) -> Export:
    """Read the XML files in a folder.

    Raises:
        UserError: no file of this format; one that `_Scan` rejects; a label that <meta> does not
            list; a name that would leave the folder.
    """
    files = _cvat_files(folder)
    if not files:
        raise UserError("found no .xml file of CVAT, expected annotations.xml.", path=folder)
    images = ImageFiles(folder)
    records: list[Record] = []
    classes: dict[str, ClassName] = {}
    skipped: Counter[str] = Counter()
    for path in files:
        scan = _Scan(path)
        meta = None if scan.meta is None else _element(path, scan.meta, "meta")
        listed = [] if meta is None else _classes(path, meta)
        _check_labels(path, scan.labels, [c.name for c in listed])
        for entry in [*listed, *map(ClassName, scan.labels)]:
            classes.setdefault(entry.name, entry)
        subset = "" if meta is None else meta.findtext("./*/subset") or ""
        records += [_record(path, place, subset, images) for place in scan.images]
        skipped += scan.skipped
    return Export(FORMAT.title, records, list(classes.values()), annotation, skipped=skipped)


def annotation(record: Record, size: tuple[int, int]) -> Sequence[Shape]:
    """The shapes of an image.

    Raises:
        UserError: coordinates that are no numbers, a mask that is larger than the image or
            whose run lengths don't fit its size.
    """
    path, place = record.content
    elements = []
    for element in _element(path, place, "image"):
        if element.tag in _REGIONS and element.get("label"):
            elements.append((_integer(element, "z_order", record.where, 0), element))
    ranks = sorted(range(len(elements)), key=lambda index: elements[index][0])
    order = {index: rank for rank, index in enumerate(ranks)}
    shapes = []
    for index, (_, element) in enumerate(elements):
        where = f"{record.where}, <{element.tag}> {index + 1} ({element.get('label')})"
        shapes.append(_shape(element, size, order[index], where))
    return shapes


def _cvat_files(folder: Path) -> list[Path]:
    """The XML files directly in a folder that start as CVAT's do."""
    files = (path for path in sorted(folder.glob("*.[xX][mM][lL]")) if path.name[0] != ".")
    return [path for path in islice(files, _MAX_OPENED) if _starts_as_cvat(path)]


def _starts_as_cvat(path: Path) -> bool:
    tags: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda tag, _: tags.append(tag)
    try:
        with path.open("rb") as file:
            parser.Parse(file.read(_HEAD), False)
    except (OSError, expat.ExpatError):
        pass  # what was parsed before may be enough; `read` reports the error
    return tags[:1] == ["annotations"] and {*tags[1:]} & {"version", "meta", "image"} != set()


def _element(path: Path | str, place: _Place, tag: str) -> ElementTree.Element:
    """Parse one element of the file. It can't declare entities, which only a DOCTYPE does."""
    try:
        with Path(path).open("rb") as file:
            file.seek(place.start)
            data = file.read(place.end - place.start)
        if not (data.endswith(b"/>") and data.count(b"<") == 1):
            data += f"</{tag}>".encode()
        return ElementTree.fromstring(data)
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(
            "can't be read again; the file changed.", path=f"{path}: line {place.line}, <{tag}>"
        ) from error


def _classes(path: Path, meta: ElementTree.Element) -> list[ClassName]:
    classes = []
    for label in meta.findall("./*/labels/label"):
        name = label.findtext("name") or ""
        part_of_skeleton = label.find("parent") is not None
        if name and not part_of_skeleton and label.findtext("type") not in _NO_REGION_TYPES:
            color = label.findtext("color")
            where = f"{path}: <meta>, label {name!r}, color"
            classes.append(ClassName(name, hex_color(color, where) if color else None))
    return classes


def _check_labels(path: Path, used: dict[str, int], listed: Sequence[str]) -> None:
    """Raise UserError for a label that <meta> does not list, if it lists any."""
    unknown = [label for label in used if label not in listed]
    if listed and unknown:
        raise UserError(
            f"found the label {unknown[0]!r}, expected one of <meta>: {', '.join(listed)}.",
            path=f"{path}: line {used[unknown[0]]}",
            remedy="Export it again, or correct the label.",
        )


def _record(path: Path, place: _Place, task_subset: str, images: ImageFiles) -> Record:
    attributes = place.attributes
    name = attributes.get("name", "")
    where = f"{path}: line {place.line}, image {name!r}"
    name = relative_name(name, where)
    subset = attributes.get("subset", "")  # which only projects have
    paths = [relative_name(f"{subset}/{name}", where), name] if subset else [name]
    found = (images.find(f"{start}{p}") for start in ("images/", "") for p in paths)
    image = next((file for file in found if file), images.folder / "images" / paths[0])
    split = subset or task_subset
    return Record(
        without_suffix(paths[0]),
        image,
        (str(path), place) if place.regions else None,
        where,
        _image_size(attributes, where),
        split if split and split != _DEFAULT_SUBSET else None,
    )


def _image_size(attributes: dict[str, str], where: str) -> tuple[int, int] | None:
    if "width" not in attributes or "height" not in attributes:
        return None
    try:
        size = int(attributes["height"]), int(attributes["width"])
    except ValueError:
        size = 0, 0
    if min(size) < 1:
        raise UserError(
            f"found width {attributes['width']!r} and height {attributes['height']!r}, expected "
            "pixels.",
            path=where,
        )
    return size


def _shape(element: ElementTree.Element, size: tuple[int, int], order: int, where: str) -> Shape:
    label = element.get("label", "")
    if element.tag == "mask":
        mask, offset = _mask(element, size, where)
        return Shape(label, mask=mask, offset=offset, order=order)
    if element.tag == "box":
        left, top, right, bottom = (
            _number(element, key, where) for key in ("xtl", "ytl", "xbr", "ybr")
        )
        center = (left + right) / 2, (top + bottom) / 2
        ring = rotate(box_ring(left, top, right, bottom), _rotation(element, where), center)
    elif element.tag == "ellipse":
        cx, cy, rx, ry = (_number(element, key, where) for key in ("cx", "cy", "rx", "ry"))
        ring = ellipse_ring((cx, cy), (rx, ry), _rotation(element, where))
    else:
        ring = _points(element, where)
    stroke = _LINE_WIDTH if element.tag == "polyline" else 0.0
    return Shape(label, (ring,), stroke=stroke, order=order)


def _points(element: ElementTree.Element, where: str) -> np.ndarray:
    """(N, 2) float64 of "x,y;x,y"."""
    text = element.get("points", "")
    try:
        pairs = [[float(number) for number in pair.split(",")] for pair in text.split(";")]
        ring = np.array(pairs, np.float64)
    except ValueError:  # not numbers, or pairs of different lengths
        ring = np.empty(0)
    if ring.ndim != 2 or ring.shape[1] != 2:
        raise UserError(f"found {shown(text)}, expected x,y;x,y;...", path=f"{where}, points")
    return ring


def _mask(
    element: ElementTree.Element, size: tuple[int, int], where: str
) -> tuple[np.ndarray, tuple[int, int]]:
    """The mask (h, w) and its column and row.

    Its run lengths go row by row through the box, and begin with one of pixels outside the shape.
    """
    left, top, width, height = (
        _integer(element, key, where) for key in ("left", "top", "width", "height")
    )
    if not (1 <= width <= size[1] and 1 <= height <= size[0]):
        raise UserError(
            f"found a mask of {width}x{height} pixels, expected one within the image of "
            f"{size[1]}x{size[0]}.",
            path=where,
        )
    text = element.get("rle", "")
    try:
        lengths = [int(number) for number in text.split(",")]
    except ValueError:
        lengths = [-1]
    if min(lengths) < 0:
        raise UserError(f"found {shown(text)}, expected lengths N, N, ...", path=f"{where}, rle")
    if sum(lengths) != width * height:
        raise UserError(
            f"found {sum(lengths)} pixels, expected {width}x{height} = {width * height}.",
            path=f"{where}, rle",
        )
    runs = np.arange(len(lengths)) % 2 == 1
    return np.repeat(runs, lengths).reshape(height, width), (left, top)


def _rotation(element: ElementTree.Element, where: str) -> float:
    return _number(element, "rotation", where) if "rotation" in element.attrib else 0.0


def _number(element: ElementTree.Element, key: str, where: str) -> float:
    text = element.get(key)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"found {shown(text)}, expected a number.", path=f"{where}, {key}")
    return value


def _integer(element: ElementTree.Element, key: str, where: str, default: int | None = None) -> int:
    text = element.get(key)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError as error:
        raise UserError(
            f"found {shown(text)}, expected an integer.", path=f"{where}, {key}"
        ) from error


FORMAT = Format("cvat-images", "CVAT for images 1.1", recognize, read)
