"""Convert masks of class colors, or of any values, to masks of class ids."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from segcoord.data.checks.findings import MAX_LISTED
from segcoord.data.color_table import Color, ColorTable, void_colors
from segcoord.data.file_pattern import MASK_SUFFIXES, list_files, parse_pattern
from segcoord.data.image_io import histogram
from segcoord.data.labels import MAX_ID, UNKNOWN, VOID, LabelSet
from segcoord.data.mask_diagnosis import many_values_error, unknown_values_error
from segcoord.data.mask_palette import palette_reading
from segcoord.data.mask_reader import (
    StoredMask,
    check_colors,
    read_mask_for,
    read_mask_values,
    read_stored_mask,
    value_counts,
)
from segcoord.data.mask_writer import write_mask
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError
from segcoord.utils.text import first_lines


def parse_color(text: str) -> Color:
    """Parse "R,G,B", each from 0 to 255; raise UserError for anything else."""
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdecimal() and int(p) <= 255 for p in parts):
        raise UserError(
            f"--void {text}: expected R,G,B with values from 0 to 255, for example 0,0,0"
        )
    return int(parts[0]), int(parts[1]), int(parts[2])


def parse_value(text: str) -> tuple[int, int | None]:
    """Parse "VALUE=ID" or "VALUE=void", as (VALUE, ID or None); UserError for anything else."""
    value, _, target = (part.strip() for part in text.partition("="))
    is_void = target == "void"
    numbers = [value] if is_void else [value, target]
    if not all(n.isdecimal() and int(n) <= MAX_ID for n in numbers):
        raise UserError(
            f"--value {text}: expected VALUE=ID with numbers from 0 to {MAX_ID}, for example "
            "255=1, or VALUE=void"
        )
    return int(value), None if is_void else int(target)


class MaskConverter:
    """Converts masks to class indices.

    Colors, also those of a palette, are class colors. Values of gray masks are class ids.

    Args:
        labels: the classes.
        void: colors of void pixels.
        values: (value, class id) pairs: values that stand for another id, or None for void. With
            any, the indices of palette masks are values too.
        threshold: the smallest value that is the second of two classes, or in binary segmentation
            the foreground; lower values are the other class, and void ids stay void. None for exact
            values.

    Raises:
        UserError: a color or value with two meanings, an id that belongs to no class, a threshold
            with `values` or other than two classes.
    """

    def __init__(
        self,
        labels: LabelSet,
        void: Sequence[Color] = (),
        values: Sequence[tuple[int, int | None]] = (),
        threshold: int | None = None,
    ) -> None:
        self.threshold = threshold
        if threshold is not None:
            _check_threshold(threshold, labels, bool(void or values))
        self.labels, self.void = labels, tuple(void)
        if (void or None in dict(values).values()) and not labels.has_void:
            raise UserError(
                "found void pixels to convert, but data.classes gives 255 to a class, so no value "
                "is void; name one in data.void_ids"
            )
        self.values: dict[int, int] = {}
        targets = labels.table(MAX_ID + 1)
        for value, given in values:
            target = int(labels.to_value[VOID]) if given is None else given
            if self.values.setdefault(value, target) != target:
                raise UserError(f"--value {value}: found both {self.values[value]} and {target}")
            if targets[target] == UNKNOWN:
                ids = ", ".join(str(c.id) for c in labels.classes)
                raise UserError(
                    f"--value {value}={target}: no class has the id {target}; expected one of "
                    f"{ids} (data.classes), or void"
                )
        self._any_color = labels.binary and not labels.colors_given
        self._map = np.arange(MAX_ID + 1, dtype=np.uint16)
        self._map[list(self.values)] = list(self.values.values())

    @cached_property
    def _colors(self) -> ColorTable:
        known = void_colors(self.labels) if self.labels.has_void else []
        return ColorTable(self.labels, [*self.void, *known])

    def indices(self, path: Path) -> np.ndarray:
        """Read a mask as (H, W) uint8 class indices, 255 for void.

        Raises:
            UserError: unreadable, or with a color or value of no class.
        """
        mask = read_stored_mask(path)
        if self.threshold is not None:
            gray = self._gray(path, mask)
            void = self.labels.table(MAX_ID + 1)[gray] == VOID
            return np.where(void, VOID, gray >= self.threshold).astype(np.uint8)
        if self._any_color:  # equal channels hold values
            mask = read_mask_for(path, self.labels)
        if mask.is_color:
            indices = self._colors.indices(path, mask.pixels)
            check_colors(path, mask.pixels, indices, self.labels)
            return indices
        if mask.palette is not None and not self.values:
            if not self._any_color:
                return self._colors.indices(path, _palette_colors(path, mask))
            reading = palette_reading(path, mask.pixels, mask.palette, self.labels, self.void)
            if reading.by != "color":
                self._check_values(path, mask.pixels)
            return reading.table[mask.pixels]
        values = self._map[mask.pixels]
        indices = self.labels.indices(values)
        if (indices == UNKNOWN).any():
            error = unknown_values_error(path, value_counts(values), self.labels)
            value, second = int(mask.pixels[indices == UNKNOWN][0]), self.labels.classes[1:]
            option = f"--value {value}={second[0].id if second else 'void'}"
            remedy = f"{error.remedy} Or assign each value an id or void here, such as {option}."
            raise UserError(error.found, path=path, remedy=remedy, kind=error.kind)
        self._check_values(path, values)
        return indices

    def _check_values(self, path: Path, values: np.ndarray) -> None:
        found = np.flatnonzero(value_counts(values)).tolist()
        if error := many_values_error(path, found, self.labels):
            raise error

    def _gray(self, path: Path, mask: StoredMask) -> np.ndarray:
        """The values (H, W) to compare with the threshold.

        They are the indices of a palette, unless it shows gray levels. In binary segmentation
        without a given color, they are the largest channel of a color.
        """
        colors = mask.pixels
        if mask.palette is not None:
            used = mask.palette[np.unique(mask.pixels).clip(max=len(mask.palette) - 1)]
            if (used == used[0]).all() or not (used == used[:, :1]).all():
                reading = palette_reading(path, mask.pixels, mask.palette, self.labels)
                if reading.by != "color":
                    return mask.pixels
            colors = _palette_colors(path, mask)
        if colors.ndim == 2:
            return colors
        gray = colors.max(axis=2)
        if not self._any_color and (colors != gray[..., None]).any():
            raise UserError("colors, but --threshold needs gray masks.", path=path)
        return gray

    def threshold_summary(self, masks: Mapping[str, Path]) -> str:
        """The share of the second class in the masks, and how many lack it.

        Raises:
            UserError: a class would be empty in all masks.
        """
        with ThreadPoolExecutor(available_cores()) as pool:
            counts = [c for c in pool.map(self._count, masks.values()) if c is not None]
        totals = np.sum(counts, axis=0) if counts else np.ones(2, np.int64)
        if not totals.all():
            empty = self.labels.names[int(totals[1] == 0)]
            raise UserError(
                f"--threshold {self.threshold}: no pixel of the {len(masks)} masks would be "
                f"{empty!r}; nothing was written. Choose a threshold between the values of the "
                "masks: 1 makes every value above 0 the second class"
            )
        without = sum(c[1] == 0 for c in counts)
        return (
            f"--threshold {self.threshold}: {100 * totals[1] / totals.sum():.2f} % of the pixels "
            f"are {self.labels.names[1]}; {without} of {len(masks)} masks have none"
        )

    def _count(self, path: Path) -> np.ndarray | None:
        try:
            return histogram(self.indices(path))[:2]
        except UserError:  # the conversion reports it
            return None

    def written_ids(self) -> list[str]:
        """A line for each of `values` whose target is written as another id of the same class."""
        targets, lines = self.labels.table(MAX_ID + 1), []
        for value, target in self.values.items():
            index = int(targets[target])
            written = int(self.labels.to_value[index])
            if written != target:
                name = "void" if index == VOID else repr(self.labels.names[index])
                lines.append(f"--value {value}={target}: written as {written}, the id of {name}")
        return lines


def _check_threshold(threshold: int, labels: LabelSet, others: bool) -> None:
    """Raise UserError for a threshold that can't be used."""
    if not 1 <= threshold <= MAX_ID:
        raise UserError(f"--threshold: found {threshold}, expected 1 to {MAX_ID}, for example 128")
    if len(labels) != 2:
        raise UserError(
            f"--threshold: found {len(labels)} classes, expected two, or one without an id (binary "
            "segmentation)"
        )
    if others:
        raise UserError("--threshold: can't be combined with --value or --void; omit one")


