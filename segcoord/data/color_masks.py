"""Masks whose colours stand for classes, made into masks of class ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from segcoord.data.image_io import read_colors, read_mask_values
from segcoord.data.labels import UNKNOWN, VOID, LabelSet
from segcoord.data.layouts import MASK_SUFFIXES
from segcoord.data.mask_files import write_mask
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError
from segcoord.utils.text import first_lines

SHOWN = 10  # files named in one error
_MANY = 16  # unknown colours of a mask that was smoothed or compressed with loss
Color = tuple[int, int, int]


def parse_color(text: str) -> Color:
    """(R, G, B) of "R,G,B"; UserError for anything else."""
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdecimal() and int(p) <= 255 for p in parts):
        raise UserError(f"--void {text}: expected R,G,B, each of 0 to 255: 0,0,0 say")
    return int(parts[0]), int(parts[1]), int(parts[2])


class ColorTable:
    """Which class a colour stands for.

    Args:
        labels: the classes with their colours.
        void: colours of pixels that count for nothing.

    Raises:
        UserError: a colour that stands for two things.
    """

    def __init__(self, labels: LabelSet, void: Sequence[Color]) -> None:
        self.labels, self.void = labels, tuple(void)
        owners: dict[Color, str] = {}
        for color, owner in [(c.color, f"class {c.name!r}") for c in labels.classes] + [
            (color, "--void") for color in {*self.void}
        ]:
            if color in owners:
                raise UserError(
                    f"the colour {_rgb(color)} stands for {owners[color]} and for {owner}; "
                    "expected one meaning each. Correct data.classes, or --void."
                )
            owners[color] = owner
        # By the 24 bits of a colour; 16 MB, so that a pixel costs one look-up.
        self._indices = np.full(1 << 24, UNKNOWN, np.uint8)
        self._indices[_keys(np.array([c.color for c in labels.classes]))] = range(len(labels))
        for color in self.void:
            self._indices[_keys(np.array(color))] = VOID

    def indices(self, path: Path, colors: np.ndarray) -> np.ndarray:
        """(H, W) uint8 class indices, 255 for void.

        Args:
            path: of the mask, for the message.
            colors: (H, W, 3) uint8 RGB.

        Raises:
            UserError: a colour of no class: it, its pixels, and the class of the nearest colour.
        """
        keys = _keys(colors)
        indices = self._indices[keys]
        unknown = keys[indices == UNKNOWN]
        if unknown.size:
            raise self._unknown(path, *np.unique(unknown, return_counts=True))
        return indices

    def _unknown(self, path: Path, keys: np.ndarray, counts: np.ndarray) -> UserError:
        most = int(counts.argmax())
        key = int(keys[most])
        color = (key >> 16, key >> 8 & 255, key & 255)
        far = [float(np.linalg.norm(np.subtract(c.color, color))) for c in self.labels.classes]
        near = self.labels.classes[int(np.argmin(far))]
        others = ""
        if len(keys) > 1:
            rest = int(counts.sum() - counts[most])
            others = f", as do {rest} pixels of {len(keys) - 1} other colours"
        remedy = f"Add it to data.classes, or give --void {_rgb(color)} if it counts for nothing."
        if len(keys) > _MANY:
            remedy = (
                "So many colours come from scaling with smoothing or from compression with loss: "
                "take the masks as they were before."
            )
        return UserError(
            f"the colour {_rgb(color)} ({counts[most]} pixels) belongs to no class{others}; "
            f"the nearest is {near.name!r}, {_rgb(near.color)}.",
            path=path,
            remedy=remedy,
        )


def convert_masks(
    files: Sequence[Path], out: Path, table: ColorTable, advance: Callable[[], None]
) -> tuple[int, int]:
    """Writes an 8-bit palette PNG of ids for each mask, under its stem; several at once.

    A file that is there already is compared and never replaced, so a conversion that was
    interrupted goes on when it is started again, and one with other classes can't mix in.

    Args:
        files: masks in colours, from `find_masks`.
        out: the folder to write to.
        table: what their colours stand for.
        advance: called once for each mask, for a progress bar.

    Returns:
        How many were written, and how many were there already with the same ids.

    Raises:
        UserError: names the first masks that can't be converted, after all others were.
    """
    written, there, wrong = 0, 0, []

    def convert(path: Path) -> bool | UserError:
        try:
            return _convert(path, out / f"{path.stem}.png", table)
        except UserError as error:
            return error

    with ThreadPoolExecutor(available_cores()) as pool:
        for result in pool.map(convert, files):
            advance()
            if isinstance(result, UserError):
                wrong.append(str(result))
            else:
                written += result
                there += not result
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(files)} masks can't be converted, the others are in {out}\n"
            + first_lines(wrong, SHOWN)
        )
    return written, there


def find_masks(folder: Path, out: Path) -> list[Path]:
    """The masks of a folder, sorted.

    Raises:
        UserError: no such folder; no masks; two of a stem; a kind of file that loses colours; or
            `out` is the folder itself.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (--masks)")
    if out.resolve() == folder.resolve():
        raise UserError(f"--out {out}: is the folder of the masks; choose another one")
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    lossy = [p for p in files if p.suffix.lower() in (".jpg", ".jpeg", ".webp")]
    if lossy:
        raise UserError(
            f"{lossy[0]}: compression changes colours; expected {', '.join(MASK_SUFFIXES)}. "
            "Take the masks as they were before, or move such files elsewhere."
        )
    masks = [p for p in files if p.suffix.lower() in MASK_SUFFIXES]
    if not masks:
        raise UserError(f"{folder}: no {', '.join(MASK_SUFFIXES)} in it")
    for first, second in pairwise(masks):
        if first.stem == second.stem:
            raise UserError(f"{folder}: {first.name} and {second.name} would become one file")
    return masks


def _convert(path: Path, target: Path, table: ColorTable) -> bool:
    """True if the mask of ids was written, False if it was there already."""
    indices = table.indices(path, read_colors(path))
    if not target.exists():
        write_mask(target, indices, table.labels, palette=True)
        return True
    if np.array_equal(read_mask_values(target), cv2.LUT(indices, table.labels.to_value)):
        return False
    raise UserError(f"{target}: is there with other ids; remove it, or choose another --out")


def _keys(colors: np.ndarray) -> np.ndarray:
    """(...,) int32: the 24 bits of each colour of (..., 3)."""
    r, g, b = np.moveaxis(colors.astype(np.int32), -1, 0)
    return r << 16 | g << 8 | b


def _rgb(color: Sequence[int]) -> str:
    return ",".join(map(str, color))
