"""Read masks of class ids or class colors as class indices.

Pillow decodes masks, because OpenCV turns palette indices into colors; OpenCV decodes 16-bit
colors, of which Pillow drops the lower half.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE

from segcoord.data.color_table import Color, color_table, unique_colors
from segcoord.data.image_io import PNG_DEPTH, decode, histogram, open_image, size_mismatch_error
from segcoord.data.labels import MAX_ID, UNKNOWN, LabelSet, MaskKind
from segcoord.data.mask_diagnosis import (
    UNKNOWN_VALUES,
    many_values_error,
    unknown_values_error,
)
from segcoord.data.mask_palette import palette_error, palette_matches, palette_reading
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

_COLORS = 8  # of a mask, to list
_LOSSY = {"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"}
_COLOR_MODES = {"RGB", "RGBA", "RGBX"}
_INTEGER_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
_MODES = {"1", "L", "P", "LA", "PA"} | _COLOR_MODES | _INTEGER_MODES


class StoredMask(NamedTuple):
    """The pixels of a mask file."""

    pixels: np.ndarray  # (H, W) uint8 or uint16 values, or (H, W, 3) uint8 RGB
    palette: np.ndarray | None  # (N, 3) uint8 RGB of a palette file, whose pixels are indices
    kind: MaskKind  # of the file; the pixels of an RGB file may be values

    @property
    def is_color(self) -> bool:
        return self.pixels.ndim == 3


class DecodedMask(NamedTuple):
    """A mask as class indices."""

    indices: np.ndarray  # (H, W) uint8, 255 for void
    by_color: bool  # whether the class colors, rather than the ids, were used
    kind: MaskKind  # of the file
    palette_by: str | None  # as in `PaletteReading.by`; None without a palette


class MaskCounts(NamedTuple):
    """What a mask contains."""

    by_class: np.ndarray  # (256,) int64 pixels by class index, 255 for void
    values: list[int | Color]  # mask values, or foreground colors, where these are not given
    palette_by: str | None  # as in `PaletteReading.by`; None without a palette


def read_mask(path: Path, labels: LabelSet, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a mask as (H, W) uint8 class indices, 255 for void.

    Gray and palette masks hold class ids. RGB and RGBA masks, and palette masks of classes with
    given colors and no given ids, hold class colors; without given colors, RGB channels that are
    equal hold class ids. In binary segmentation without a given color, every color but black is the
    foreground, also of a palette of black and one other color.

    Args:
        path: a lossless file of 1 to 16 bits per channel.
        labels: map mask values and colors to class indices.
        size: expected (H, W), that of the image; None accepts any.

    Raises:
        UserError: unreadable, lossily compressed, partly transparent, of another size, or with
            unknown values or colors.
    """
    return decode_mask(path, labels, size).indices


def decode_mask(path: Path, labels: LabelSet, size: tuple[int, int] | None = None) -> DecodedMask:
    """Read a mask, and tell how. Args and errors as in `read_mask`."""
    return decode_stored_mask(path, read_mask_for(path, labels, size), labels)


def decode_stored_mask(path: Path, mask: StoredMask, labels: LabelSet) -> DecodedMask:
    """Convert the pixels of a mask file to class indices.

    Raises:
        UserError: unknown values or colors, or a palette that contradicts the class ids.
    """
    by_color, palette_by = _indices_by_color(path, mask, labels)
    if by_color is not None:
        return DecodedMask(by_color, True, mask.kind, palette_by)
    indices = labels.indices(mask.pixels)
    contradicts = mask.palette is not None and not palette_matches(mask.palette, labels)
    if labels.binary or contradicts or (indices == UNKNOWN).any():
        _check_values(path, value_counts(mask.pixels), mask.palette, labels)
    return DecodedMask(indices, False, mask.kind, palette_by)


def count_mask(path: Path, labels: LabelSet, size: tuple[int, int] | None = None) -> MaskCounts:
    """Count a mask's pixels by class index. Args and errors as in `read_mask`."""
    mask = read_mask_for(path, labels, size)
    by_color, palette_by = _indices_by_color(path, mask, labels)
    if by_color is not None:
        any_color = labels.binary and not labels.colors_given and mask.is_color
        colors = first_colors(mask.pixels[by_color == 1]) if any_color else []
        return MaskCounts(histogram(by_color), colors, palette_by)
    counts = value_counts(mask.pixels)
    _check_values(path, counts, mask.palette, labels)
    by_class = np.zeros(256, np.int64)
    np.add.at(by_class, labels.table(len(counts)), counts)
    return MaskCounts(by_class, np.flatnonzero(counts).tolist(), palette_by)