def _palette_colors(path: Path, mask: StoredMask) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a palette mask."""
    largest = int(mask.pixels.max())
    if largest >= len(mask.palette):
        raise UserError(
            f"index {largest} has no color in its palette of {len(mask.palette)}.", path=path
        )
    return mask.palette[mask.pixels]


def convert_masks(
    masks: Mapping[str, Path], out: Path, converter: MaskConverter, advance: Callable[[], None]
) -> tuple[int, int]:
    """Convert each mask to an 8-bit palette PNG of class ids with the same name, in threads.

    An existing output is compared, never replaced. So an interrupted conversion can be run again,
    and outputs made with other classes are not mixed.

    Args:
        masks: from `find_masks`.
        out: output folder.
        converter: reads the masks as class indices.
        advance: called once per mask, for a progress bar.

    Returns:
        The number of masks written, and of masks that already existed with the same ids.

    Raises:
        UserError: lists the first masks that can't be converted, after converting all others.
    """
    written, existing, errors = 0, 0, []
    with ThreadPoolExecutor(available_cores()) as pool:
        for result in pool.map(partial(_convert, out=out, converter=converter), masks.items()):
            advance()
            if isinstance(result, UserError):
                errors.append(result)
            else:
                written += result
                existing += not result
    if errors:
        others = f", the others are in {out}" if written or existing else ""
        raise UserError(
            f"{len(errors)} of {len(masks)} masks can't be converted{others}\n"
            + first_lines(dict.fromkeys(map(str, errors)), MAX_LISTED)
        )
    return written, existing


def find_masks(masks: str, out: Path) -> dict[str, Path]:
    """The masks of a folder and its subfolders by name, the path below the folder without suffix.

    Args:
        masks: a folder, or a pattern such as "photos/{name}_mask.png", of which `{name}` is the
            name.
        out: output folder, which is not searched.

    Raises:
        UserError: no such folder, no masks, two masks with the same name, a lossy format, or `out`
            is the folder itself.
    """
    if "{split}" in masks:
        raise UserError(f"--masks: found {masks!r}, expected a path without {{split}}")
    path = Path(masks).expanduser().absolute()
    pattern = parse_pattern("--masks", path.as_posix(), Path("/"), "", MASK_SUFFIXES)
    folder = pattern.folder
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (--masks)")
    if out.resolve() == folder.resolve():
        raise UserError(f"--out {out}: this is the folder of the masks; choose another one")
    files = list_files(folder, [out])
    lossy = [f for f in files if f.lower().endswith((".jpg", ".jpeg", ".webp"))]
    if lossy and not pattern.has_name:
        raise UserError(
            f"{folder / lossy[0]}: lossy compression changes colors; expected "
            f"{', '.join(MASK_SUFFIXES)}. Use the original masks, or select others with --masks "
            f"{Path(masks) / '{name}_mask.png'}."
        )
    by_name: dict[str, Path] = {}
    for file in files:
        name = pattern.name(file)
        if name is None:
            continue
        if (first := by_name.setdefault(name, folder / file)) != folder / file:
            raise UserError(
                f"{folder}: {first.relative_to(folder)} and {file} would be written to the same "
                "file; rename one"
            )
    if not by_name:
        found = f"files that match {path.name}" if pattern.has_name else ", ".join(MASK_SUFFIXES)
        raise UserError(f"{folder}: no {found}{'' if pattern.has_name else ' files'}")
    return by_name


def _convert(mask: tuple[str, Path], out: Path, converter: MaskConverter) -> bool | UserError:
    """Return whether the mask was written or already existed with the same ids, or an error."""
    name, path = mask
    target = out / f"{name}.png"
    labels = converter.labels
    try:
        indices = converter.indices(path)
        if not target.exists():
            write_mask(target, indices, labels, palette=True)
            return True
        if np.array_equal(read_mask_values(target), labels.to_value[indices]):
            return False
    except UserError as error:
        return error
    return UserError(f"{target}: already exists with other ids; remove it, or choose another --out")
