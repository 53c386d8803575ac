"""Diagnose wrong mask values: report what was found and the mistake that most likely caused it."""

from pathlib import Path

import numpy as np

from segcoord.data.labels import UNKNOWN, VOID, LabelSet
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

CONVERT = "segcoord data ids converts masks drawn in the class colors."
_MAX_CITYSCAPES_ID = 33
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, used by Pillow and OpenCV


def unknown_values_error(path: Path, histogram: np.ndarray, labels: LabelSet) -> UserError:
    """The error for mask values that belong to no class, with the likely mistake.

    `histogram` holds the mask's (256,) pixel counts by value.
    """
    values = [int(v) for v in np.flatnonzero(histogram)]
    unknown = [v for v in values if labels.to_index[v] == UNKNOWN]
    pixels = int(histogram[unknown].sum())
    ids = sorted(c.id for c in labels.classes)
    expected = f"{ids[0]} to {ids[-1]}" if ids == list(range(len(ids))) else str(ids)
    return UserError(
        f"mask values {join_first(unknown, 8)} ({pixels} pixels) belong to no class; "
        f"expected {expected} and 255 for void.",
        path=path,
        remedy=_hint(values, unknown, ids, labels),
        kind="mask values outside the classes",
    )


def _hint(values: list[int], unknown: list[int], ids: list[int], labels: LabelSet) -> str:
    k = len(labels)
    if len(values) == 2 and values[0] == 0 and values[1] >= 127:
        return "This looks like a 0/255 binary mask: write 0 and 1, because 255 means void."
    if ids == list(range(19)) and unknown != [19] and max(unknown) <= _MAX_CITYSCAPES_ID:
        return "These look like Cityscapes label ids: use layout cityscapes, which maps them."
    if unknown == [k] and 0 not in values:
        return f"The ids seem to start at 1: subtract 1, or give the classes ids 1 to {k}."
    if _are_gray_levels([v for v in values if v != VOID], labels):
        return (
            "They are the gray levels of the class colors: the mask was converted to gray. "
            f"Make ids from the original color mask: {CONVERT}"
        )
    if len(values) > 40:
        return "So many values suggest a gray photograph, or a color mask converted to gray."
    if unknown == [k]:
        return (
            "Correct the mask; or, if 0 means unlabeled and the class ids start at 1, give the "
            f"classes ids 1 to {k} in data.classes and set data.void_ids: [0]."
        )
    return "Correct the mask, or add the values to data.classes (id) or data.void_ids."


def _are_gray_levels(values: list[int], labels: LabelSet) -> bool:
    """True if there are at least two values and each is the luma of a class color, within 1."""
    luma = np.rint(np.array([c.color for c in labels.classes]) @ _LUMA)
    return len(values) > 1 and all((np.abs(luma - v) <= 1).any() for v in values)


def palette_matches(palette: np.ndarray, labels: LabelSet) -> bool:
    """Whether a palette, (N, 3) uint8 RGB, has each class's color at its id, for ids below N."""
    ids = labels.to_value[: len(labels)]
    inside = ids < len(palette)
    return bool((palette[ids[inside]] == labels.colors[: len(labels)][inside]).all())


def palette_error(
    path: Path, histogram: np.ndarray, palette: np.ndarray, labels: LabelSet
) -> UserError | None:
    """The error for a palette mask whose colors are those of the classes but whose indices differ.

    Image editors number palette colors arbitrarily, so all indices may be valid ids and still mean
    other classes. Returns None if the palette, (N, 3) uint8 RGB, does not prove this.
    `histogram` holds the mask's (256,) pixel counts by index.
    """
    id_of = {c.color: c.id for c in labels.classes}
    id_of.setdefault(tuple(int(v) for v in labels.colors[VOID]), VOID)
    used = [int(v) for v in np.flatnonzero(histogram) if v < len(palette)]
    used = [v for v in used if labels.to_index[v] != VOID]
    color_id = {v: id_of.get(tuple(int(c) for c in palette[v])) for v in used}
    wrong = [v for v in used if color_id[v] != v]
    uncertain = None in color_id.values() or len(set(color_id.values()) - {VOID}) < 2
    if uncertain or not wrong or len(id_of) < len(labels):  # a shared color proves nothing
        return None
    v = wrong[0]
    is_void = color_id[v] == VOID
    name = "void" if is_void else labels.names[labels.to_index[color_id[v]]]
    return UserError(
        f"its palette has the class colors, but its indices are not the class ids: index {v} has "
        f"the color of {name}, whose id is {color_id[v]}.",
        path=path,
        remedy=f"Replace the colors with class ids: {CONVERT} "
        "If the ids are right, correct the colors in data.classes.",
        kind="palette indices that are not class ids",
    )
