"""Diagnose wrong mask values: report what was found and the mistake that most likely caused it."""

from pathlib import Path

import numpy as np

from segcoord.data.image_io import histogram
from segcoord.data.labels import UNKNOWN, VOID, VOID_COLOR, LabelSet
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

CONVERT = "segcoord data ids converts masks drawn in the class colors."
UNKNOWN_VALUES = "mask values outside the classes"
"""The `kind` of the error for mask values that belong to no class."""
_MAX_CITYSCAPES_ID = 33
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, used by Pillow and OpenCV


def unknown_values_error(path: Path, counts: np.ndarray, labels: LabelSet) -> UserError:
    """The error for mask values that belong to no class, with the likely mistake.

    `counts` are the mask's pixels by value, (256,) or (65536,).
    """
    values = [int(v) for v in np.flatnonzero(counts)]
    table = labels.table(len(counts))
    unknown = [v for v in values if table[v] == UNKNOWN]
    pixels = int(counts[unknown].sum())
    ids = sorted(value for c in labels.classes for value in c.ids)
    expected = f"{ids[0]} to {ids[-1]}" if ids == list(range(len(ids))) else str(ids)
    void = " and 255 for void" if table[VOID] == VOID else ""
    return UserError(
        f"mask values {join_first(unknown, 8)} ({pixels} pixels) belong to no class; "
        f"expected {expected}{void}.",
        path=path,
        remedy=_hint(values, unknown, ids, labels),
        kind=UNKNOWN_VALUES,
    )


def binary_remedy(value: int) -> str:
    """What to do about masks of 0 and another value."""
    return (
        f"Give the class that {value} marks id: {value} in data.classes; or, for binary "
        "segmentation, list one class alone, without an id: everything but 0 is then this class."
    )


def _hint(values: list[int], unknown: list[int], ids: list[int], labels: LabelSet) -> str:
    k = len(labels)
    if len(values) == 2 and values[0] == 0 and values[1] >= 127:
        return f"This looks like a 0/{values[1]} binary mask. {binary_remedy(values[1])}"
    if ids == list(range(19)) and unknown != [19] and max(unknown) <= _MAX_CITYSCAPES_ID:
        return "These look like Cityscapes label ids: use layout cityscapes, which maps them."
    if unknown == [k] and 0 not in values:
        return (
            f"If the ids start at 1, give the classes ids 1 to {k} in data.classes; if {k} marks "
            f"unlabeled pixels, set data.void_ids: [{k}]."
        )
    table = labels.table(max(values) + 1)
    labeled = [v for v in values if table[v] != VOID]
    if _are_gray_levels(labeled, labels):
        return (
            "They are the gray levels of the class colors: the mask was converted to gray. "
            f"Make ids from the original color mask: {CONVERT}"
        )
    if len(values) > 40:
        return "So many values suggest a gray photograph, or a color mask converted to gray."
    if unknown == [k]:
        return (
            f"If {k} marks unlabeled pixels, set data.void_ids: [{k}]; if 0 does and the class ids "
            f"start at 1, give the classes ids 1 to {k} in data.classes and set data.void_ids: "
            "[0]; otherwise correct the mask."
        )
    known = {*values} & {*ids}
    for found in (values, labeled):
        if len(found) == k and ids == list(range(k)) and known <= {0}:
            return f"If these are the classes in their order, {_ids_in_order(found)}"
    return "Correct the mask, or add the values to data.classes (id) or data.void_ids."


def _ids_in_order(values: list[int]) -> str:
    return f"give the classes in data.classes the ids {', '.join(map(str, values))}."


def _are_gray_levels(values: list[int], labels: LabelSet) -> bool:
    """True if there are at least two values and each is the luma of a class color, within 1."""
    luma = np.rint(np.array([c.color for c in labels.classes]) @ _LUMA)
    return (
        labels.colors_given
        and len(values) > 1
        and all((np.abs(luma - v) <= 1).any() for v in values)
    )


def palette_matches(palette: np.ndarray, labels: LabelSet) -> bool:
    """Whether a palette, (N, 3) uint8 RGB, has each class's color at its id, for ids below N."""
    ids = labels.to_value[: len(labels)]
    inside = ids < len(palette)
    return bool((palette[ids[inside]] == labels.colors[: len(labels)][inside]).all())


def palette_indices(pixels: np.ndarray, palette: np.ndarray, labels: LabelSet) -> np.ndarray | None:
    """The class indices of a palette's colors, if they and not the palette indices are class ids.

    Image editors number palette colors arbitrarily. So the colors decide where they were given and
    the ids were not, if each color in use is that of a class or void.

    Args:
        pixels: (H, W) uint8 palette indices.
        palette: (N, 3) uint8 RGB.
        labels: the classes.

    Returns:
        (256,) uint8, class index of each used palette index; None to read the indices as ids.
    """
    if not labels.colors_given or labels.ids_given or palette_matches(palette, labels):
        return None
    index_of = {c.color: index for index, c in enumerate(labels.classes)}
    if len(index_of) < len(labels):  # a shared color proves nothing
        return None
    index_of.setdefault(VOID_COLOR, VOID)
    table = labels.table(256)
    used = np.flatnonzero(histogram(pixels))
    for value in used[table[used] != VOID]:
        color = tuple(palette[value].tolist()) if value < len(palette) else None
        if color not in index_of:
            return None
        table[value] = index_of[color]
    return None if (table == labels.table(256)).all() else table


def palette_error(
    path: Path, counts: np.ndarray, palette: np.ndarray, labels: LabelSet
) -> UserError | None:
    """The error for a palette mask whose colors are those of the classes but whose indices differ.

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
    color_ids = {v: ids_of.get(tuple(int(c) for c in palette[v])) for v in used}
    uncertain = None in color_ids.values() or len(set(color_ids.values()) - {(VOID,)}) < 2
    if uncertain or len(ids_of) < len(labels):  # a shared color proves nothing
        return None
    wrong = [v for v in used if v not in color_ids[v]]
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
        kind="palette indices that are not class ids",
    )
