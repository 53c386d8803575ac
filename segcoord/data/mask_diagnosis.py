"""Diagnose wrong mask values: report what was found and the mistake that most likely caused it."""

from pathlib import Path

import numpy as np

from segcoord.data.labels import UNKNOWN, VOID, LabelSet
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

CONVERT = "segcoord data ids converts masks drawn in the class colors."
UNKNOWN_VALUES = "mask values outside the classes"
"""The `kind` of the error for mask values that belong to no class."""
_INTERPOLATED = (
    "The values between come from resizing with interpolation, blurred edges or JPEG compression: "
    "use the original masks, or make masks of two values with segcoord data ids --threshold 128."
)
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


def interpolation_error(path: Path, counts: np.ndarray, labels: LabelSet) -> UserError | None:
    """The error for a mask of binary segmentation with edges between 0 and 255; None for others.

    Read as they are, the edges would be foreground. `counts` as in `unknown_values_error`.
    """
    if not (labels.binary and _is_interpolated(counts, labels)):
        return None
    between = np.flatnonzero(counts[:VOID])[1:]
    return UserError(
        f"mask values {join_first(between.tolist(), 8)} ({int(counts[between].sum())} pixels) "
        "between 0 and 255.",
        path=path,
        remedy=_INTERPOLATED,
        kind="masks with values between 0 and 255",
    )


def _is_interpolated(counts: np.ndarray, labels: LabelSet) -> bool:
    """Whether most pixels of a mask are 0 or 255, and others have at least three other values.

    Numbers of objects, which are foreground too, hardly make 255 the most frequent one.
    """
    if counts[VOID + 1 :].any() or labels.table(256)[VOID] == VOID:
        return False
    between = counts[1:VOID] * (labels.table(VOID)[1:] != VOID)
    return np.count_nonzero(between) >= 3 and counts[0] > 0 and counts[VOID] >= between.max()


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
    if len(labels) == 2 and _is_interpolated(np.bincount(values, minlength=256), labels):
        return _INTERPOLATED
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
