"""What is wrong with a mask's values, and which mistake most likely made them so."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segcoord.data.labels import UNKNOWN, VOID, LabelSet
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

CONVERT = "segcoord data ids does it for masks in the classes' colours."
_RAW_CITYSCAPES = 33  # the largest of Cityscapes' label ids
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow and OpenCV make grey


def unknown_values_error(path: Path, histogram: np.ndarray, labels: LabelSet) -> UserError:
    """Names the mask values that no class claims, and the likely mistake.

    Args:
        path: of the mask.
        histogram: (256,) pixel counts by mask value.
        labels: the classes that were expected.
    """
    found = [int(v) for v in np.flatnonzero(histogram)]
    unknown = [v for v in found if labels.to_index[v] == UNKNOWN]
    pixels = int(histogram[unknown].sum())
    ids = sorted(c.id for c in labels.classes)
    expected = f"{ids[0]} to {ids[-1]}" if ids == list(range(len(ids))) else str(ids)
    return UserError(
        f"mask values {join_first(unknown, 8)} ({pixels} pixels) belong to no class; "
        f"expected {expected} and 255 for void.",
        path=path,
        remedy=_hint(found, unknown, ids, labels),
        kind="ids outside the classes",
    )


def _hint(found: list[int], unknown: list[int], ids: list[int], labels: LabelSet) -> str:
    k = len(labels)
    if len(found) == 2 and found[0] == 0 and found[1] >= 127:
        return "It looks like a 0/255 binary mask: write 0 and 1, for 255 is void."
    if ids == list(range(19)) and unknown != [19] and max(unknown) <= _RAW_CITYSCAPES:
        return "It looks like raw Cityscapes label ids: use layout cityscapes, which maps them."
    if unknown == [k] and 0 not in found:
        return f"It looks as if its ids count from 1: subtract 1, or give the classes ids 1 to {k}."
    if _are_greys([v for v in found if v != VOID], labels):
        return (
            "They are the greys of the classes' colours: the mask was saved, or read and saved, "
            f"as a grey picture. Make ids from the original colours: {CONVERT}"
        )
    if len(found) > 40:
        return "So many values look like a grey photograph, or colours that were made grey."
    if unknown == [k]:
        return (
            "Correct the mask; or, if its 0 means unlabelled and the classes count from 1, give "
            f"them ids 1 to {k} in data.classes and set data.void_ids: [0]."
        )
    return "Correct the mask, or name the values in data.classes (id) or data.void_ids."


def _are_greys(values: list[int], labels: LabelSet) -> bool:
    """True if each of two or more values is the brightness of some class's colour."""
    colors = np.array([c.color for c in labels.classes])
    greys = np.rint(colors @ _LUMA)
    return len(values) > 1 and all((np.abs(greys - v) <= 1).any() for v in values)


def palette_matches(palette: np.ndarray, labels: LabelSet) -> bool:
    """Whether a palette, (N, 3) uint8 RGB, has each class's colour at its id, as far as it goes."""
    ids = labels.to_value[: len(labels)]
    inside = ids < len(palette)
    return bool((palette[ids[inside]] == labels.colors[: len(labels)][inside]).all())


def palette_error(
    path: Path, histogram: np.ndarray, palette: np.ndarray, labels: LabelSet
) -> UserError | None:
    """Tells a palette PNG whose colours are the classes' and whose indices are not.

    A program that saves few colours numbers them as it likes, so the indices may all be valid ids
    and yet stand for other classes.

    Args:
        path: of the mask.
        histogram: (256,) pixel counts by palette index.
        palette: (N, 3) uint8 RGB.
        labels: the classes that were expected.
    """
    id_of = {c.color: c.id for c in labels.classes}
    id_of.setdefault(tuple(int(v) for v in labels.colors[VOID]), VOID)
    used = [int(v) for v in np.flatnonzero(histogram) if v < len(palette)]
    used = [v for v in used if labels.to_index[v] != VOID]
    meant = {v: id_of.get(tuple(int(c) for c in palette[v])) for v in used}
    wrong = [v for v in used if meant[v] != v]
    unsure = None in meant.values() or len(set(meant.values()) - {VOID}) < 2
    if unsure or not wrong or len(id_of) < len(labels):  # a colour of two classes tells nothing
        return None
    v = wrong[0]
    means = "void" if meant[v] == VOID else labels.names[labels.to_index[meant[v]]]
    return UserError(
        f"its palette's colours are the classes', but its indices are not their ids: {v} has the "
        f"colour of {means}, whose id is {meant[v]}.",
        path=path,
        remedy=f"Write the class ids instead of colours: {CONVERT} "
        "If the ids are right, correct the colours in data.classes.",
        kind="palette indices that are not ids",
    )
