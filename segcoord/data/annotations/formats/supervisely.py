"""Supervisely's project format.

    meta.json                       the classes with their colors
    DATASET/ann/NAME.jpg.json       the objects of an image
    DATASET/img/NAME.jpg
    DATASET/datasets/DATASET/...    of datasets within datasets

Datasets become folders in the names of images. Integer coordinates, which all exports have, number
pixels: a point is the center of its pixel, and a rectangle includes the pixels of both corners.
Other coordinates are continuous. Lines are drawn 1 pixel wide, as by Supervisely's own library.
Supervisely has no order of objects.

Source: `getting-started/supervisely-annotation-format` of github.com/supervisely/developer-portal,
and `supervisely/geometry` of github.com/supervisely/supervisely (Apache-2.0).
"""

from __future__ import annotations

import base64
import io
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from segcoord.data.annotations.image_lookup import ImageFiles
from segcoord.data.annotations.names import hex_color, without_suffix
from segcoord.data.annotations.records import ClassName, Export, Format, Record, Shape
from segcoord.data.annotations.rings import box_ring, paired_ring
from segcoord.data.annotations.source_files import member, read_head, read_json, shown, typed
from segcoord.data.corruption import DECODE_ERRORS
from segcoord.data.file_pattern import list_files
from segcoord.utils.errors import UserError

_META = "meta.json"
_ANNOTATIONS, _IMAGES, _NESTED = "ann", "img", "datasets"
_REGIONS = ("bitmap", "polygon", "multipolygon", "rectangle", "line")
_NO_REGION_SHAPES = ("point", "graph", "cuboid")  # of classes
_LINE_WIDTH = 1.0
_PNG_BYTES = 8, 1 << 16  # of the largest mask: for each pixel, and for the rest of the file


class _Item(NamedTuple):
    """An image and its annotation, either of which may be absent."""

    name: str
    """Path of the image below the project, without `img`, `datasets` and the suffix."""
    image: Path
    annotation: Path | None


class _Object(NamedTuple):
    where: str
    content: dict
    label: str
    kind: str


def recognize(folder: Path) -> str | None:
    if '"classes"' not in read_head(folder / _META):
        return None
    patterns = (_ANNOTATIONS, f"*/{_ANNOTATIONS}", f"*/{_NESTED}/*/{_ANNOTATIONS}")
    found = (path for pattern in patterns for path in sorted(folder.glob(pattern)))
    first = next((path for path in found if path.is_dir()), None)
    return None if first is None else f"{_META} and {first.relative_to(folder).as_posix()}"


def read(folder: Path) -> Export:
    """Read the classes, and list the objects of all annotations.

    Raises:
        UserError: a project of another type; a meta.json that is cut short or has another
            structure; no images.
    """
    shapes = _classes(folder / _META)
    skipped: Counter[str] = Counter()
    records = [_record(item, skipped) for item in _items(folder)]
    if not records:
        raise UserError(
            f"found no images, expected DATASET/{_ANNOTATIONS} and DATASET/{_IMAGES}.", path=folder
        )
    classes = [entry for entry, shape in shapes if shape not in _NO_REGION_SHAPES]
    read_one = partial(annotation, known=[entry.name for entry, _ in shapes])
    return Export(FORMAT.title, records, classes, read_one, skipped=skipped)


def annotation(record: Record, size: tuple[int, int], known: Sequence[str]) -> Sequence[Shape]:
    """The shapes of an image.

    Raises:
        UserError: a file that is cut short or has another structure; a class that is not `known`;
            coordinates that are no numbers; a bitmap that can't be decoded or is larger than the
            image.
    """
    shapes: list[Shape] = []
    for where, content, label, kind in _read_annotation(Path(record.content))[1]:
        if label not in known:
            raise UserError(
                f"found the class {label!r}, expected one of {_META}: {', '.join(known)}.",
                path=f"{where}, classTitle",
            )
        if kind == "bitmap":
            mask, offset = _bitmap(member(content, "bitmap", dict, where), size, f"{where}, bitmap")
            shapes.append(Shape(label, mask=mask, offset=offset))
        elif kind == "multipolygon":
            for number, part in enumerate(member(content, "parts", list, where)):
                shapes.append(Shape(label, _rings(part, f"{where}, parts[{number}]")))
        elif kind in _REGIONS:
            points = member(content, "points", dict, where)
            rings = _rings(points, f"{where}, points", kind == "rectangle")
            shapes.append(Shape(label, rings, stroke=_LINE_WIDTH if kind == "line" else 0.0))
    return shapes


def _classes(path: Path) -> list[tuple[ClassName, str]]:
    """The classes with their shapes."""
    meta = typed(read_json(path), dict, str(path))
    project = meta.get("projectType", "images")
    if project != "images":
        raise UserError(f"found a project of {shown(project)}, expected images.", path=path)
    classes = []
    for index, entry in enumerate(member(meta, "classes", list, str(path))):
        where = f"{path}: classes[{index}]"
        name = member(entry, "title", str, where)
        color = hex_color(entry["color"], f"{where}, color") if "color" in entry else None
        number = entry.get("id")
        number = number if type(number) is int else None
        classes.append((ClassName(name, color, number), member(entry, "shape", str, where)))
    return classes


