"""Convert mask files to class indices by a table of the export: values or colors."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from segcoord.data.annotations.rasterize import UNLABELLED
from segcoord.data.annotations.records import MaskFile
from segcoord.data.color_table import format_rgb
from segcoord.data.labels import MAX_ID
from segcoord.data.mask_reader import StoredMask, read_stored_mask
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

MAX_CLASSES = 253
_UNKNOWN = 253
_SHOWN = 5
_Entries = tuple[tuple[int, int], ...]  # (value or packed color, class index)


def mask_indices(mask: MaskFile, indices: Mapping[str, int]) -> np.ndarray:
    """Read a mask file as class indices.

    Args:
        mask: the file, and the class name of each value or color.
        indices: class index of each name.

    Returns:
        (H, W) uint8, `UNLABELLED` where the export's table has no class.

    Raises:
        UserError: unreadable; a value or color that the table lacks; colors where the table has
            values.
    """
    stored = read_stored_mask(mask.path)
    by_color = any(isinstance(key, tuple) for key in mask.names)
    if missing := sorted({n for n in mask.names.values() if n is not None} - indices.keys()):
        raise UserError(
            f"classes {join_first(missing, _SHOWN)}, which are not among the classes of the "
            "export.",
            path=mask.path,
        )
    entries = tuple(
        (_packed(key) if by_color else int(key), UNLABELLED if n is None else indices[n])
        for key, n in mask.names.items()
    )
    keys = _colors(stored) if by_color else _values(stored, mask)
    result = _table(entries, 1 << 24 if by_color else MAX_ID + 1)[keys]
    if (result == _UNKNOWN).any():
        raise _unknown_error(mask, keys[result == _UNKNOWN], by_color)
    return result


def _packed(color: tuple[int, int, int]) -> int:
    r, g, b = color
    return r << 16 | g << 8 | b


@lru_cache(maxsize=2)
def _table(entries: _Entries, length: int) -> np.ndarray:
    """Class index of each value or packed color: (length,) uint8."""
    table = np.full(length, _UNKNOWN, np.uint8)
    for key, index in entries:
        if 0 <= key < length:
            table[key] = index
    return table


def _colors(stored: StoredMask) -> np.ndarray:
    """The packed RGB color of each pixel: (H, W) int32."""
    pixels = stored.pixels
    if stored.palette is not None:
        palette = np.zeros((256, 3), np.int32)
        palette[: len(stored.palette)] = stored.palette[:256]
        return (palette[:, 0] << 16 | palette[:, 1] << 8 | palette[:, 2])[pixels]
    if pixels.ndim == 2:  # gray
        gray = pixels.astype(np.int32)
        return gray << 16 | gray << 8 | gray
    r, g, b = np.moveaxis(pixels.astype(np.int32), -1, 0)
    return r << 16 | g << 8 | b


def _values(stored: StoredMask, mask: MaskFile) -> np.ndarray:
    """The value of each pixel; RGB with equal channels holds values."""
    if not stored.is_color:
        return stored.pixels
    gray = stored.pixels[..., 0]
    if (stored.pixels == gray[..., None]).all():
        return gray
    raise UserError(
        "a mask of colors, but the export's table gives the classes of values.",
        path=mask.path,
        remedy="Export masks of class numbers, or a table of colors.",
        kind="color masks",
    )


def _unknown_error(mask: MaskFile, unknown: np.ndarray, by_color: bool) -> UserError:
    keys, counts = np.unique(unknown, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = [
        f"{format_rgb((k >> 16, k >> 8 & 255, k & 255)) if by_color else k} ({n} pixels)"
        for k, n in zip(keys[order].tolist(), counts[order].tolist())
    ]
    what = "color" if by_color else "value"
    remedy = (
        f"Add it to the export's table of classes, or export the mask again without that {what}."
    )
    if len(keys) > _SHOWN:
        remedy = (
            "So many come from resizing with interpolation or from lossy compression: use the "
            "original masks."
        )
    return UserError(
        f"the {what}{'s' * (len(keys) > 1)} {join_first(shown, _SHOWN)}, which the export's table "
        "of classes lacks.",
        path=mask.path,
        remedy=remedy,
        kind=f"mask {what}s outside the classes",
    )
