"""Diagnose wrong mask values: report what was found and the mistake that most likely caused it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segcoord.data.color_table import Color
from segcoord.data.labels import UNKNOWN, VOID, LabelSet
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


def many_values_error(
    path: Path, values: Sequence[int] | Sequence[Color], labels: LabelSet
) -> UserError | None:
    """The error for a mask of binary segmentation with three foreground values or more.

    They may be classes, objects, void, or edges that interpolation made. None for other masks.
    `values` are those of the mask, or its colors, without repetitions.
    """
    if not labels.binary or len(values) < 3:
        return None
    if colored := isinstance(values[0], tuple):
        found, remedy = [*values], "If they are classes, list them with their colors; if"
    else:
        found = [int(v) for v in values if labels.table(int(v) + 1)[v] == 1]
        remedy = "If they are classes, list them; if"
    if len(found) < 3:
        return None
    name, largest = labels.names[1], int(np.max(found))
    if not colored:
        remedy += f" all mean {name!r}, list it with its ids and a background: {{name: {name}, id: "
        remedy += f"[{', '.join(map(str, found[:3]))}{', ...' if len(found) > 3 else ''}]}}; "
        remedy += "if 255 is void, set data.void_ids: [255]; if" if VOID in found else "if"
    return UserError(
        f"{'colors' if colored else 'mask values'} {join_first(found, 8)}, expected at most two "
        "values above 0 in binary segmentation (one class without an id).",
        path=path,
        remedy=f"{remedy} they number objects, make masks of two values with segcoord data ids "
        f"--threshold 1; {_cut_edges(largest)}",
        kind="masks with several foreground values",
    )


def _cut_edges(largest: int) -> str:
    return (
        "if they come from resizing with interpolation, blurred edges or JPEG compression, use the "
        f"original masks or --threshold {(largest + 1) // 2}."
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
    if len(labels) == 2 and len(unknown) > 2 and table[values[-1]] != VOID:
        return (
            "To make masks of two values, use segcoord data ids --threshold N; "
            f"{_cut_edges(values[-1])}"
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
