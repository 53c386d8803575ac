"""Convert masks drawn in class colors to masks of class ids."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from segcoord.data.checks.findings import MAX_LISTED
from segcoord.data.file_pattern import MASK_SUFFIXES
from segcoord.data.image_io import read_colors, read_mask_values
from segcoord.data.labels import UNKNOWN, VOID, LabelSet
from segcoord.data.mask_writer import write_mask
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError
from segcoord.utils.text import first_lines

_MANY = 16  # more unknown colors than this come from interpolation or lossy compression
Color = tuple[int, int, int]


def parse_color(text: str) -> Color:
    """Parse "R,G,B", each from 0 to 255; raise UserError for anything else."""
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdecimal() and int(p) <= 255 for p in parts):
        raise UserError(
            f"--void {text}: expected R,G,B with values from 0 to 255, for example 0,0,0"
        )
    return int(parts[0]), int(parts[1]), int(parts[2])


class ColorTable:
    """Maps colors to class indices.

    Args:
        labels: the classes with their colors.
        void: colors of void pixels.

    Raises:
        UserError: a color with two meanings.
    """

    def __init__(self, labels: LabelSet, void: Sequence[Color]) -> None:
        self.labels, self.void = labels, tuple(void)
        owners: dict[Color, str] = {}
        for color, owner in [(c.color, f"class {c.name!r}") for c in labels.classes] + [
            (color, "--void") for color in {*self.void}
        ]:
            if color in owners:
                raise UserError(
                    f"the color {_rgb(color)} belongs to both {owners[color]} and {owner}; colors "
                    "must be unique. Correct data.classes or --void."
                )
            owners[color] = owner
        # Indexed by a color's 24 bits: 16 MB, and one lookup per pixel.
        self._indices = np.full(1 << 24, UNKNOWN, np.uint8)
        self._indices[_pack_rgb(np.array([c.color for c in labels.classes]))] = range(len(labels))
        for color in self.void:
            self._indices[_pack_rgb(np.array(color))] = VOID

    def indices(self, path: Path, colors: np.ndarray) -> np.ndarray:
        """Map (H, W, 3) uint8 RGB to (H, W) uint8 class indices, 255 for void.

        Raises:
            UserError: a color belongs to no class; names it, its pixel count and the class of the
                nearest color.
        """
        packed = _pack_rgb(colors)
        indices = self._indices[packed]
        unknown = packed[indices == UNKNOWN]
        if unknown.size:
            raise self._unknown_color_error(path, *np.unique(unknown, return_counts=True))
        return indices

    def _unknown_color_error(self, path: Path, packed: np.ndarray, counts: np.ndarray) -> UserError:
        """Name the most frequent of the unknown colors (N,), given with their pixel counts (N,)."""
        most = int(counts.argmax())
        rgb = int(packed[most])
        color = (rgb >> 16, rgb >> 8 & 255, rgb & 255)
        nearest = min(
            self.labels.classes, key=lambda c: np.linalg.norm(np.subtract(c.color, color))
        )
        others = ""
        if len(packed) > 1:
            rest = int(counts.sum() - counts[most])
            others = f", nor do {rest} pixels of {len(packed) - 1} other colors"
        remedy = f"Add it to data.classes, or pass --void {_rgb(color)} to ignore it."
        if len(packed) > _MANY:
            remedy = (
                "So many colors come from resizing with interpolation or from lossy compression: "
                "use the original masks."
            )
        return UserError(
            f"the color {_rgb(color)} ({counts[most]} pixels) belongs to no class{others}; "
            f"the nearest is {nearest.name!r}, {_rgb(nearest.color)}.",
            path=path,
            remedy=remedy,
        )


def convert_masks(
    files: Sequence[Path], out: Path, table: ColorTable, advance: Callable[[], None]
) -> tuple[int, int]:
    """Convert each mask to an 8-bit palette PNG of class ids with the same stem, in threads.

    An existing output is compared, never replaced. So an interrupted conversion can be run again,
    and outputs made with other classes are not mixed.

    Args:
        files: color masks, from `find_masks`.
        out: output folder.
        table: maps colors to classes.
        advance: called once per mask, for a progress bar.

    Returns:
        The number of masks written, and of masks that already existed with the same ids.

    Raises:
        UserError: lists the first masks that can't be converted, after converting all others.
    """
    written, existing, errors = 0, 0, []
    with ThreadPoolExecutor(available_cores()) as pool:
        for result in pool.map(partial(_convert, out=out, table=table), files):
            advance()
            if isinstance(result, UserError):
                errors.append(result)
            else:
                written += result
                existing += not result
    if errors:
        raise UserError(
            f"{len(errors)} of {len(files)} masks can't be converted, the others are in {out}\n"
            + first_lines(errors, MAX_LISTED)
        )
    return written, existing


def find_masks(folder: Path, out: Path) -> list[Path]:
    """List the masks of a folder, sorted.

    Raises:
        UserError: no such folder, no masks, two masks with the same stem, a lossy format, or `out`
            is the folder itself.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (--masks)")
    if out.resolve() == folder.resolve():
        raise UserError(f"--out {out}: this is the folder of the masks; choose another one")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    lossy = [p for p in files if p.suffix.lower() in (".jpg", ".jpeg", ".webp")]
    if lossy:
        raise UserError(
            f"{lossy[0]}: lossy compression changes colors; expected {', '.join(MASK_SUFFIXES)}. "
            "Use the original masks, or move such files elsewhere."
        )
    masks = [p for p in files if p.suffix.lower() in MASK_SUFFIXES]
    if not masks:
        raise UserError(f"{folder}: no {', '.join(MASK_SUFFIXES)} files")
    for first, second in pairwise(masks):
        if first.stem == second.stem:
            raise UserError(
                f"{folder}: {first.name} and {second.name} would be written to the same file; "
                "rename one"
            )
    return masks


def _convert(path: Path, out: Path, table: ColorTable) -> bool | UserError:
    """Return whether the mask was written or already existed with the same ids, or an error."""
    target = out / f"{path.stem}.png"
    try:
        indices = table.indices(path, read_colors(path))
        if not target.exists():
            write_mask(target, indices, table.labels, palette=True)
            return True
        if np.array_equal(read_mask_values(target), cv2.LUT(indices, table.labels.to_value)):
            return False
    except UserError as error:
        return error
    return UserError(f"{target}: already exists with other ids; remove it, or choose another --out")


def _pack_rgb(colors: np.ndarray) -> np.ndarray:
    """Pack (..., 3) uint8 colors into (...,) int32, 24 bits each."""
    r, g, b = np.moveaxis(colors.astype(np.int32), -1, 0)
    return r << 16 | g << 8 | b


def _rgb(color: Sequence[int]) -> str:
    return ",".join(map(str, color))
