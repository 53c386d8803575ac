"""Label Studio's JSON and JSON-MIN exports, with the images beside the file or below its folder.

    export.json         a list of tasks: their data, and their annotations with results
    .../NAME.jpg        found by the path in the task's data, with or without the 8 hexadecimal
                        digits and "-" that an upload puts before the name

Regions are polygons, rectangles, ellipses and brush masks. Coordinates are percent of the image.
Label Studio has no order of regions. Cancelled annotations, predictions, polygons that are not
closed and other regions are left out. The export does not list classes: they are those that occur.

The export of brush labels as PNG files does not name the images, so it can't be read.

Source: `label_studio_converter/converter.py` of github.com/HumanSignal/label-studio-converter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from segcoord.data.annotations.brush_rle import decode_brush
from segcoord.data.annotations.names import without_suffix
from segcoord.data.annotations.records import ClassName, Export, Format, Record, Shape
from segcoord.data.annotations.rings import box_ring, ellipse_ring, paired_ring, rotate
from segcoord.data.annotations.source_files import (
    finite,
    member,
    read_head,
    read_json,
    shown,
    typed,
)
from segcoord.data.annotations.uploaded_images import UploadedImages, path_parts
from segcoord.utils.errors import UserError

_LABELS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels", "labels")
_KEYS = re.compile(rf'"(annotations|annotation_id|original_width|{"|".join(_LABELS)})"\s*:')
_GEOMETRIES = ("polygon", "rectangle", "ellipse", "brush")
_BRUSH_PNG = re.compile(r"task-\d+-annotation-\d+-by-.*-\d+\.png")
_MAX_OPENED = 20  # files that `recognize` opens


@dataclass(frozen=True, slots=True)
class _Task:
    where: str
    data: dict
    upload: str | None
    """Name of the uploaded file."""
    results: list | int | None
    """None if the task has no annotation; the number of annotations if it has several."""


def recognize(folder: Path) -> str | None:
    if files := _json_files(folder):
        return f"{files[0].name} with tasks"
    masks = _brush_pngs(folder)
    return f"PNG files of brush labels such as {masks[0]}" if masks else None


def read(folder: Path) -> Export:
    """Read the JSON files in a folder.

    Raises:
        UserError: no such file, or one that is cut short or has another structure; an image whose
            name several files have; an export of brush labels as PNG files.
    """
    files = _json_files(folder)
    if not files:
        raise _nothing_error(folder)
    images = UploadedImages(folder)
    skipped: Counter[str] = Counter()
    records = []
    labels: dict[str, None] = {}
    for path in files:
        for task in _tasks(path, skipped):
            regions = _regions(task, skipped) if isinstance(task.results, list) else []
            labels |= dict.fromkeys(label for region in regions for label in region["labels"])
            content = regions if isinstance(task.results, list) else task.results
            records.append(_record(task, content, images))
    classes = [ClassName(label) for label in labels]
    return Export(FORMAT.title, records, classes, annotation, skipped=+skipped)


def annotation(record: Record, size: tuple[int, int]) -> Sequence[Shape]:
    """The shapes of an image.

    Raises:
        UserError: several annotations of a task, unless one is the ground truth; a region with
            several labels; coordinates that are no numbers; a brush mask of another size than the
            image, or that can't be decoded; an image that was turned in Label Studio.
    """
    if isinstance(record.content, int):
        raise UserError(
            f"found {record.content} annotations, expected one.",
            path=record.where,
            remedy="Mark one as ground truth in Label Studio and export as JSON, or delete the "
            "others.",
        )
    shapes = []
    for region in record.content:
        where, value, labels = region["where"], region["value"], region["labels"]
        if len(labels) > 1:
            raise UserError(
                f"found the labels {', '.join(map(repr, labels))}, expected one class.",
                path=where,
                remedy="Remove the others in Label Studio, and export again.",
            )
        if region["turned"]:
            raise UserError(
                f"found {shown(region['turned'])}, expected an image that is not turned.",
                path=f"{where}, image_rotation",
                remedy="Turn it back in Label Studio, and export again.",
            )
        if region["kind"] == "brush":
            shapes.append(Shape(labels[0], mask=_mask(region, size)))
        else:
            shapes.append(Shape(labels[0], (_ring(region["kind"], value, size, where),)))
    return shapes


def _json_files(folder: Path) -> list[Path]:
    """The files directly in a folder that start as a list of tasks."""
    files = (path for path in sorted(folder.glob("*.json")) if path.name[0] != ".")
    return [path for path in islice(files, _MAX_OPENED) if _starts_with_tasks(path)]


def _starts_with_tasks(path: Path) -> bool:
    head = read_head(path).lstrip()
    return head.startswith("[") and _KEYS.search(head) is not None


def _brush_pngs(folder: Path) -> list[str]:
    names = (path.name for path in folder.glob("task-*.png"))
    return sorted(name for name in islice(names, _MAX_OPENED) if _BRUSH_PNG.fullmatch(name))


def _nothing_error(folder: Path) -> UserError:
    if masks := _brush_pngs(folder):
        return UserError(
            f"found PNG files of brush labels such as {masks[0]}, which name tasks and not images.",
            path=folder,
            remedy="Export the project as JSON, which has the same masks.",
        )
    return UserError("found no .json file with a list of Label Studio's tasks.", path=folder)


def _tasks(path: Path, skipped: Counter[str]) -> Iterator[_Task]:
    minimal: dict[str, _Task] = {}
    counts: Counter[str] = Counter()
    for index, entry in enumerate(typed(read_json(path), list, str(path))):
        content = typed(entry, dict, f"{path}: [{index}]")
        number = shown(content.get("id", index))
        where = f"{path}: task {number}"
        if "annotations" not in content and "data" not in content:
            results = list(_minimal_results(content))
            counts[number] += 1
            if counts[number] > 1:
                results = counts[number]
            minimal[number] = _Task(where, content, None, results)
            continue
        predictions = content.get("predictions")
        skipped["predictions"] += len(predictions) if isinstance(predictions, list) else 0
        annotations = typed(content.get("annotations", []), list, f"{where}, annotations")
        chosen = _chosen(annotations, where, skipped)
        results = member(chosen, "result", list, where) if isinstance(chosen, dict) else chosen
        upload = content.get("file_upload")
        upload = upload if isinstance(upload, str) else None
        yield _Task(where, member(content, "data", dict, where), upload, results)
    yield from minimal.values()


def _minimal_results(entry: dict) -> Iterator[dict]:
    """The regions of JSON-MIN, which are lists of values under the names of control tags."""
    for values in entry.values():
        for value in values if isinstance(values, list) else []:
            if isinstance(value, dict):
                yield {**value, "value": value}


def _chosen(annotations: list, where: str, skipped: Counter[str]) -> dict | int | None:
    """The annotation that counts, or the number of those of which none is the ground truth."""
    entries = [typed(entry, dict, f"{where}, annotations") for entry in annotations]
    kept = [entry for entry in entries if not entry.get("was_cancelled")]
    skipped["cancelled annotations"] += len(entries) - len(kept)
    if len(kept) > 1:
        truths = [entry for entry in kept if entry.get("ground_truth")]
        if not truths:
            return len(kept)
        skipped["annotations beside a ground truth"] += len(kept) - 1
        return max(truths, key=lambda entry: str(entry.get("updated_at") or ""))
    return kept[0] if kept else None


def _regions(task: _Task, skipped: Counter[str]) -> list[dict]:
    """The regions with a label and a geometry, as plain values for `annotation`.

    With the tag Labels, one result has the geometry, and one of the same id has it and the label.
    """
    results = [typed(result, dict, f"{task.where}, result") for result in task.results]
    values = [result.get("value") for result in results]
    labelled = {
        str(result.get("id"))
        for result, value in zip(results, values)
        if isinstance(value, dict) and any(key in value for key in _LABELS)
    }
    regions = []
    for index, (result, value) in enumerate(zip(results, values)):
        if not isinstance(value, dict):
            continue  # a relation between regions
        where = f"{task.where}, result {index + 1}"
        key = next((key for key in _LABELS if key in value), None)
        kind = _kind(value)
        if key is None:
            others = [other for other in value if other.endswith("labels")]
            if others:
                skipped[f"{others[0]} regions"] += 1
            elif result.get("type") in _GEOMETRIES and str(result.get("id")) not in labelled:
                skipped["regions without a label"] += 1
        elif kind is None:
            skipped[f"{key} regions that are not of an image"] += 1
        elif value.get("closed") is False:
            skipped["polygons that are not closed"] += 1
        elif labels := member(value, key, list, where):
            labels = [typed(label, str, f"{where}, {key}") for label in labels]
            regions.append(_region(kind, labels, value, result, where))
        else:
            skipped["regions without a label"] += 1
    return regions


def _kind(value: dict) -> str | None:
    if "rle" in value:
        return "brush"
    if "points" in value:
        return "polygon"
    if "radiusX" in value:
        return "ellipse"
    return "rectangle" if {"x", "y", "width", "height"} <= value.keys() else None


def _region(kind: str, labels: list[str], value: dict, result: dict, where: str) -> dict:
    stored = value["rle"] if kind == "brush" else value
    if isinstance(stored, list):
        with suppress(TypeError, ValueError):  # `_mask` raises the error
            stored = bytes(stored)  # an eighth of the memory
    size = result.get("original_height"), result.get("original_width")
    return {
        "kind": kind,
        "labels": labels,
        "value": stored,
        "size": size if all(type(length) is int and length > 0 for length in size) else None,
        "turned": result.get("image_rotation") or 0,
        "where": where,
    }


def _mask(region: dict, size: tuple[int, int]) -> np.ndarray:
    where, value, stated = region["where"], region["value"], region["size"]
    if stated is not None and stated != size:
        raise UserError(
            f"the brush mask has {stated[1]}x{stated[0]} pixels, the image {size[1]}x{size[0]}.",
            path=where,
            remedy="Use the image that was annotated.",
        )
    if not isinstance(value, bytes):
        raise UserError(
            f"found {shown(value)}, expected numbers from 0 to 255.", path=f"{where}, rle"
        )
    return decode_brush(value, size, f"{where}, rle")


def _ring(kind: str, value: dict, size: tuple[int, int], where: str) -> np.ndarray:
    height, width = size
    scale = np.array([width, height], np.float64) / 100
    if kind == "polygon":
        return paired_ring(value["points"], f"{where}, points") * scale
    x, y = finite(value, "x", where) * scale[0], finite(value, "y", where) * scale[1]
    degrees = finite(value, "rotation", where) if value.get("rotation") else 0.0
    if kind == "ellipse":
        radii = finite(value, "radiusX", where), finite(value, "radiusY", where)
        return ellipse_ring((x, y), tuple(radii * scale), degrees)
    lengths = np.array([finite(value, "width", where), finite(value, "height", where)]) * scale
    return rotate(box_ring(x, y, x + lengths[0], y + lengths[1]), degrees, (x, y))


def _record(task: _Task, content: list[dict] | int | None, images: UploadedImages) -> Record:
    references = [path_parts(_image_value(task), task.where)]
    if task.upload is not None:
        references.append(path_parts(task.upload, task.where))
    found = next((path for parts in references if (path := images.find(parts, task.where))), None)
    names = [parts[-1] for parts in references]
    name = found or next(filter(_has_suffix, names), names[0])
    regions = content if isinstance(content, list) else []
    sizes = [region["size"] for region in regions if region["size"]]
    return Record(
        without_suffix(name.removeprefix("images/")),
        images.folder / name,
        content,
        task.where,
        sizes[0] if sizes else None,
    )


def _image_value(task: _Task) -> str:
    """The path or address of the image: data.image, or the only value that names an image."""
    value = task.data.get("image")
    if isinstance(value, str) and value:
        if value.startswith("data:"):
            raise UserError(
                "found an embedded image, expected a path or an address.",
                path=f"{task.where}, image",
            )
        return value
    texts = [text for text in task.data.values() if isinstance(text, str)]
    texts = [text for text in texts if _has_suffix(text.partition("?")[0])]
    if len(texts) == 1:
        return texts[0]
    raise UserError(
        f"found {len(texts)} images in the data, expected one, such as under 'image'.",
        path=task.where,
    )


def _has_suffix(name: str) -> bool:
    return without_suffix(name) != name


FORMAT = Format("label-studio", "Label Studio JSON", recognize, read)
