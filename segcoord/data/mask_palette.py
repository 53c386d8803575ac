"""Read palette masks by their colors or by their indices, and find palettes that mislead.

Image editors number palette colors arbitrarily, so indices can be valid class ids by chance.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segcoord.data.color_table import Color, format_rgb
from segcoord.data.image_io import histogram
from segcoord.data.labels import VOID, VOID_COLOR, LabelSet, voc_colors
from segcoord.data.mask_diagnosis import CONVERT
from segcoord.utils.errors import UserError

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_KIND = "palette indices that are not class ids"
_BY_INDEX = (
    "If index 0 is background, convert the masks with segcoord data ids --value 1=255, and one "
    "--value for each other index of the foreground."
)


def palette_matches(palette: np.ndarray, labels: LabelSet) -> bool:
    """Whether a palette, (N, 3) uint8 RGB, has each class's color at its id, for ids below N."""
    ids = labels.to_value[: len(labels)]
    inside = ids < len(palette)
    return bool((palette[ids[inside]] == labels.colors[: len(labels)][inside]).all())


def palette_indices(
    path: Path,
    pixels: np.ndarray,
    palette: np.ndarray,
    labels: LabelSet,
    void: Sequence[Color] = (),
) -> np.ndarray | None:
    """The class indices of a palette's colors, if they and not the palette indices are class ids.

    The colors decide where they were given and the ids were not, if each color in use is that of a
    class or void, except in VOC's color map where it lacks the color of a class. In binary
    segmentation without a given color, black is background.

    Args:
        path: of the mask, for errors.
        pixels: (H, W) uint8 palette indices.
        palette: (N, 3) uint8 RGB.
        labels: the classes.
        void: colors of void pixels, in binary segmentation without a given color.

    Returns:
        (256,) uint8, class index of each used palette index; None to read the indices as ids.

    Raises:
        UserError: neither the colors nor the indices can be the classes.
    """
    any_color = labels.binary and not labels.colors_given
    if not any_color:
        if not labels.colors_given or labels.ids_given or palette_matches(palette, labels):
            return None
        if len({c.color for c in labels.classes}) < len(labels):  # a shared color proves nothing
            return None
    table = labels.table(256)
    used = [v for v in np.flatnonzero(histogram(pixels)).tolist() if table[v] != VOID]
    if not any_color and _is_color_map(palette, used, labels):
        return None
    colors = {v: tuple(palette[v].tolist()) if v < len(palette) else None for v in used}
    by_color = table.copy()
    if any_color:
        for v in [v for v in colors if colors[v] in void]:
            by_color[v] = VOID
            del colors[v]
        by_color[[*colors]] = _binary_indices(path, colors)
    else:
        by_color[used] = _class_indices(path, colors, labels)
    return None if (by_color == table).all() else by_color


def _is_color_map(palette: np.ndarray, used: Sequence[int], labels: LabelSet) -> bool:
    """Whether the used colors number ids, because they are those of VOC's map but not the classes'.

    A few of the classes may have a color of the map, at any index.
    """
    voc = voc_colors(256)
    same = all(v < len(palette) and voc[v] == tuple(palette[v].tolist()) for v in used)
    return same and not {c.color for c in labels.classes} <= {*voc}


def _class_indices(path: Path, colors: dict[int, Color | None], labels: LabelSet) -> list[int]:
    """The class index of each color, or of its palette index if no color decides.

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
        return [int(table[v]) for v in colors]
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


def _binary_indices(path: Path, colors: dict[int, Color | None]) -> list[int]:
    """1 for foreground, 0 for background, by palette index and color, of which black is background.

    Index 0 is background too, unless the palette is black and one other color. Pillow writes such
    palettes with white first, from black and white masks.

    Raises:
        UserError: index 0 may be foreground.
    """
    by_id = [int(v != 0) for v in colors]
    by_color = [int(color != _BLACK) for color in colors.values()]
    different = {*colors.values()}
    if by_id == by_color or len(different) < len(colors) == 2:
        return by_id
    if _BLACK in different and len(different) <= 2:
        return by_color
    if _BLACK not in different and colors[0] != _WHITE:
        return by_id
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
    if not labels.colors_given:
        return None
    ids_of = {c.color: c.ids for c in labels.classes}
    ids_of.setdefault(VOID_COLOR, (VOID,))
    used = [int(v) for v in np.flatnonzero(counts) if v < len(palette)]
    table = labels.table(256)
    used = [v for v in used if table[v] != VOID]
    if _is_color_map(palette, used, labels):
        return None
    color_ids = {v: ids_of.get(tuple(palette[v].tolist())) for v in used}
    color_ids = {v: ids for v, ids in color_ids.items() if ids is not None}
    uncertain = len({*color_ids.values()} - {(VOID,)}) < 2
    if uncertain or len(ids_of) < len(labels):  # a shared color proves nothing
        return None
    wrong = [v for v, ids in color_ids.items() if v not in ids]
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
