"""labelme: a JSON file for each image, beside it or elsewhere, or with the image in it."""

import base64
import binascii
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from segcoord.data.annotations.image_lookup import ImageFinder, no_images_error
from segcoord.data.annotations.names import record_names, without_any_suffix
from segcoord.data.annotations.records import ClassName, Export, Format, Record, Shape
from segcoord.data.annotations.source_files import peek, read_json
from segcoord.data.file_pattern import list_files
from segcoord.utils.errors import UserError

_PROBED = 20  # JSON files that recognition opens
_LINE_WIDTH = 10.0  # pixels, of labelme's own export
_IGNORE = "__ignore__"  # label of void regions in labelme's own export
_SHAPES = re.compile(r'"shapes"\s*:\s*\[')
_KEYS = re.compile(r'"(imagePath|imageData|imageHeight|shape_type)"\s*:')


def recognize(root: Path) -> str | None:
    """JSON files with the keys of labelme's."""
    files = [f for f in list_files(root) if f.lower().endswith(".json")]
    for file in files[:_PROBED]:
        text = peek(root / file)
        if _SHAPES.search(text) and _KEYS.search(text):
            return f"{len(files)} JSON files, such as {file} with shapes"
    return None


def read(root: Path) -> Export:
    """List the images, and the classes of all their shapes."""
    files = list_files(root)
    finder = ImageFinder(root, files)
    classes: dict[str, None] = {}
    skipped: Counter[str] = Counter()
    records: list[Record] = []
    embedded = False
    for file in (f for f in files if f.lower().endswith(".json")):
        try:
            content = read_json(root / file)
            if not isinstance(content, dict) or "shapes" not in content:
                skipped["JSON files without shapes"] += 1
                continue
            embedded |= bool(content.get("imageData"))
            shapes = _shapes(content, str(root / file), skipped)
            classes |= dict.fromkeys(s.label for s in shapes if not s.void)
            records.append(_record(root, file, content, finder))
        except UserError:  # `annotation` raises it again, for this image alone
            records.append(_record(root, file, {}, finder))
    if not records:
        raise UserError(
            f"{root}: found no JSON file with shapes, expected those that labelme saves"
        )
    if not finder.files and not embedded:
        raise no_images_error(root, "labelme JSON files", records[0].where)
    used = {record.image for record in records}
    for file in finder.files:
        if root / file not in used:
            records.append(Record(without_any_suffix(file), root / file, None, file))
    skipped += finder.elsewhere
    names = record_names([r.image.relative_to(root).as_posix() for r in records])
    records = [replace(record, name=name) for record, name in zip(records, names)]
    listed = [ClassName(name) for name in sorted(classes)]
    return Export("labelme JSON", records, listed, annotation, embedded_image, None, skipped)


def annotation(record: Record, size: tuple[int, int]) -> list[Shape]:
    """The shapes of an image, from the bottom to the top."""
    path = record.content
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(
            f"found a JSON {type(content).__name__}, expected the keys shapes and imagePath.",
            path=path,
            remedy="Save the annotation again in labelme.",
            kind="damaged JSON files",
        )
    return _shapes(content, str(path), Counter())


def embedded_image(record: Record) -> bytes:
    """The bytes of the key imageData."""
    content = read_json(record.image)
    data = content.get("imageData") if isinstance(content, dict) else None
    if not data:
        raise UserError(
            f"its image {_file_name(content)!r} is not in the folder, and imageData is empty.",
            path=record.image,
            remedy="Put the image beside the JSON file, or give a folder that contains both.",
            kind="missing images",
        )
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise UserError(
            f"imageData is not base64 ({error}).",
            path=record.image,
            remedy="Put the image beside the JSON file.",
            kind="embedded images",
        ) from None


def _record(root: Path, file: str, content: Mapping, finder: ImageFinder) -> Record:
    folder = file.rpartition("/")[0]
    given = _file_name(content) or f"{without_any_suffix(file)}.*"
    image = None
    try:
        image = finder.find(given, folder) if content else _beside(root, file, finder)
        if image and content.get("imageData"):  # is surer than a file with the same name elsewhere
            named = finder.is_named(image.relative_to(root).as_posix(), given, folder)
            image = image if named else None
    except UserError:  # several files: labelme itself opens the embedded image first
        if not content.get("imageData"):
            raise
    height, width = content.get("imageHeight"), content.get("imageWidth")
    known = all(isinstance(n, int) and n > 0 for n in (height, width))
    size = (height, width) if known else None
    path = root / file
    return Record(without_any_suffix(file), image or path, path, str(path), size)


def _beside(root: Path, file: str, finder: ImageFinder) -> Path | None:
    """The image with the name of a JSON file that can't be read."""
    stem = without_any_suffix(file)
    return next((root / f for f in finder.files if without_any_suffix(f) == stem), None)


