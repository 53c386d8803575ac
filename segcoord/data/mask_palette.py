"""Read palette masks by their colors or by their indices, and find palettes that mislead.

Image editors number palette colors arbitrarily, so indices can be valid class ids by chance.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from segcoord.data.color_table import Color, format_rgb
from segcoord.data.image_io import histogram
from segcoord.data.labels import MAX_ID, VOID, VOID_COLOR, LabelSet, voc_colors
from segcoord.data.mask_diagnosis import CONVERT
from segcoord.utils.errors import UserError

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_KIND = "palette indices that are not class ids"
_BY_INDEX = (
    "If index 0 is background, convert the masks with segcoord data ids --value 1=255, and one "
    "--value for each other index of the foreground."
)
_MAP_COLORS = 16  # of VOC's color map, by which a palette is recognized
_VOC_MAP = np.array(voc_colors(256), np.uint8)


class PaletteReading(NamedTuple):
    """How a palette mask is read."""

    table: np.ndarray
    """(256,) uint8, class index of each palette index in use."""
    by: Literal["color", "index", "both"]
    """What decided; both if the colors and the indices mean the same classes."""


def palette_matches(palette: np.ndarray, labels: LabelSet) -> bool:
    """Whether a palette, (N, 3) uint8 RGB, has each class's color at its id, for ids below N."""
    ids = labels.to_value[: len(labels)]
    inside = ids < len(palette)
    return bool((palette[ids[inside]] == labels.colors[: len(labels)][inside]).all())


def palette_reading(
    path: Path,
    pixels: np.ndarray,
    palette: np.ndarray,
    labels: LabelSet,
    void: Sequence[Color] = (),
) -> PaletteReading:
    """Decide whether a palette mask is read by its colors or by its indices.

    The colors decide where they were given and the ids were not, if each color in use is that of a
    class or void, except in VOC's whole color map where it lacks the color of a class. In binary
    segmentation without a given color, black is background.

    Args:
        path: of the mask, for errors.
        pixels: (H, W) uint8 palette indices.
        palette: (N, 3) uint8 RGB.
        labels: the classes.
        void: colors of void pixels, in binary segmentation without a given color.

    Raises:
        UserError: neither the colors nor the indices can be the classes.
    """
    table = labels.table(256)
    any_color = labels.binary and not labels.colors_given
    if not any_color:
        matches = labels.colors_given and palette_matches(palette, labels)
        # A color of two classes proves nothing.
        shared = len({c.color for c in labels.classes}) < len(labels)
        if labels.ids_given or not labels.colors_given or matches or shared:
            return PaletteReading(table, "both")
    used = [v for v in np.flatnonzero(histogram(pixels)).tolist() if table[v] != VOID]
    colors = {v: tuple(palette[v].tolist()) if v < len(palette) else None for v in used}
    by_color = table.copy()
    if any_color:
        for v in [v for v in colors if colors[v] in void]:
            by_color[v] = VOID
            del colors[v]
    if _is_indistinct(colors, palette) or (not any_color and _is_voc_map(palette, labels)):
        indices = None
    elif any_color:
        indices = _binary_indices(path, colors, palette)
    else:
        indices = _class_indices(path, colors, labels)
    if indices is None:
        return PaletteReading(by_color, "index")
    by_color[[*colors]] = indices
    return PaletteReading(by_color, "both" if (by_color == table).all() else "color")


def _is_indistinct(colors: dict[int, Color | None], palette: np.ndarray) -> bool:
    """Whether the used colors, by index, are all the same although the indices are not."""
    same = len({*colors.values()}) == 1
    return same and (len(colors) > 1 or (0 not in colors and bool((palette == palette[0]).all())))


def _is_voc_map(palette: np.ndarray, labels: LabelSet) -> bool:
    """Whether a palette is VOC's map, apart from gray padding, and the classes have other colors.

    It numbers ids then. A few of the classes may have a color of the map, at any index.
    """
    same = (palette == _VOC_MAP[: len(palette)]).all(1)
    gray = (palette == palette[:, :1]).all(1)
    if len(palette) < _MAP_COLORS or not same[:_MAP_COLORS].all() or not (same | gray).all():
        return False
    return not {c.color for c in labels.classes} <= {*voc_colors(256)}


