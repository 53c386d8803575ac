"""Map the colors of masks to class indices."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from segcoord.data.labels import UNKNOWN, VOID, VOID_COLOR, LabelClass, LabelSet
from segcoord.utils.errors import UserError

_MANY = 16  # more unknown colors than this come from interpolation or lossy compression
Color = tuple[int, int, int]


class ColorTable:
    """Maps colors to class indices.

    In binary segmentation without a given color, black is background and every other color is the
    foreground.

    Args:
        labels: the classes with their colors.
        void: colors of void pixels.

    Raises:
        UserError: a color with two meanings, or classes whose colors are not given.
    """

    def __init__(self, labels: LabelSet, void: Sequence[Color]) -> None:
        self.labels = labels
        any_color = labels.binary and not labels.colors_given
        if not labels.colors_given and not any_color:
            raise UserError(
                "the masks are drawn in colors, but data.classes does not say which color is which "
                "class. Give each class its color: {name: NAME, color: [R, G, B]}"
            )
        known = labels.classes[:1] if any_color else labels.classes
        owners: dict[Color, str] = {}
        for color, owner in [(c.color, f"class {c.name!r}") for c in known] + [
            (color, "--void") for color in {*void}
        ]:
            if color in owners:
                raise UserError(
                    f"the color {format_rgb(color)} belongs to both {owners[color]} and {owner}; "
                    "colors must be unique. Correct data.classes or --void."
                )
            owners[color] = owner
        # Indexed by a color's 24 bits: 16 MB, and one lookup per pixel.
        self._indices = np.full(1 << 24, 1 if any_color else UNKNOWN, np.uint8)
        self._indices[_pack_rgb(np.array([c.color for c in known]))] = range(len(known))
        for color in void:
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
        remedy = (
            "Add it to data.classes, or make it void with segcoord data ids --void "
            f"{format_rgb(color)}."
        )
        if len(packed) > _MANY:
            remedy = (
                "So many colors come from resizing with interpolation or from lossy compression: "
                "use the original masks."
            )
        elif color[0] == color[1] == color[2]:
            remedy += (
                " If the channels are equal because ids were saved as RGB, remove the colors from "
                "data.classes."
            )
        return UserError(
            f"the color {format_rgb(color)} ({counts[most]} pixels) belongs to no class{others}; "
            f"the nearest is {nearest.name!r}, {format_rgb(nearest.color)}.",
            path=path,
            remedy=remedy,
            kind="mask colors outside the classes",
        )


def color_table(labels: LabelSet) -> ColorTable:
    """The table of a label set, in which VOC's void color is void unless a class has it."""
    return _cached_table(labels.classes, labels.binary, labels.colors_given)


@lru_cache(maxsize=2)
def _cached_table(classes: tuple[LabelClass, ...], binary: bool, colors_given: bool) -> ColorTable:
    labels = LabelSet(classes, binary=binary, colors_given=colors_given)
    return ColorTable(labels, void_colors(labels))


def void_colors(labels: LabelSet) -> list[Color]:
    """VOC's void color, unless it is that of a class or every color is foreground."""
    free = labels.colors_given and VOID_COLOR not in {c.color for c in labels.classes}
    return [VOID_COLOR] if free else []


def format_rgb(color: Sequence[int]) -> str:
    """Format a color as R,G,B."""
    return ",".join(map(str, color))


def unique_colors(colors: np.ndarray) -> list[list[int]]:
    """The different colors in (..., 3) uint8 RGB, sorted."""
    found = np.zeros(1 << 24, bool)  # np.unique of rows is slow
    found[_pack_rgb(colors)] = True
    return [[c >> 16, c >> 8 & 255, c & 255] for c in np.flatnonzero(found).tolist()]


def _pack_rgb(colors: np.ndarray) -> np.ndarray:
    """Pack (..., 3) uint8 colors into (...,) int32, 24 bits each."""
    r, g, b = np.moveaxis(colors.astype(np.int32), -1, 0)
    return r << 16 | g << 8 | b
