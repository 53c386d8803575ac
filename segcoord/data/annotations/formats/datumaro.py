"""Datumaro's JSON, which Geti exports too: annotations/SUBSET.json and a folder of images.

Source: the exporter of github.com/openvinotoolkit/datumaro, format version 1.0 and earlier.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from segcoord.data.annotations.image_lookup import ImageFiles, report_missing
from segcoord.data.annotations.names import (
    background_of,
    is_color,
    leaves_folder,
    require_unique,
)
from segcoord.data.annotations.records import ClassName, Color, Export, Format, Record, Shape
from segcoord.data.annotations.rings import crop_mask, flat_ring
from segcoord.data.annotations.source_files import member, read_head, read_json, shown
from segcoord.utils.errors import UserError

_TITLE = "Datumaro JSON"
_SIGNS = re.compile(r'"dm_format_version"\s*:|"categories"\s*:\s*\{\s*"(label|mask|points)"\s*:')
_NO_SPLIT = "default"  # the subset of items without one
_ELLIPSE_POINTS = 72
_SHAPES = ("polygon", "mask", "ellipse")
_LEFT_OUT = {
    "bbox": "bounding boxes without a polygon",
    "rotated_bbox": "rotated bounding boxes",
    "polyline": "polylines",
    "points": "points",
    "skeleton": "skeletons",
    "label": "labels of whole images",
    "caption": "captions",
    "cuboid_2d": "cuboids",
    "cuboid_3d": "cuboids",
}


def recognize(root: Path) -> str | None:
    """A file annotations/*.json whose categories are an object, as only Datumaro's are."""
    for file in _files(root):
        if _SIGNS.search(read_head(file)):
            return f"annotations/{file.name} with the categories of Datumaro"
    return None


def read(root: Path) -> Export:
    """Read the subsets, each of which is a split.

    Raises:
        UserError: no annotations, no images, a value of the wrong type, an image with two
            annotations.
    """
    files = _files(root)
    if not files:
        raise UserError("no JSON files, expected one for each subset.", path=root / "annotations")
    index = ImageFiles(root / "images")
    labels: dict[str, list[str]] = {}
    colors: dict[str, Color] = {}
    records: list[Record] = []
    missing: list[str] = []
    skipped: Counter[str] = Counter()
    for file in files:
        data = read_json(file)
        labels[file.stem] = _labels(data, file)
        colors |= _colors(data, labels[file.stem], file)
        for number, item in enumerate(member(data, "items", list, file)):
            where = f"{file}: items[{number}]"
            annotations = _annotations(item, where)
            record = _record(item, where, file.stem, annotations, index)
            if record is None:
                missing.append(_image(item).get("path") or item["id"])
            else:
                records.append(record)
            skipped.update(filter(None, map(_left_out, annotations)))
    report_missing(missing, records, index.folder, skipped)
    require_unique(records)
    names = dict.fromkeys(name for subset in labels.values() for name in subset)
    classes = [ClassName(name, colors.get(name), number) for number, name in enumerate(names)]
    return Export(
        format=_TITLE,
        records=records,
        classes=classes,
        annotation=partial(_annotation, labels),
        background=background_of(classes),
        skipped=skipped,
    )


def _annotation(
    labels: Mapping[str, Sequence[str]], record: Record, size: tuple[int, int]
) -> Sequence[Shape]:
    """The shapes of an item, in an image of size (height, width)."""
    subset, annotations = record.content
    regions = [(n, a, f"{record.where}: annotations[{n}]") for n, a in enumerate(annotations)]
    regions = [region for region in regions if not _left_out(region[1])]
    depths = [_depth(annotation, where) for _, annotation, where in regions]
    ordered = len({*depths}) > 1  # if all are equal, they say nothing about overlaps
    shapes = []
    for depth, (number, annotation, where) in zip(depths, regions):
        order = depth * len(annotations) + number if ordered else None
        shape = _shape(annotation, _label(annotation, labels[subset], where), order, size, where)
        shapes += [shape] if shape else []
    return shapes


def _shape(
    annotation: dict, label: str, order: int | None, size: tuple[int, int], where: str
) -> Shape | None:
    """One shape; None for an empty mask."""
    kind = annotation["type"]
    if kind == "mask":
        part = crop_mask(_decode(member(annotation, "rle", dict, where), size, f"{where}: rle"))
        return Shape(label, mask=part[0], offset=part[1], order=order) if part else None
    points = flat_ring(member(annotation, "points", list, where), f"{where}: points")
    if kind == "ellipse":
        points = _ellipse(points, where)
    return Shape(label, (points,), order=order)


def _decode(rle: dict, size: tuple[int, int], where: str) -> np.ndarray:
    """The mask of a compressed COCO RLE as (H, W) bool."""
    from pycocotools import mask as coco  # only masks need it

    counts, stated = member(rle, "counts", str, where), member(rle, "size", list, where)
    if stated != list(size):
        raise UserError(
            f"size: found {shown(stated)}, expected the image's height and width, {list(size)}.",
            path=where,
            remedy="The mask belongs to another image, or the image was resized.",
        )
    try:
        return coco.decode({"counts": counts.encode("ascii"), "size": stated}).astype(bool)
    except (ValueError, TypeError):
        raise UserError(
            "counts: can't be decoded as a compressed RLE of COCO.",
            path=where,
            remedy="Export the dataset again.",
        ) from None


def _ellipse(points: np.ndarray, where: str) -> np.ndarray:
    """The ring of an ellipse, given by two corners of its box."""
    if len(points) != 2:
        raise UserError(
            f"points: found {len(points)}, expected the 2 corners of an ellipse.", path=where
        )
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    return points.mean(0) + circle * np.ptp(points, axis=0) / 2


def _label(annotation: dict, labels: Sequence[str], where: str) -> str:
    number = member(annotation, "label_id", int, where)
    if not 0 <= number < len(labels):
        raise UserError(
            f"label_id: found {number}, expected 0 to {len(labels) - 1}: a position in "
            "categories.label.labels.",
            path=where,
        )
    return labels[number]


def _depth(annotation: dict, where: str) -> int:
    """The z-order of an annotation; formats before 1.0 leave out 0."""
    return member(annotation, "z_order", int, where) if "z_order" in annotation else 0


def _left_out(annotation: dict) -> str | None:
    """Why an annotation is no region of a class; None if it is one."""
    kind = annotation.get("type")
    if kind not in _SHAPES:
        return _LEFT_OUT.get(kind, "annotations of another type")
    if "label_id" in annotation and annotation["label_id"] is None:
        return "shapes without a label"
    points = annotation.get("points")
    if kind == "polygon" and isinstance(points, list) and len(points) < 6:
        return "polygons with fewer than 3 points"
    return None


def _record(
    item: dict, where: str, subset: str, annotations: list[dict], index: ImageFiles
) -> Record | None:
    """The record of an item; None if its image is not there."""
    name = member(item, "id", str, where)
    path, size = _image(item).get("path"), _image(item).get("size")
    has_path = isinstance(path, str) and path and not leaves_folder(path)
    paths = [f"{subset}/{path}", path] if has_path else []
    stems = [] if leaves_folder(name) else [f"{subset}/{name}", name]
    image = index.find_first(paths, stems)
    if image is None:
        return None
    return Record(
        name=image.relative_to(index.folder).with_suffix("").as_posix(),
        image=image,
        content=None if all(map(_left_out, annotations)) else (subset, annotations),
        where=f"{where} ({name})",
        size=tuple(size) if isinstance(size, list) and len(size) == 2 else None,
        split=None if subset == _NO_SPLIT else subset,
    )


def _annotations(item: object, where: str) -> list[dict]:
    annotations = member(item, "annotations", list, where)
    for number, annotation in enumerate(annotations):
        member(annotation, "type", str, f"{where}: annotations[{number}]")
    return annotations


def _image(item: dict) -> dict:
    """The path and the size of an item's image, if it has them."""
    image = item.get("image")
    return image if isinstance(image, dict) else {}


def _labels(data: object, file: Path) -> list[str]:
    categories = member(data, "categories", dict, file)
    where = f"{file}: categories"
    label = member(categories, "label", dict, where)
    items = member(label, "labels", list, f"{where}.label")
    return [
        member(item, "name", str, f"{where}.label.labels[{number}]")
        for number, item in enumerate(items)
    ]


def _colors(data: dict, labels: Sequence[str], file: Path) -> dict[str, Color]:
    """The colors of the labels; empty without a color map."""
    found = {}
    mask = data["categories"].get("mask")
    place = f"{file}: categories.mask"
    colormap = member(mask, "colormap", list, place) if mask else []
    for number, entry in enumerate(colormap):
        where = f"{place}.colormap[{number}]"
        label = member(entry, "label_id", int, where)
        color = tuple(entry.get(channel) for channel in "rgb")
        if not is_color(color):
            raise UserError(f"found {shown(color)}, expected r, g and b from 0 to 255.", path=where)
        if 0 <= label < len(labels):
            found[labels[label]] = color
    return found


def _files(root: Path) -> list[Path]:
    folder = root / "annotations"
    return sorted(p for p in folder.glob("*.json") if p.is_file() and p.name[0] != ".")


FORMAT = Format("datumaro", _TITLE, recognize, read)
