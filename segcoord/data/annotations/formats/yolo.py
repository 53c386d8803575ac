"""YOLO segmentation: a text file of polygons per image, and a YAML file with the class names.

Each line of a label file is a class number and x and y of each point, from 0 to 1. A line of five
numbers is a bounding box. Source: docs.ultralytics.com/datasets/segment.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from segcoord.data.annotations.image_lookup import report_missing
from segcoord.data.annotations.names import (
    images_folder,
    listed_classes,
    name_without_images,
    require_unique,
    split_of,
)
from segcoord.data.annotations.records import Export, Format, Record, Shape
from segcoord.data.annotations.source_files import read_text, shown
from segcoord.data.file_pattern import IMAGE_SUFFIXES, list_files, stored_path
from segcoord.utils.errors import UserError

_TITLE = "YOLO segmentation"
_SPLIT_KEYS = ("train", "val", "test")
_IMAGES, _LABELS = "images", "labels"
_BOX = 5  # numbers of a line: the class, and the center and size of a box
_SLACK = 1e-6  # by which rounding may move a coordinate out of [0, 1]
_NAMELESS = (
    "found label files of YOLO, but no class names. Add a classes.txt with one name per line, or "
    "a data.yaml with names:, from the tool that exported the labels."
)


def recognize(root: Path) -> str | None:
    """A YAML file with names and splits, or else label files in a folder labels."""
    if files := _yaml_files(root):
        return f"{files[0].name} with the class names and images of a YOLO dataset"
    label = _first_label(root)
    if label is None:
        return None
    names = "classes.txt" if (root / "classes.txt").is_file() else "no data.yaml"
    return f"{label.relative_to(root).as_posix()} with lines of numbers, and {names}"


def read(root: Path) -> Export:
    """Read a dataset of YOLO.

    The label file of an image has its path, with the last folder images replaced by labels, and the
    suffix .txt. Paths of another machine mean the files with the same last folders below `root`.

    Raises:
        UserError: no class names, two YAML files, a split without images, no label file, nothing
            but bounding boxes.
    """
    root = Path(os.path.normpath(root.absolute()))
    files = _yaml_files(root)
    if len(files) > 1:
        names = " and ".join(f.name for f in files[:2])
        raise UserError(f"found both {names}, expected one.", path=root, remedy="Remove one.")
    missing: list[str] = []
    skipped: Counter[str] = Counter()
    if files:
        settings = _load(files[0]) or {}
        names = _yaml_names(files[0], settings)
        images = _yaml_images(root, files[0], settings, missing, skipped)
    else:
        names = _listed_names(root / "classes.txt")
        images = _folder_images(root)
    records = [_record(root, image, split) for split, image in images]
    report_missing(missing, records, root, skipped)
    require_unique(records)
    skipped += _without_image(records)
    boxes = _count_boxes(root, records)
    if boxes:
        skipped["bounding boxes without a polygon"] += boxes
    return Export(
        format=_TITLE,
        records=records,
        classes=listed_classes(names),
        annotation=partial(_annotation, names),
        skipped=skipped,
    )


def _annotation(names: Mapping[int, str], record: Record, size: tuple[int, int]) -> Sequence[Shape]:
    """The polygons of a label file, in pixels of an image of size (height, width)."""
    scale = size[1], size[0]
    shapes = []
    for number, line in enumerate(read_text(record.content).splitlines(), 1):
        words = line.split()
        if len(words) not in (0, _BOX):
            label, points = _parse_line(words, names, f"{record.content}, line {number}")
            shapes.append(Shape(label, (points * scale,)))
    return shapes


def _parse_line(
    words: Sequence[str], names: Mapping[int, str], where: str
) -> tuple[str, np.ndarray]:
    """The class name and the points, (N, 2) from 0 to 1, of a line of a label file."""
    if len(words) % 2 == 0 or len(words) < 7:
        raise UserError(
            f"found {len(words)} numbers, expected a class and x and y of 3 points or more.",
            path=where,
        )
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise UserError(f"found {shown(' '.join(words))}, expected numbers.", path=where) from None
    if values[0] not in names:
        numbers = f"{min(names)} to {max(names)}"
        raise UserError(
            f"the class {words[0]} has no name; the names are those of {numbers}.",
            path=where,
            remedy="Add its name, or correct the number.",
        )
    for word, value in zip(words[1:], values[1:]):
        if not math.isfinite(value) or not -_SLACK <= value <= 1 + _SLACK:
            raise UserError(
                f"found {word}, expected coordinates from 0 to 1, as shares of width and height.",
                path=where,
            )
    return names[int(values[0])], np.array(values[1:], np.float64).reshape(-1, 2)


def _record(root: Path, image: Path, split: str | None) -> Record:
    relative = image.relative_to(root)
    label = stored_path(_label_file(root, relative))
    found = label.is_file()
    return Record(
        name=name_without_images(relative),
        image=image,
        content=label if found else None,
        where=str(label if found else image),
        split=split,
    )


def _label_file(root: Path, image: Path) -> Path:
    """The label file of an image, given relative to the root."""
    parts = list(image.with_suffix(".txt").parts)
    if (position := images_folder(image)) is not None:
        parts[position] = _LABELS
    return root.joinpath(*parts)


def _without_image(records: Sequence[Record]) -> Counter[str]:
    """Count the label files beside those of the records that no image belongs to."""
    used = {record.content for record in records if record.content}
    files = sorted(file for folder in {path.parent for path in used} for file in folder.iterdir())
    lost = [file for file in files if file.suffix == ".txt" and file not in used]
    lost = [file for file in lost if file.name != "classes.txt" and not _has_image(file)]
    return Counter({f"label files without an image, such as {f}": len(lost) for f in lost[:1]})


def _has_image(label: Path) -> bool:
    """Whether a label file has an image, which no list may name."""
    parts = list(label.parts)
    found = [i for i, part in enumerate(parts[:-1]) if part == _LABELS]
    for position in found[-1:]:
        parts[position] = _IMAGES
    return any(Path(*parts).with_suffix(suffix).exists() for suffix in IMAGE_SUFFIXES)


def _count_boxes(root: Path, records: list[Record]) -> int:
    """Count the lines that are boxes; images with nothing else become images without annotation.

    Raises:
        UserError: no label file, or no polygon but boxes.
    """
    boxes = polygons = 0
    for index, record in enumerate(records):
        if record.content is None:
            continue
        try:
            lines = read_text(record.content).splitlines()
        except UserError:  # `_annotation` raises it again, for this image alone
            continue
        counts = Counter(len(line.split()) for line in lines)
        own = counts[_BOX]
        others = counts.total() - own - counts[0]
        boxes, polygons = boxes + own, polygons + others
        if own and not others:
            records[index] = replace(record, content=None)
    if boxes and not polygons:
        raise UserError(
            f"found {boxes} bounding boxes and no polygon: a dataset for detection.",
            path=root,
            remedy="Export it for segmentation.",
        )
    if all(r.content is None for r in records):
        expected = _label_file(root, records[0].image.relative_to(root))
        raise UserError(
            f"none of the {len(records)} images has a label file; the first would be {expected}.",
            path=root,
            remedy="Put the label files there.",
        )
    return boxes


def _yaml_files(root: Path) -> list[Path]:
    """The YAML files of the root that describe a YOLO dataset."""
    files = sorted(p for p in root.glob("*") if p.suffix.lower() in (".yaml", ".yml"))
    return [p for p in files if p.is_file() and _load(p) is not None]


def _load(path: Path) -> dict | None:
    """The keys of a dataset's YAML file, with scalars as text; None for any other file."""
    try:
        settings = yaml.load(read_text(path), yaml.BaseLoader)  # so that the name `no` stays text
    except (UserError, yaml.YAMLError, RecursionError):
        return None
    if not isinstance(settings, dict) or not isinstance(settings.get("names"), (list, dict)):
        return None
    return settings if any(key in settings for key in ("path", *_SPLIT_KEYS)) else None


