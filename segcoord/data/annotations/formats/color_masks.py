"""Color masks with a table of class colors: class_dict.csv, label_colors.txt or a JSON file.

CamVid's distributions have them, and CVAT's and Datumaro's exports in CamVid's format.
"""

import csv
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from segcoord.data.annotations.names import background_of, is_color, parse_hex_color, require_unique
from segcoord.data.annotations.paired_masks import find_pairs, sample_pairs
from segcoord.data.annotations.records import ClassName, Color, Export, Format, MaskFile, Record
from segcoord.data.annotations.source_files import peek_json, read_json, read_text, shown
from segcoord.data.color_table import format_rgb
from segcoord.data.mask_reader import read_stored_mask, value_counts
from segcoord.utils.errors import UserError

_TITLE = "color masks with a table of colors"
_TEXT_TABLE = "label_colors.txt"
_NAME_COLUMNS = ("name", "class", "label", "class_name")
_CHANNELS = (("r", "g", "b"), ("red", "green", "blue"))
_UNLABELLED = {"void", "unlabelled", "unlabeled", "ignore"}
_OTHERS = ("labelmap.txt", "leftImg8bit", "gtFine", "JPEGImages")  # of other formats
_MAX_SEARCHED = 100  # files of the root
_MAX_TABLE = 1 << 18  # bytes of a table

Row = tuple[str, Color]
"""Name and color of a class."""


def recognize(root: Path) -> str | None:
    """A table of colors, and images with masks in these colors."""
    tables = [] if any((root / name).exists() for name in _OTHERS) else _tables(root)
    pairs = sample_pairs(root, 1) if tables else []
    if not pairs or not _is_in_colors(pairs[0][1], tables[0]):
        return None
    return f"{tables[0].name} with class colors, and color masks"


def read(root: Path) -> Export:
    """Read the images and masks that pair by their names, and the table in the folder itself.

    Colors called void, unlabelled or ignore are unlabelled.

    Raises:
        UserError: no table, or two; a wrong line, a color of two classes; no images and masks that
            pair, a duplicate stem.
    """
    tables = _tables(root)
    if len(tables) != 1:
        found = " and ".join(t.name for t in tables) or "no table of colors"
        raise UserError(
            f"found {found}, expected one of: a CSV file with the columns name, r, g, b; "
            f"{_TEXT_TABLE} with lines of R G B NAME; a JSON file of names and [R, G, B].",
            path=root,
            remedy="Keep the one that the masks are drawn with." if tables else "Add it.",
        )
    names = _names(tables[0])
    skipped: Counter[str] = Counter()
    records = find_pairs(root, skipped)
    require_unique(records)
    colors: dict[str, Color] = {}
    for color, name in names.items():
        if name is not None:
            colors.setdefault(name, color)
    classes = [ClassName(name, color, n) for n, (name, color) in enumerate(colors.items())]
    return Export(
        format=_TITLE,
        records=records,
        classes=classes,
        annotation=partial(_annotation, names),
        background=background_of(classes),
        skipped=skipped,
    )


def _annotation(
    names: Mapping[Color, str | None], record: Record, size: tuple[int, int]
) -> MaskFile:
    """The mask of an image, whose gray values are colors with equal channels."""
    return MaskFile(record.content, names)


def _names(table: Path) -> dict[Color, str | None]:
    """Class name of each color, None for unlabelled; UserError for a color of two classes."""
    names: dict[Color, str | None] = {}
    for name, color in _rows(table):
        meaning = None if name.casefold() in _UNLABELLED else name
        if names.setdefault(color, meaning) != meaning:
            raise UserError(
                f"the color {format_rgb(color)} belongs to both {names[color]!r} and {name!r}; "
                "colors must be unique.",
                path=table,
            )
    if all(name is None for name in names.values()):
        raise UserError("found no class.", path=table)
    return names


def _tables(root: Path) -> list[Path]:
    """The files of the root that hold class colors."""
    files = [p for p in sorted(root.glob("*"))[:_MAX_SEARCHED] if p.is_file()]
    files = [p for p in files if p.stat().st_size <= _MAX_TABLE]
    return [p for p in files if p.name == _TEXT_TABLE or _has_columns(p) or _is_json_table(p)]


def _has_columns(path: Path) -> bool:
    """Whether a file is a CSV with columns of names and colors."""
    if path.suffix.lower() != ".csv":
        return False
    try:
        return _columns(_csv_rows(path)[:1]) is not None
    except UserError:
        return False


def _is_json_table(path: Path) -> bool:
    """Whether a file is a JSON object of nothing but names and colors."""
    data = peek_json(path) if path.suffix.lower() == ".json" else None
    return isinstance(data, dict) and bool(data) and all(map(_json_color, data.values()))


def _rows(table: Path) -> list[Row]:
    if table.name == _TEXT_TABLE:
        return _parse_text(table)
    if table.suffix.lower() == ".json":
        return [(name.strip(), _json_color(value)) for name, value in read_json(table).items()]
    return _parse_csv(table)


def _parse_text(path: Path) -> list[Row]:
    """Lines of R, G, B and a name, or the name first, with spaces, tabs or commas between them."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        color, name = _color(words[:3]), words[3:]
        if color is None:
            color, name = _color(words[-3:]), words[:-3]
        if color is None or not name:
            raise UserError(
                f"line {number}: found {shown(line)}, expected R G B NAME with values from 0 to "
                "255.",
                path=path,
            )
        rows.append((" ".join(name), color))
    return rows


def _parse_csv(path: Path) -> list[Row]:
    lines = _csv_rows(path)
    name, *channels = _columns(lines[:1])
    rows = []
    for number, words in enumerate(lines[1:], 2):
        if not any(words):
            continue
        complete = len(words) > max(name, *channels) and words[name]
        color = _color([words[c] for c in channels]) if complete else None
        if color is None:
            raise UserError(
                f"line {number}: found {shown(','.join(words))}, expected a name, and r, g and b "
                "from 0 to 255.",
                path=path,
            )
        rows.append((words[name], color))
    return rows


def _csv_rows(path: Path) -> list[list[str]]:
    lines = read_text(path).splitlines()
    semicolons = bool(lines) and ";" in lines[0]
    reader = csv.reader(lines, delimiter=";" if semicolons else ",")
    return [[word.strip() for word in words] for words in reader]


def _columns(header: list[list[str]]) -> list[int] | None:
    """The positions of the name, red, green and blue; None without these columns."""
    words = [word.lower() for word in header[0]] if header else []
    name = next((n for n in _NAME_COLUMNS if n in words), None)
    channels = next((c for c in _CHANNELS if {*c} <= {*words}), None)
    if name is None or channels is None:
        return None
    return [words.index(word) for word in (name, *channels)]


def _color(words: list[str]) -> Color | None:
    values = [int(word) for word in words if word.isdecimal()]
    return tuple(values) if len(words) == 3 and is_color(values) else None


def _json_color(value: object) -> Color | None:
    """A color given as [R, G, B] or "#rrggbb"."""
    return tuple(value) if is_color(value) else parse_hex_color(value)


def _is_in_colors(mask: Path, table: Path) -> bool:
    """Whether a mask has colors, or gray values that are colors of the table."""
    try:
        stored, names = read_stored_mask(mask), _names(table)
    except UserError:
        return True  # reading it says what is wrong
    if stored.is_color or stored.palette is not None:
        return True
    return all((v, v, v) in names for v in np.flatnonzero(value_counts(stored.pixels)).tolist())


FORMAT = Format("color-masks", _TITLE, recognize, read)