def _file_name(content: object) -> str:
    path = content.get("imagePath") if isinstance(content, dict) else None
    return path if isinstance(path, str) else ""


def _shapes(content: Mapping, where: str, skipped: Counter[str]) -> list[Shape]:
    """The shapes of a file; counts those that have no area."""
    shapes = content.get("shapes")
    if not isinstance(shapes, list):
        raise _error(where, "shapes", f"found {type(shapes).__name__}, expected a list")
    result = []
    for number, shape in enumerate(shapes):
        key = f"shapes[{number}]"
        if not isinstance(shape, dict) or shape.get("label") in (None, ""):
            raise _error(where, key, "found no label, expected the name of a class")
        kind = shape.get("shape_type") or "polygon"
        convert = _CONVERT.get(kind)
        if convert is None:
            skipped[f"labelme shapes of type {kind}, which have no area"] += 1
            continue
        points = _points(shape.get("points"), where, key)
        label = str(shape["label"])
        void = label == _IGNORE
        result.append(convert(label, points, shape, (number, void), f"{where}: {key}"))
    return result


def _points(points: object, where: str, key: str) -> np.ndarray:
    """(N, 2) float64; NaN is allowed, and counted when drawn."""
    try:
        array = np.array(points, np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.size == 0 and points == []:
        return np.empty((0, 2))
    if array.ndim != 2 or array.shape[1] != 2:
        raise _error(where, f"{key}.points", "expected a list of [x, y]")
    return array


_Order = tuple[int, bool]  # position in the file, whether it is void
_Convert = Callable[[str, np.ndarray, Mapping, _Order, str], Shape]


def _polygon(label: str, points: np.ndarray, shape: Mapping, order: _Order, where: str) -> Shape:
    return Shape(label, (points,), order=order[0], void=order[1])


def _rectangle(label: str, points: np.ndarray, shape: Mapping, order: _Order, where: str) -> Shape:
    if len(points) == 2:  # two opposite corners; four points are those of a turned rectangle
        (x0, y0), (x1, y1) = points
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return Shape(label, (points,), order=order[0], void=order[1])


def _circle(label: str, points: np.ndarray, shape: Mapping, order: _Order, where: str) -> Shape:
    """Two points: the center, and one on the circle."""
    if len(points) != 2:
        raise _error(where, "points", f"found {len(points)}, expected the center and the edge")
    radius = math.dist(*points)
    if not math.isfinite(radius):
        return Shape(label, (np.full((3, 2), np.nan),), order=order[0], void=order[1])
    # The polygon lies at most a 20th of a pixel inside the circle.
    n = 12 + math.ceil(math.pi * math.sqrt(min(radius, 1e6) / 0.1))
    angles = np.arange(n) * (2 * math.pi / n)
    ring = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    return Shape(label, (ring,), order=order[0], void=order[1])


def _line(label: str, points: np.ndarray, shape: Mapping, order: _Order, where: str) -> Shape:
    return Shape(label, (points,), stroke=_LINE_WIDTH, order=order[0], void=order[1])


def _mask(label: str, points: np.ndarray, shape: Mapping, order: _Order, where: str) -> Shape:
    """A PNG of the pixels in a box, of which `points` are the first and the last pixel."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            mask = np.array(image.convert("L")) > 0
    except (KeyError, TypeError, ValueError, OSError, SyntaxError):
        raise _error(where, "mask", "expected a PNG in base64") from None
    if len(points) != 2 or not np.isfinite(points).all():
        raise _error(where, "points", "expected the corners of the mask's box")
    (x0, y0), (x1, y1) = np.rint(points).astype(int).tolist()
    box = (abs(y1 - y0) + 1, abs(x1 - x0) + 1)
    if mask.shape != box:
        raise _error(
            where,
            "mask",
            f"found {mask.shape[1]}x{mask.shape[0]} pixels, expected {box[1]}x{box[0]}, as its box",
        )
    return Shape(label, (), mask, (min(x0, x1), min(y0, y1)), order=order[0], void=order[1])


_CONVERT: dict[str, _Convert] = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "rotation": _rectangle,  # of X-AnyLabeling, as the next
    "quadrilateral": _polygon,
    "oriented_rectangle": _rectangle,
    "circle": _circle,
    "line": _line,
    "linestrip": _line,
    "mask": _mask,
}


def _error(where: str, key: str, found: str) -> UserError:
    return UserError(
        f"{key}: {found}.",
        path=where,
        remedy="Correct it in labelme and save the file again.",
        kind="annotations that can't be read",
    )


FORMAT = Format("labelme", "labelme JSON", recognize, read)