def _class_indices(
    path: Path, colors: dict[int, Color | None], labels: LabelSet
) -> list[int] | None:
    """The class index of each color; None if some belong to no class and no other contradicts.

    Raises:
        UserError: some colors are those of classes with other ids, and others of no class.
    """
    table = labels.table(256)
    index_of = {c.color: index for index, c in enumerate(labels.classes)}
    index_of.setdefault(VOID_COLOR, VOID)
    by_color = {v: index_of[color] for v, color in colors.items() if color in index_of}
    if len(by_color) == len(colors):
        return [*by_color.values()]
    wrong = next((v for v, index in by_color.items() if table[v] != index), None)
    if wrong is None:
        return None
    unknown = next(v for v in colors if v not in by_color)
    color = "no color" if colors[unknown] is None else f"the color {format_rgb(colors[unknown])}"
    name = "void" if by_color[wrong] == VOID else labels.names[by_color[wrong]]
    raise UserError(
        f"index {wrong} of its palette has the color of {name!r}, but is not its id, and index "
        f"{unknown} has {color}, which belongs to no class.",
        path=path,
        remedy="If the colors are the classes, add the color to data.classes, or correct the mask. "
        + (
            _BY_INDEX
            if labels.binary
            else "If the indices are the classes, give the classes their ids: {name: NAME, id: ID}."
        ),
        kind=_KIND,
    )


def _binary_indices(
    path: Path, colors: dict[int, Color | None], palette: np.ndarray
) -> list[int] | None:
    """1 for foreground, 0 for background, by color, of which black is background; None for by id.

    Pillow writes palettes of white and black from black and white masks. A single color in use is
    compared with the whole palette.

    Raises:
        UserError: index 0 may be foreground.
    """
    by_color = [int(color != _BLACK) for color in colors.values()]
    different = {*colors.values()}
    if by_color == [int(v != 0) for v in colors]:
        return by_color
    whole = {tuple(color) for color in palette.tolist()}
    if len(different) == 1:
        if different == {_BLACK} or whole == {_WHITE} or (_BLACK in whole and len(whole) == 2):
            return by_color
    elif _BLACK in different and len(different) == 2:
        return by_color
    elif _BLACK not in different and colors[0] != _WHITE:
        return None
    shown = ", ".join(
        f"{v}: {'none' if color is None else format_rgb(color)}"
        for v, color in [*colors.items()][:6]
    )
    raise UserError(
        "its palette doesn't tell background from foreground: index 0 isn't black (colors by "
        f"index: {shown}).",
        path=path,
        remedy="Give the class its color, if it is one of these and black is background: {name: "
        "NAME, color: [R, G, B]}. " + _BY_INDEX,
        kind=_KIND,
    )


def palette_error(
    path: Path, counts: np.ndarray, palette: np.ndarray, labels: LabelSet
) -> UserError | None:
    """The error for a palette mask with the colors of two classes or more but other indices.

    Image editors number palette colors arbitrarily, so all indices may be valid ids and still mean
    other classes. Returns None if the palette, (N, 3) uint8 RGB, does not prove this.
    `counts` are the mask's pixels by index, (256,).
    """
    if not labels.colors_given or _is_voc_map(palette, labels):
        return None
    ids_of = {c.color: c.ids for c in labels.classes}
    ids_of.setdefault(VOID_COLOR, (VOID,))
    table = labels.table(256)
    used = [int(v) for v in np.flatnonzero(counts) if v < len(palette) and table[v] != VOID]
    color_ids = {v: ids_of.get(tuple(palette[v].tolist())) for v in used}
    color_ids = {v: ids for v, ids in color_ids.items() if ids is not None}
    uncertain = len({*color_ids.values()} - {(VOID,)}) < 2
    if uncertain or len(ids_of) < len(labels):  # a shared color proves nothing
        return None
    wrong = [v for v, ids in color_ids.items() if table[v] != labels.table(MAX_ID + 1)[ids[0]]]
    if not wrong:
        return None
    v = wrong[0]
    expected = color_ids[v][0]
    names = {value: c.name for c in labels.classes for value in c.ids}
    name = names.get(expected, "void")
    return UserError(
        f"its palette has the class colors, but its indices are not the class ids: index {v} has "
        f"the color of {name}, whose id is {expected}.",
        path=path,
        remedy=f"Replace the colors with class ids: {CONVERT} "
        "If the ids are right, correct the colors in data.classes.",
        kind=_KIND,
    )


def mixed_palettes_error(by_color: Path, by_index: Path) -> UserError:
    """The error for two palette masks of a split, of which only one is read by its colors."""
    return UserError(
        "the colors of its palette say nothing about the classes, so that its indices are read as "
        f"ids, but in {by_color}, in the same split, the colors decide against the indices.",
        path=by_index,
        remedy="If the colors are the classes, correct the palette of this mask, or the colors in "
        "data.classes; if the indices are, give the classes their ids: {name: NAME, id: ID}.",
        kind="palette masks read by color and by index",
    )
