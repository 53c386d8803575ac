"""Decode the masks of Label Studio's brush.

They are RGBA images packed by the JavaScript library @thi.ng/rle-pack: bits, the highest of each
byte first, which are

    32      number of values
    5       bits of a value, minus 1
    4 x 4   widths of the four kinds of lengths, each minus 1

and then blocks of

    1       1 for a run of one value, 0 for single values
    2       kind of the length
    width   number of values in the block, minus 1
    8       the value of the run, or each of the single values

The format is that of `label_studio_converter/brush.py` (github.com/HumanSignal, Apache-2.0) and
`packages/rle-pack` (github.com/thi-ng/umbrella, Apache-2.0).
"""

from __future__ import annotations

import numpy as np

from segcoord.utils.errors import UserError

_HEADER_BITS = 32 + 5 + 4 * 4
_CHANNELS = 4  # of RGBA; the last is the mask
_VALUE_BITS = 8


def decode_brush(data: bytes, size: tuple[int, int], where: str) -> np.ndarray:
    """The mask of a brush: the pixels that are not fully transparent.

    Args:
        data: the numbers that Label Studio stores under "rle".
        size: (height, width) of the image.
        where: file and key, for messages.

    Returns:
        (height, width) bool.

    Raises:
        UserError: another number of values than `size` has, or data that end early.
    """
    height, width = size
    expected = height * width * _CHANNELS
    if 8 * len(data) < _HEADER_BITS:
        raise UserError(f"found {len(data)} bytes, expected an RLE of Label Studio.", path=where)
    count, value_bits = _read(data, 0, 32), _read(data, 32, 5) + 1
    if count != expected or value_bits != _VALUE_BITS:
        raise UserError(
            f"found {count} values of {value_bits} bits, expected {expected} of {_VALUE_BITS} for "
            f"RGBA of {width}x{height} pixels.",
            path=where,
        )
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    widths = [_read(data, at, 4) + 1 for at in range(37, _HEADER_BITS, 4)]
    values = np.zeros(count, np.uint8)
    position, done = _HEADER_BITS, 0
    while done < count:
        is_run, kind = _read(data, position, 1), _read(data, position + 1, 2)
        length = _read(data, position + 3, widths[kind]) + 1
        position += 3 + widths[kind]
        end = position + _VALUE_BITS * (1 if is_run else length)
        if end > len(bits) or done + length > count:
            found = "ends early" if end > len(bits) else "has too many values"
            raise UserError(f"the RLE {found}.", path=where, remedy="Export it again.")
        if is_run:
            values[done : done + length] = _read(data, position, _VALUE_BITS)
        else:
            values[done : done + length] = np.packbits(bits[position:end])
        position, done = end, done + length
    return values.reshape(height, width, _CHANNELS)[..., -1] > 0


def _read(data: bytes, position: int, count: int) -> int:
    """An unsigned integer of up to 32 bits; bits behind the end are missing from it."""
    start, skipped = divmod(position, 8)
    window = int.from_bytes(data[start : start + 5].ljust(5, b"\0"), "big")
    return window >> (40 - skipped - count) & ((1 << count) - 1)
