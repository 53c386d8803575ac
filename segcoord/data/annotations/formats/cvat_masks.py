"""CVAT's "Segmentation mask 1.1": a mask of class colors for each image.

    labelmap.txt                            NAME:R,G,B:PARTS:ACTIONS on each line
    SegmentationClass/NAME.png
    ImageSets/Segmentation/SPLIT.txt        a NAME on each line
    JPEGImages/NAME.jpg                     if saved with images

Images without shapes are listed but have no mask; without either file, an image is gone. Datumaro
writes the same folders.

Source: `cvat/apps/dataset_manager/formats/mask.py` of github.com/cvat-ai/cvat.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path

from segcoord.data.annotations.image_lookup import ImageFiles
from segcoord.data.annotations.names import relative_name, without_suffix
from segcoord.data.annotations.records import ClassName, Color, Export, Format, MaskFile, Record
from segcoord.data.annotations.source_files import read_head, read_text, shown
from segcoord.data.file_pattern import nfc
from segcoord.utils.errors import UserError

_LABEL_MAP = "labelmap.txt"
_MASKS, _IMAGES, _LISTS = "SegmentationClass", "JPEGImages", "ImageSets/Segmentation"
_BACKGROUND = "background"
_DEFAULT_SPLIT = "default"  # of tasks without a subset
_LINE = re.compile(r"(?P<name>.+?)\s*:\s*(?P<color>\d+\s*,\s*\d+\s*,\s*\d+)\s*(:[^:]*){0,2}")


def recognize(folder: Path) -> str | None:
    lines = _lines(read_head(folder / _LABEL_MAP))
    if not lines or not _LINE.fullmatch(lines[0][1]):
        return None
    found = [name for name in (_MASKS, _LISTS) if (folder / name).is_dir()]
    return f"{_LABEL_MAP} and {found[0]}" if found else None


def read(folder: Path) -> Export:
    """Read the label map and the lists; without lists, the masks and images in the folders.

    Raises:
        UserError: a label map that can't be read; no images at all; a name that would leave
            the folder.
    """
    classes = _read_label_map(folder / _LABEL_MAP)
    masks, images = ImageFiles(folder / _MASKS), ImageFiles(folder / _IMAGES)
    skipped: Counter[str] = Counter()
    lists = sorted((folder / _LISTS).glob("*.txt"))
    if lists:
        records = [r for path in lists for r in _listed(path, masks, images)]
        names = {nfc(record.name) for record in records}
        if count := sum(nfc(without_suffix(path)) not in names for path in masks.paths):
            skipped[f"masks that no list in {_LISTS} has"] = count
    else:
        stems = sorted({without_suffix(path) for path in [*masks.paths, *images.paths]})
        records = [
            _record(stem, str(folder / _MASKS / stem), None, masks, images) for stem in stems
        ]
    if not records:
        raise UserError(f"found no images in {_LISTS} and no masks in {_MASKS}.", path=folder)
    names_of_colors = {entry.color: entry.name for entry in classes}
    background = next((entry.name for entry in classes if entry.name == _BACKGROUND), None)
    read_one = partial(annotation, names=names_of_colors)
    return Export(FORMAT.title, records, classes, read_one, background=background, skipped=skipped)


def annotation(record: Record, size: tuple[int, int], names: dict[Color, str]) -> MaskFile:
    """The mask of an image with the names of its colors."""
    return MaskFile(Path(record.content), names)


def _lines(text: str) -> list[tuple[int, str]]:
    """Line numbers and lines, without comments and empty ones."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def _read_label_map(path: Path) -> list[ClassName]:
    classes: dict[str, ClassName] = {}
    owners: dict[Color, str] = {}
    for number, line in _lines(read_text(path)):
        where = f"{path}: line {number}"
        match = _LINE.fullmatch(line)
        color = tuple(int(part) for part in match["color"].split(",")) if match else ()
        if not match or max(color) > 255:
            raise UserError(
                f"found {shown(line)}, expected NAME:R,G,B:PARTS:ACTIONS with R, G and B up to "
                "255.",
                path=where,
            )
        name = match["name"]
        if name in classes:
            raise UserError(f"found the label {name!r} a second time.", path=where)
        if color in owners:
            raise UserError(
                f"{name!r} has the color {','.join(map(str, color))} of {owners[color]!r}, so "
                "masks can't tell them apart.",
                path=where,
                remedy="Change the color of one in CVAT, and export again.",
            )
        owners[color] = name
        classes[name] = ClassName(name, color)
    if not classes:
        raise UserError(
            "found no labels, expected NAME:R,G,B:PARTS:ACTIONS on each line.", path=path
        )
    return list(classes.values())


def _listed(path: Path, masks: ImageFiles, images: ImageFiles) -> list[Record]:
    """The records of a list; a name with spaces is in quotes."""
    split = None if path.stem == _DEFAULT_SPLIT else path.stem
    records = []
    for number, line in _lines(read_text(path)):
        where = f"{path}: line {number}"
        name = line[1:-1] if len(line) > 2 and line[0] == line[-1] == '"' else line
        records.append(_record(relative_name(name, where), where, split, masks, images))
    return records


def _record(
    name: str, where: str, split: str | None, masks: ImageFiles, images: ImageFiles
) -> Record:
    mask, image = masks.find_stem(name), images.find_stem(name)
    if mask is None and image is not None:
        return Record(name, image, None, where, split=split)
    mask, image = mask or masks.folder / f"{name}.png", image or images.folder / f"{name}.jpg"
    return Record(name, image, str(mask), where, split=split)


FORMAT = Format("cvat-masks", "CVAT segmentation mask 1.1", recognize, read)
