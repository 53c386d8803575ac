"""Mapillary Vistas, versions 1 and 2: palette masks of the labels that a JSON file lists.

Source: the dataset's own README. A label with evaluate: false is not a class.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

from segcoord.data.annotations.image_lookup import ImageFiles
from segcoord.data.annotations.names import is_color, require_unique
from segcoord.data.annotations.paired_masks import pair_folders
from segcoord.data.annotations.records import ClassName, Color, Export, Format, MaskFile, Record
from segcoord.data.annotations.source_files import member, peek_json, read_json, shown
from segcoord.data.color_table import format_rgb
from segcoord.data.image_io import open_image
from segcoord.utils.errors import UserError

_TITLE = "Mapillary Vistas"
_VERSIONS = {  # configuration file: folder of the masks of a split; the newest first
    "config_v2.0.json": "v2.0/labels",
    "config_v1.2.json": "v1.2/labels",
    "config.json": "labels",
}
_SPLITS = ("training", "validation")
_WITHOUT_MASKS = "testing"


class _Label(NamedTuple):
    name: str
    color: Color
    evaluate: bool


def recognize(root: Path) -> str | None:
    """A configuration file of Vistas, and images of a split."""
    if not any((root / split / "images").is_dir() for split in _SPLITS):
        return None
    for name in _VERSIONS:
        data = peek_json(root / name)
        labels = data.get("labels") if isinstance(data, dict) else None
        first = labels[0] if isinstance(labels, list) and labels else None
        if isinstance(first, dict) and {"name", "color", "evaluate"} <= first.keys():
            return f"{name} with the labels of Mapillary Vistas"
    return None


def read(root: Path) -> Export:
    """Read the training and the validation images, with the labels of the newest version.

    Raises:
        UserError: no configuration file, a wrong label, no masks, a duplicate stem.
    """
    config = next((root / name for name in _VERSIONS if (root / name).is_file()), None)
    if config is None:
        raise UserError(f"found none of {', '.join(_VERSIONS)}.", path=root)
    labels = _labels(config)
    folder = _VERSIONS[config.name]
    skipped: Counter[str] = Counter()
    records = []
    for split in _SPLITS:
        images, masks = root / split / "images", root / split / folder
        if images.is_dir():
            records += pair_folders(root, split, images, masks, skipped)
    if all(record.content is None for record in records):
        raise UserError(
            f"found no masks in {_SPLITS[0]}/{folder}, where those of {config.name} are.",
            path=root,
            remedy=f"Add them, or remove {config.name} to use another version.",
        )
    require_unique(records)
    if unmasked := len(ImageFiles(root / _WITHOUT_MASKS / "images").paths):
        skipped[f"images of {_WITHOUT_MASKS}, which has no masks"] = unmasked
    if unscored := sum(not label.evaluate for label in labels):
        skipped["labels with evaluate: false, whose pixels are unlabelled"] = unscored
    return Export(
        format=f"{_TITLE} ({config.name})",
        records=records,
        classes=[
            ClassName(label.name, label.color, number)
            for number, label in enumerate(labels)
            if label.evaluate
        ],
        annotation=partial(_annotation, labels),
        skipped=skipped,
    )


def _annotation(labels: list[_Label], record: Record, size: tuple[int, int]) -> MaskFile:
    """The mask of an image: palette indices or values by position, RGB by color."""
    path = record.content
    names = [label.name if label.evaluate else None for label in labels]
    if open_image(path)[1].mode not in ("RGB", "RGBA"):
        return MaskFile(path, dict(enumerate(names)))
    by_color: dict[Color, str | None] = {}
    for label, name in zip(labels, names):
        if by_color.setdefault(label.color, name) != name:
            raise UserError(
                f"an RGB mask, but {format_rgb(label.color)} is the color of two labels, "
                f"{by_color[label.color]!r} and {name!r}.",
                path=path,
                remedy="Use the original masks, whose palette indices are the labels.",
            )
    return MaskFile(path, by_color)


def _labels(path: Path) -> list[_Label]:
    """The labels of a configuration file, in the order of the mask values."""
    labels = []
    for number, entry in enumerate(member(read_json(path), "labels", list, path)):
        where = f"{path}: labels[{number}]"
        name = member(entry, "name", str, where)
        color, evaluate = member(entry, "color", list, where), entry.get("evaluate", True)
        if not is_color(color):
            raise UserError(
                f"color: found {shown(color)}, expected [R, G, B] from 0 to 255.", path=where
            )
        if not isinstance(evaluate, bool):
            raise UserError(f"evaluate: found {shown(evaluate)}, expected a boolean.", path=where)
        if name in (label.name for label in labels):
            raise UserError(f"name: a second label {name!r}.", path=where)
        labels.append(_Label(name, tuple(color), evaluate))
    if not any(label.evaluate for label in labels):
        raise UserError("labels: found none with evaluate: true.", path=path)
    return labels


FORMAT = Format("mapillary", _TITLE, recognize, read)