def _yaml_names(path: Path, settings: dict) -> dict[int, str]:
    """The class names by number; UserError for other than names, or a count that differs."""
    given = settings["names"]
    items = list(enumerate(given)) if isinstance(given, list) else list(given.items())
    names = {}
    for key, name in items:
        if not str(key).isdecimal() or not isinstance(name, str) or not name.strip():
            raise UserError(
                f"names: found {shown(key)}: {shown(name)}, expected a number and a name.",
                path=path,
            )
        names[int(key)] = name.strip()
    count = settings.get("nc", str(len(names)))
    if not names or count != str(len(names)):
        raise UserError(f"names: found {len(names)}, expected as many as nc: {count}.", path=path)
    if "kpt_shape" in settings:
        raise UserError("kpt_shape: a dataset of keypoints, expected polygons.", path=path)
    return names


def _listed_names(path: Path) -> dict[int, str]:
    """The class names of classes.txt, one per line; UserError without the file or names."""
    if not path.is_file():
        raise UserError(_NAMELESS, path=path.parent)
    lines = [line.strip() for line in read_text(path).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines or not all(lines):
        raise UserError("found an empty line, expected a class name in each.", path=path)
    return dict(enumerate(lines))


def _yaml_images(
    root: Path, file: Path, settings: dict, missing: list[str], skipped: Counter[str]
) -> Iterator[tuple[str | None, Path]]:
    """The images of each split of a YAML file; adds the listed ones that are gone to missing."""
    base = _text(settings.get("path"))
    given = {key: settings[key] for key in _SPLIT_KEYS if _text(settings.get(key))}
    if not given:
        raise UserError(f"found none of {', '.join(_SPLIT_KEYS)}: the images' folders.", path=file)
    for split, value in given.items():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                raise UserError(f"{split}: found {shown(text)}, expected a path.", path=file)
            source = _locate(root, base, text)
            if source is None and split == "test":  # which Roboflow names in every export
                skipped[f"split test of {file.name}, which is not there"] += 1
            elif source is None:
                raise UserError(
                    f"{split}: found {text!r}, but no such folder or file in {root}.",
                    path=file,
                    remedy="The images must be in the folder of the YAML file, with the labels.",
                )
            else:
                yield from ((split, image) for image in _images_of(root, base, source, missing))


def _images_of(root: Path, base: str, source: Path, missing: list[str]) -> Iterator[Path]:
    """The images of a folder, or of a text file that lists them."""
    if source.is_dir():
        for file in list_files(source):
            if Path(file).suffix.lower() in IMAGE_SUFFIXES:
                yield source / file
        return
    beside = source.parent.relative_to(root).as_posix()
    for line in filter(None, map(str.strip, read_text(source).splitlines())):
        own = beside if line.startswith("./") else base
        image = _locate(root, own, line)
        if image is None:
            missing.append(line)
        else:
            yield image


def _text(value: object) -> str:
    """A path of the YAML file, empty for null."""
    return "" if value in (None, "~", "null") else str(value)


def _locate(root: Path, base: str, text: str) -> Path | None:
    """The existing file or folder below the root that a path means.

    The path is relative to `base` or to the root. Of other paths, such as those of the machine that
    exported them, the last folders count.
    """
    text = text.replace("\\", "/")
    parts = [p for p in PurePosixPath(text).parts if p not in ("/", "..")]
    tails = ["/".join(parts[i:]) for i in range(len(parts))]
    for candidate in (f"{base}/{text}" if base else text, text, *tails):
        path = Path(os.path.normpath(root / candidate))
        if path.is_relative_to(root):
            path = stored_path(path)
            if path.exists():
                return path
    return None


def _folder_images(root: Path) -> Iterator[tuple[str | None, Path]]:
    """The images in folders called images, with the split that a folder of their path names."""
    for file in list_files(root):
        path = PurePosixPath(file)
        if path.suffix.lower() in IMAGE_SUFFIXES and images_folder(path) is not None:
            yield split_of(path), root / file


def _first_label(root: Path) -> Path | None:
    """A label file in a folder labels whose first line is numbers, beside a folder images."""
    for folder in (root / _LABELS, *sorted(root.glob(f"*/{_LABELS}"))):
        if not folder.is_dir() or not folder.with_name("images").is_dir():
            continue
        for file in list_files(folder, limit=50):
            if file.endswith(".txt") and _starts_with_numbers(folder / file):
                return folder / file
    return None


def _starts_with_numbers(path: Path) -> bool:
    try:
        lines = read_text(path).splitlines()
    except UserError:
        return False
    words = lines[0].split() if lines else []
    number = re.compile(r"[-+]?\d*\.?\d+(e[-+]?\d+)?", re.I)
    return len(words) >= _BOX and all(number.fullmatch(word) for word in words)


FORMAT = Format("yolo", _TITLE, recognize, read)