def first_colors(colors: np.ndarray) -> list[Color]:
    """Up to 8 of the different colors in (N, 3) uint8 RGB."""
    found: list[Color] = []
    while len(colors) and len(found) < _COLORS:
        found.append(tuple(colors[0].tolist()))
        colors = colors[(colors != colors[0]).any(1)]
    return found


def value_counts(values: np.ndarray) -> np.ndarray:
    """Count each value: (256,) int64 for uint8, (65536,) for uint16."""
    if values.dtype == np.uint8:
        return histogram(values)
    return np.bincount(values.ravel(), minlength=MAX_ID + 1)


class _ByColor(NamedTuple):
    indices: np.ndarray | None  # (H, W) uint8; None if a mask is not read by its colors
    palette_by: str | None  # as in `PaletteReading.by`; None without a palette


def _indices_by_color(path: Path, mask: StoredMask, labels: LabelSet) -> _ByColor:
    if mask.palette is not None:
        table, by = palette_reading(path, mask.pixels, mask.palette, labels)
        return _ByColor(cv2.LUT(mask.pixels, table) if by == "color" else None, by)
    if not mask.is_color:
        return _ByColor(None, None)
    try:
        table = color_table(labels)
    except UserError as error:
        raise UserError(error.found, path=path, kind="color masks") from None
    indices = table.indices(path, mask.pixels)
    check_colors(path, mask.pixels, indices, labels)
    return _ByColor(indices, None)


def check_colors(path: Path, colors: np.ndarray, indices: np.ndarray, labels: LabelSet) -> None:
    """Raise UserError for many foreground colors, if binary segmentation accepts any color.

    `colors` is (H, W, 3) uint8 RGB, `indices` (H, W) uint8 class indices.
    """
    found = first_colors(colors[indices == 1]) if labels.binary and not labels.colors_given else []
    if error := many_values_error(path, found, labels):
        raise error


def _check_values(
    path: Path, counts: np.ndarray, palette: np.ndarray | None, labels: LabelSet
) -> None:
    """Raise UserError for unknown values, or palette colors that contradict the class ids."""
    if palette is not None and (error := palette_error(path, counts, palette, labels)):
        raise error
    if counts[labels.table(len(counts)) == UNKNOWN].any():
        raise unknown_values_error(path, counts, labels)
    if error := many_values_error(path, np.flatnonzero(counts).tolist(), labels):
        raise error


def read_mask_for(path: Path, labels: LabelSet, size: tuple[int, int] | None = None) -> StoredMask:
    """Read a mask and check its size; RGB without class colors holds values in equal channels."""
    mask = read_stored_mask(path)
    found = mask.pixels.shape[:2]
    if size is not None and found != tuple(size):
        raise size_mismatch_error(path, found, size)
    if not mask.is_color or labels.colors_given:
        return mask
    gray = mask.pixels[..., 0]
    if (mask.pixels == gray[..., None]).all():
        return StoredMask(gray, None, mask.kind)
    if labels.binary:
        return mask
    colors = unique_colors(mask.pixels)
    raise UserError(
        f"a mask of the colors {join_first(colors, 6)}, but data.classes has no colors.",
        path=path,
        remedy="Give each class its color: {name: NAME, color: [R, G, B]}.",
        kind="color masks",
    )


def read_mask_values(path: Path) -> np.ndarray:
    """Read a mask's stored values as (H, W) uint8 or uint16; palette indices, not colors.

    Raises:
        UserError: as for `read_mask`; a color mask.
    """
    mask = read_stored_mask(path)
    if mask.is_color:
        raise UserError("a color image, expected one class id per pixel.", path=path)
    return mask.pixels


