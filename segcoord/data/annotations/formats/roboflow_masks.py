"""Roboflow's "Semantic Segmentation Masks": a gray mask of class numbers for each image.

    train/_classes.csv          "Pixel Value, Class", then a number and a name on each line
    train/NAME.jpg
    train/NAME_mask.png

The same in valid and test, or without these folders.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from segcoord.data.annotations.names import background_of, without_suffix
from segcoord.data.annotations.records import ClassName, Export, Format, MaskFile, Record
from segcoord.data.annotations.source_files import read_head, read_text, shown
from segcoord.data.file_pattern import nfc
from segcoord.utils.errors import UserError

_TABLE = "_classes.csv"
_HEADER = ("pixel value", "class")
_MASK_END = "_mask"


def recognize(folder: Path) -> str | None:
    tables = _tables(folder)
    return f"{tables[0].relative_to(folder)} with pixel values" if tables else None


def read(folder: Path) -> Export:
    """Read the tables and list the images and masks beside each.

    Raises:
        UserError: no table, or one that can't be read; no images.
    """
    tables = _tables(folder)
    if not tables:
        raise UserError(f"found no {_TABLE} that begins with 'Pixel Value, Class'.", path=folder)
    names_by_folder: dict[str, dict[int, str]] = {}
    classes: dict[str, ClassName] = {}
    records: list[Record] = []
    for path in tables:
        split = None if path.parent == folder else path.parent.name
        names = _read_table(path)
        names_by_folder[split or ""] = names
        for value, name in names.items():
            classes.setdefault(name, ClassName(name, id=value))
        records += _records(path.parent, split)
    if not records:
        raise UserError(f"found no images beside {_TABLE}.", path=folder)
    background = background_of(classes.values())
    if any(names.get(0) != background for names in names_by_folder.values()):
        background = None
    return Export(
        FORMAT.title,
        records,
        sorted(classes.values(), key=lambda entry: entry.id),
        partial(annotation, names_by_folder=names_by_folder),
        background=background,
    )


def annotation(
    record: Record, size: tuple[int, int], names_by_folder: dict[str, dict[int, str]]
) -> MaskFile:
    """The mask of an image with the names of its values."""
    return MaskFile(Path(record.content), names_by_folder[record.split or ""])


def _tables(folder: Path) -> list[Path]:
    """The tables in a folder and directly below it; multi-label exports have another header."""
    if not folder.is_dir():
        return []
    folders = [folder, *sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")]
    paths = [path / _TABLE for path in folders]
    return [path for path in paths if _cells(read_head(path).split("\n")[0]) == _HEADER]


def _cells(line: str) -> tuple[str, ...]:
    """The number and the name of a line, which may contain commas."""
    return tuple(part.strip().lower() for part in line.split(",", 1))


def _read_table(path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, line in enumerate(read_text(path).splitlines()[1:], 2):
        if not line.strip():
            continue
        value, _, name = (part.strip() for part in line.partition(","))
        where = f"{path}: line {number}"
        if not (value.isascii() and value.isdecimal() and int(value) <= 255 and name):
            raise UserError(
                f"found {shown(line)}, expected a value from 0 to 255, a comma and a name.",
                path=where,
            )
        if int(value) in names or name in names.values():
            raise UserError(
                f"found {shown(line)}, whose value or name is listed before.", path=where
            )
        names[int(value)] = name
    if not names:
        raise UserError("found no classes, expected a value and a name on each line.", path=path)
    return names


def _records(folder: Path, split: str | None) -> list[Record]:
    """A record for each image and for each mask whose image is gone, directly in a folder."""
    prefix = "" if split is None else f"{split}/"
    paths = sorted(p for p in folder.iterdir() if p.name[0] != "." and p.is_file())
    paths = [path for path in paths if without_suffix(path.name) != path.name]
    pngs = {nfc(path.stem): path for path in paths if path.suffix.lower() == ".png"}
    # The name of an image may end as that of a mask does, but such an image has a mask itself.
    masks = {
        stem.removesuffix(_MASK_END): path
        for stem, path in pngs.items()
        if stem.endswith(_MASK_END) and stem != _MASK_END and f"{stem}{_MASK_END}" not in pngs
    }
    is_mask = {*masks.values()}
    images = [path for path in paths if path not in is_mask]
    gone = masks.keys() - {nfc(path.stem) for path in images}
    images += [masks[name].with_name(f"{name}.jpg") for name in sorted(gone)]
    records = []
    for image in images:
        mask = masks.get(nfc(image.stem))
        where, content = (str(image), None) if mask is None else (str(mask), str(mask))
        records.append(Record(f"{prefix}{image.stem}", image, content, where, split=split))
    return records


FORMAT = Format("roboflow-masks", "Roboflow semantic segmentation masks", recognize, read)