def _items(folder: Path) -> list[_Item]:
    images = ImageFiles(folder)
    items = []
    used = set()
    for file in list_files(folder):
        *dataset, last, name = ["", *file.split("/")]
        if last == _ANNOTATIONS and name.lower().endswith(".json"):
            name = name[: -len(".json")]
            path = "/".join([*dataset[1:], _IMAGES, name])
            image = images.find(path) or folder / path
            used.add(image)
            items.append(_Item(_name(dataset[1:], name), image, folder / file))
    for path in images.paths:
        *dataset, last, name = ["", *path.split("/")]
        if last == _IMAGES and folder / path not in used:
            items.append(_Item(_name(dataset[1:], name), folder / path, None))
    return items


def _name(dataset: Sequence[str], file: str) -> str:
    return "/".join([*(part for part in dataset if part != _NESTED), without_suffix(file)])


def _record(item: _Item, skipped: Counter[str]) -> Record:
    if item.annotation is None:
        return Record(item.name, item.image, None, str(item.image))
    path = str(item.annotation)
    try:
        size, objects = _read_annotation(item.annotation)
    except UserError:  # `annotation` raises it again, as an error about this image
        return Record(item.name, item.image, path, path)
    kinds = [entry.kind for entry in objects]
    skipped.update(f"objects of type {kind}" for kind in kinds if kind not in _REGIONS)
    has_regions = any(kind in _REGIONS for kind in kinds)
    return Record(item.name, item.image, path if has_regions else None, path, size)


def _read_annotation(path: Path) -> tuple[tuple[int, int], list[_Object]]:
    """The size (height, width) of the image, and its objects."""
    content = typed(read_json(path), dict, str(path))
    size = member(content, "size", dict, str(path))
    height, width = (member(size, key, int, f"{path}: size") for key in ("height", "width"))
    objects = []
    for index, entry in enumerate(member(content, "objects", list, str(path))):
        where = f"{path}: objects[{index}]"
        label = member(entry, "classTitle", str, where)
        kind = member(entry, "geometryType", str, where)
        objects.append(_Object(where, entry, label, kind))
    return (height, width), objects


def _rings(points: object, where: str, is_rectangle: bool = False) -> tuple[np.ndarray, ...]:
    """The exterior and the holes in continuous coordinates."""
    outer = paired_ring(member(points, "exterior", list, where), f"{where}, exterior")
    holes = typed(points.get("interior", []), list, f"{where}, interior")
    rings = [outer, *(paired_ring(hole, f"{where}, interior[{i}]") for i, hole in enumerate(holes))]
    numbers_pixels = all(np.array_equal(ring, np.rint(ring)) for ring in rings)
    if not is_rectangle:
        return tuple(ring + 0.5 for ring in rings) if numbers_pixels else tuple(rings)
    if len(outer) != 2:
        raise UserError(
            f"found {len(outer)} points, expected two corners.", path=f"{where}, exterior"
        )
    (left, top), (right, bottom) = outer.min(axis=0), outer.max(axis=0) + numbers_pixels
    return (box_ring(left, top, right, bottom),)


def _bitmap(content: dict, size: tuple[int, int], where: str) -> tuple[np.ndarray, tuple[int, int]]:
    """The mask (h, w) bool of a PNG, and its column and row."""
    origin = member(content, "origin", list, where)
    if len(origin) != 2 or not all(type(number) is int for number in origin):
        raise UserError(f"found {shown(origin)}, expected [column, row].", path=f"{where}, origin")
    try:
        raw = base64.b64decode(member(content, "data", str, where), validate=True)
        with Image.open(io.BytesIO(_unpack(raw, size)), formats=["PNG"]) as image:
            if image.width > size[1] or image.height > size[0]:
                raise UserError(
                    f"found a bitmap of {image.width}x{image.height} pixels, expected one within "
                    f"the image of {size[1]}x{size[0]}.",
                    path=where,
                )
            return _opaque(image), (origin[0], origin[1])
    except DECODE_ERRORS as error:
        raise UserError(
            "found data that are no PNG in base64, or cut short.",
            path=f"{where}, data",
            remedy="Export it again.",
        ) from error


def _unpack(raw: bytes, size: tuple[int, int]) -> bytes:
    """The PNG, which some programs do not compress once more."""
    per_pixel, rest = _PNG_BYTES
    try:
        return zlib.decompressobj().decompress(raw, per_pixel * size[0] * size[1] + rest)
    except zlib.error:
        return raw


def _opaque(image: Image.Image) -> np.ndarray:
    """(h, w) bool: pixels with any opacity or, without an alpha channel, any but black ones."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    pixels = np.array(image)
    if pixels.ndim == 2:
        return pixels > 0
    return pixels[..., -1] > 0 if image.mode in ("RGBA", "LA") else pixels.any(axis=-1)


FORMAT = Format("supervisely", "Supervisely", recognize, read)