def read_stored_mask(path: Path) -> StoredMask:
    """Read the values or colors of a mask, without alpha.

    Raises:
        UserError: unreadable, lossily compressed, partly transparent, or of a type that holds
            neither integers of up to 16 bits nor RGB colors.
    """
    raw, header = open_image(path)
    _reject_lossy(path, header)
    mode = header.mode
    if mode not in _MODES:
        raise UserError(
            f"a mask of mode {mode}, expected one class id of up to 16 bits per pixel, or RGB "
            "colors.",
            path=path,
            remedy="Save it as a gray, palette or RGB PNG.",
            kind="masks of another type",
        )
    depth = _bits_per_channel(header, raw)
    pixels = np.array(decode(path, raw, header))
    if depth > 8 and mode not in _INTEGER_MODES:
        pixels = _deep_channels(path, raw, with_color=mode in _COLOR_MODES)
    if pixels.ndim == 3:
        channels = 3 if mode in _COLOR_MODES else 1
        if mode != "RGBX" and pixels.shape[2] > channels:
            _require_opaque(path, pixels[..., channels])
        pixels = pixels[..., :channels] if channels == 3 else pixels[..., 0]
        if channels == 3 and pixels.dtype == np.uint16:
            pixels = _to_8_bits(path, pixels)
    elif mode in _INTEGER_MODES:
        pixels = _to_uint16(path, pixels)
    elif mode == "L" and depth in (2, 4):
        pixels = pixels // (255 // (2**depth - 1))  # Pillow scales them to 0..255
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    if mode != "P":
        return StoredMask(pixels, None, "rgb" if pixels.ndim == 3 else "gray")
    palette = np.array(header.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return StoredMask(pixels, palette, "palette")


def _bits_per_channel(header: Image.Image, raw: bytes) -> int:
    if header.format == "PNG":
        return raw[PNG_DEPTH]
    if header.format == "TIFF":
        return max(header.tag_v2.get(BITSPERSAMPLE, (1,)))
    return 8


def _deep_channels(path: Path, raw: bytes, with_color: bool) -> np.ndarray:
    """Decode channels of 16 bits: RGB or RGBA, or gray and alpha, (H, W, 2 to 4) uint16."""
    pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise UserError(
            "more than 8 bits per channel of a type that can't be read.",
            path=path,
            remedy="Save it as a PNG.",
            kind="masks of another type",
        )
    if with_color:
        return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return pixels[..., [0, -1]]


def _to_8_bits(path: Path, colors: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) uint16 to the uint8 colors that they were made from.

    Programs store the 8-bit value v as 257 * v, as 256 * v or as v.
    """
    if not (colors % 257).any():
        return (colors // 257).astype(np.uint8)
    if colors.max() <= 255:
        return colors.astype(np.uint8)
    if not (colors % 256).any():
        return (colors >> 8).astype(np.uint8)
    y, x = np.argwhere((colors % 257).any(-1))[0]
    raise UserError(
        f"the 16-bit color {colors[y, x].tolist()} at x={x}, y={y} equals no 8-bit color.",
        path=path,
        remedy="Save the mask with 8 bits per channel.",
        kind="mask colors outside the classes",
    )


def _to_uint16(path: Path, values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > MAX_ID:
        raise UserError(
            f"the mask value {low if low < 0 else high}, expected 0 to {MAX_ID}.",
            path=path,
            remedy="Save class ids of 8 or 16 bits.",
            kind=UNKNOWN_VALUES,
        )
    return values.astype(np.uint16)


def _require_opaque(path: Path, alpha: np.ndarray) -> None:
    opaque = (255, MAX_ID) if alpha.dtype == np.uint16 else (255,)
    if (alpha == alpha.flat[0]).all() and alpha.flat[0] in opaque:
        return
    transparent = int((alpha != opaque[-1]).sum())
    raise UserError(
        f"{transparent} pixels are transparent; expected opaque ones.",
        path=path,
        remedy="Fill them with the color or id of their class, or of void.",
        kind="masks with transparency",
    )


def _reject_lossy(path: Path, header: Image.Image) -> None:
    """Raise UserError for a mask in a format whose compression changes its values."""
    name = header.format
    if name == "TIFF" and header.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        name = "JPEG-compressed TIFF"
    elif name not in _LOSSY:
        return
    raise UserError(
        f"a {name} file, whose lossy compression changes ids and colors; expected a PNG.",
        path=path,
        remedy="Use the original masks.",
        kind="masks with lossy compression",
    )
