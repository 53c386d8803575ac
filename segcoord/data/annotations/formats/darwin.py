"""V7 Darwin JSON, versions 2.0 and 1.0: one file per image, with polygons and mask layers.

Source: docs.v7labs.com and the datatypes of github.com/v7labs/darwin-py.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segcoord.data.annotations.image_lookup import ImageFiles, report_missing
from segcoord.data.annotations.names import background_of, leaves_folder, require_unique
from segcoord.data.annotations.records import ClassName, Export, Format, Record, Shape
from segcoord.data.annotations.rings import crop_mask, flat_ring
from segcoord.data.annotations.source_files import member, peek_json, read_json, shown
from segcoord.data.file_pattern import list_files
from segcoord.utils.errors import UserError

_TITLE = "V7 Darwin JSON"
_POLYGONS = ("polygon", "complex_polygon")
_LEFT_OUT = {
    "ellipse": "ellipses",
    "line": "lines",
    "keypoint": "keypoints",
    "skeleton": "skeletons",
    "tag": "tags",
    "cuboid": "cuboids",
    "bounding_box": "bounding boxes without a polygon",  # polygons have one too
}
_PEEKED = 3  # files that are read to recognize the format


class _Item(NamedTuple):
    """The image of a file."""

    names: list[str]  # paths that it may have below the image folder
    size: tuple[int, int] | None  # (height, width)
    left_out: str | None  # why it is not imported


class _Content(NamedTuple):
    """A file whose structure is right."""

    item: _Item
    annotations: list[dict]
    classes: set[str]
    skipped: Counter[str]  # annotations that are no regions of a class, by reason


def recognize(root: Path) -> str | None:
    """JSON files with an item and its slots, or of version 1.0 with an image."""
    for folder in _annotation_folders(root)[:1]:
        for file in _files(folder)[:_PEEKED]:
            version = _version(peek_json(folder / file))
            if version:
                place = (folder / file).relative_to(root).as_posix()
                return f"{place} of Darwin {version}"
    return None


def read(root: Path) -> Export:
    """Read the annotations of the latest release, or of the only one, or of the folder itself.

    Images are found by the path and the name of their item, below images or else the folder itself.

    Raises:
        UserError: several releases without a latest one, a file that is not Darwin JSON and has not
            the name of an image, no image, two annotations of an image.
    """
    folders = _annotation_folders(root)
    if len(folders) > 1:
        found = ", ".join(f.parent.name for f in folders)
        raise UserError(
            f"found the releases {found}, expected one, or latest.",
            path=root / "releases",
            remedy="Remove the others.",
        )
    index = ImageFiles(root / "images" if (root / "images").is_dir() else root)
    records: list[Record] = []
    missing: list[str] = []
    names: set[str] = set()
    skipped: Counter[str] = Counter()
    for path in (folders[0] / file for file in _files(folders[0])):
        stem = path.relative_to(folders[0]).with_suffix("")
        try:
            item, _, classes, left_out = _load(path)
        except UserError:
            image = index.find_first([], [stem.as_posix(), stem.name])
            if image is None:
                raise
            records.append(_record(path, image, index))  # `_annotation` raises it again
            continue
        if item.left_out:
            skipped[item.left_out] += 1
            continue
        skipped.update(left_out)
        image = index.find_first(item.names)
        if image is None:
            missing.append(item.names[0])
            continue
        names |= classes
        record = _record(path, image, index)
        records.append(replace(record, content=path if classes else None, size=item.size))
    report_missing(missing, records, index.folder, skipped)
    require_unique(records)
    listed = [ClassName(name) for name in sorted(names, key=lambda n: (n.casefold(), n))]
    return Export(
        format=_TITLE,
        records=records,
        classes=listed,
        annotation=_annotation,
        background=background_of(listed),
        skipped=skipped,
    )


def _record(path: Path, image: Path, index: ImageFiles) -> Record:
    name = image.relative_to(index.folder).with_suffix("").as_posix()
    return Record(name=name, image=image, content=path, where=str(path))


def _load(path: Path) -> _Content:
    """Read a file, and check everything in it but the mask layers."""
    data = read_json(path)
    item = _item(data, path)
    annotations = member(data, "annotations", list, path)
    return _Content(item, annotations, *_summary(annotations, path))


def _annotation(record: Record, size: tuple[int, int]) -> Sequence[Shape]:
    """The shapes of a file, in an image of size (height, width)."""
    path = record.content
    annotations = _load(path).annotations
    masks = {a["id"]: a["name"] for a in annotations if "mask" in a}
    shapes = []
    for number, annotation in enumerate(annotations):
        where = f"{path}: annotations[{number}]"
        if "raster_layer" in annotation:
            layer = member(annotation, "raster_layer", dict, where)
            shapes += _layer_shapes(layer, masks, size, f"{where}.raster_layer")
        elif rings := _rings(annotation, where):
            shapes.append(Shape(annotation["name"], tuple(rings)))
    return shapes


def _layer_shapes(
    layer: dict, masks: Mapping[str, str], size: tuple[int, int], where: str
) -> Iterator[Shape]:
    """The masks of a layer, whose runs are pairs of a number and a length, row by row."""
    runs = member(layer, "dense_rle", list, where)
    if len(runs) % 2 or not all(type(v) is int and v >= 0 for v in runs):
        raise UserError(
            "dense_rle: expected pairs of whole numbers: a mask and a length.", path=where
        )
    lengths = np.array(runs[1::2], np.int64)
    if lengths.sum() != size[0] * size[1]:
        raise UserError(
            f"dense_rle: found {lengths.sum()} pixels, expected {size[0] * size[1]}: the image is "
            f"{size[1]}x{size[0]} (width x height).",
            path=where,
            remedy="The masks belong to another image, or the image was resized.",
        )
    pixels = np.repeat(np.array(runs[::2], np.int64), lengths).reshape(size)
    numbers = member(layer, "mask_annotation_ids_mapping", dict, where)
    unknown = set(runs[::2]) - {0, *map(_number, numbers.values())}
    if unknown:
        raise UserError(
            f"dense_rle: the number {min(unknown)} is not in mask_annotation_ids_mapping.",
            path=where,
        )
    for key, number in numbers.items():
        part = crop_mask(pixels == _number(number))
        if key not in masks:
            raise UserError(
                f"mask_annotation_ids_mapping: found {key!r}, the id of no mask.", path=where
            )
        if part:
            yield Shape(masks[key], mask=part[0], offset=part[1])


def _number(value: object) -> int:
    """A number of the mapping; -1, which no pixel has, for anything else."""
    return value if type(value) is int else -1


def _rings(annotation: dict, where: str) -> list[np.ndarray]:
    """The rings of a polygon, holes among them; empty for other annotations."""
    kind = next((key for key in _POLYGONS if key in annotation), None)
    if kind is None:
        return []
    where = f"{where}.{kind}"
    rings = []
    for path in _paths(member(annotation, kind, dict, where), where):
        if not isinstance(path, list) or not all(isinstance(p, dict) for p in path):
            raise UserError(f"found {shown(path)}, expected a list of points.", path=where)
        if len(path) >= 3:
            rings.append(flat_ring([p.get(axis) for p in path for axis in "xy"], where))
    return rings


def _paths(polygon: dict, where: str) -> list:
    """The lists of points of a polygon of either version."""
    if "paths" in polygon:
        return member(polygon, "paths", list, where)
    path = member(polygon, "path", list, where)
    if path and isinstance(path[0], list):
        return path
    more = member(polygon, "additional_paths", list, where) if "additional_paths" in polygon else []
    return [path, *more]


def _summary(annotations: list, path: Path) -> tuple[set[str], Counter[str]]:
    """The classes of the regions of an image, and the counts of what is left out."""
    classes: set[str] = set()
    left_out: Counter[str] = Counter()
    drawn: set[str] = set()
    for annotation in annotations:
        if isinstance(annotation, dict) and isinstance(annotation.get("raster_layer"), dict):
            numbers = annotation["raster_layer"].get("mask_annotation_ids_mapping")
            drawn |= {*numbers} if isinstance(numbers, dict) else set()
    for number, annotation in enumerate(annotations):
        where = f"{path}: annotations[{number}]"
        name = member(annotation, "name", str, where)
        if "raster_layer" in annotation:
            continue
        if reason := _left_out(annotation, drawn, where):
            left_out[reason] += 1
        else:
            classes.add(name)
    return classes, left_out


def _left_out(annotation: dict, drawn: set[str], where: str) -> str | None:
    """Why an annotation is no region of a class; None if it is one."""
    if "mask" in annotation:
        return None if member(annotation, "id", str, where) in drawn else "masks without pixels"
    if any(key in annotation for key in _POLYGONS):
        return None if _rings(annotation, where) else "polygons with fewer than 3 points"
    kind = next((key for key in _LEFT_OUT if key in annotation), None)
    return _LEFT_OUT.get(kind, "annotations of another type")


def _item(data: object, path: Path) -> _Item:
    """The image of a file of either version."""
    version = _version(data)
    if version is None:
        raise UserError(
            "found no item with slots and no image with a filename, expected Darwin JSON.",
            path=path,
            remedy="Remove it, if it is no annotation.",
        )
    if version == "1.0":
        image = data["image"]
        stated = [image.get(key) for key in ("filename", "original_filename")]
        left_out = "videos" if "frame_count" in image else None
        return _Item(_image_names(image, stated, path), _size(image), left_out)
    item = data["item"]
    slots = item["slots"]
    slot = slots[0] if slots and isinstance(slots[0], dict) else {}
    files = [f for f in slot.get("source_files") or [] if isinstance(f, dict)]
    stated = [item.get("name"), *(f.get("file_name") for f in files)]
    kind = slot.get("type", "image")
    left_out = None if kind == "image" else f"items of the type {kind}"
    if len(slots) != 1:
        left_out = "items of several images"
    return _Item(_image_names(item, stated, path), _size(slot), left_out)


def _image_names(item: dict, stated: Sequence[object], path: Path) -> list[str]:
    """The paths that an image may have: in the folder of its item, or without it."""
    names = [name for name in stated if isinstance(name, str) and name]
    folder = str(item.get("path") or "").strip("/")
    if not names or any(leaves_folder(name) for name in (folder, *names)):
        raise UserError(
            f"found the image {shown(names[0] if names else None)} in {folder!r}, expected names "
            "within the folder of the images.",
            path=path,
        )
    below = [f"{folder}/{name}" for name in names] if folder else []
    return below + names


def _size(image: dict) -> tuple[int, int] | None:
    size = image.get("height"), image.get("width")
    return size if all(type(v) is int for v in size) else None


def _version(data: object) -> str | None:
    """2.0 or 1.0; None for what is not Darwin JSON."""
    if not isinstance(data, dict) or not isinstance(data.get("annotations"), list):
        return None
    item, image = data.get("item"), data.get("image")
    if isinstance(item, dict) and isinstance(item.get("slots"), list):
        return "2.0"
    return "1.0" if isinstance(image, dict) and "filename" in image else None


def _annotation_folders(root: Path) -> list[Path]:
    """The folders of annotations: one, or those of several releases."""
    latest = root / "releases" / "latest" / "annotations"
    if latest.is_dir():
        return [latest]
    releases = sorted(p for p in root.glob("releases/*/annotations") if p.is_dir())
    folder = root / "annotations"
    return releases or [folder if folder.is_dir() else root]


def _files(folder: Path) -> list[str]:
    return [f for f in list_files(folder) if f.lower().endswith(".json")]


FORMAT = Format("darwin", _TITLE, recognize, read)
