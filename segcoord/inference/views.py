"""How often an image is looked at before its pixels get their classes: scales, mirrored, in tiles.

Imports no torch; `segcoord.averaging` does what is said here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from segcoord.utils.errors import UserError

LARGEST = 16  # scale; beyond, a photograph's memory is what is asked for, mostly by a typo


@dataclass(frozen=True)
class Views:
    """What the probabilities of a pixel are averaged over; one look at the whole image by default.

    Args:
        scales: factors of the image's height and width, at most 16.
        flip: look at each scale mirrored too, left to right.
        tile: height and width of the windows that a scaled image is cut into; None for no cutting.
        overlap: pixels that neighbouring tiles share at least, in each direction.

    Raises:
        UserError: a scale that is not above 0, above 16 or given twice, a tile without pixels, an
            overlap that is not below the tile's height and width, or without tile.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    tile: tuple[int, int] | None = None
    overlap: int = 0

    def __post_init__(self) -> None:
        for scale in self.scales:
            if not 0 < scale <= LARGEST:
                raise UserError(f"scales: found {scale:g}, expected above 0, and {LARGEST} at most")
        twice = [s for s in self.scales if self.scales.count(s) > 1]
        if twice or not self.scales:
            found = f"{twice[0]:g} twice" if twice else "none"
            raise UserError(f"scales: found {found}, expected each scale once, 0.5 1.0 1.5 say")
        if self.tile is None:
            if self.overlap:
                raise UserError(
                    f"overlap: found {self.overlap} without tiles that could overlap; give the "
                    "tile too, 769x769 say"
                )
            return
        if min(self.tile) < 1:
            raise UserError(f"tile: found {_size(self.tile)}, expected at least 1x1")
        if not 0 <= self.overlap < min(self.tile):
            raise UserError(
                f"overlap: found {self.overlap}, expected 0 to {min(self.tile) - 1}, for a tile of "
                f"{_size(self.tile)}"
            )

    @property
    def count(self) -> int:
        """Looks at an image; each may be cut into tiles."""
        return len(self.scales) * (1 + self.flip)

    def tiles(self, size: tuple[int, int]) -> list[tuple[slice, slice]]:
        """Where the tiles of an image of (H, W) lie: rows and columns of each, row by row.

        They begin at the upper left, tile - overlap apart; the last of a row or column is moved
        back to end with the image. Where the image is smaller than a tile, so is the tile. As
        slide_inference of mmsegmentation (mmseg/models/segmentors/encoder_decoder.py) has it.
        """
        rows, columns = (_along(n, t, t - self.overlap) for n, t in zip(size, self.tile or size))
        return [(row, column) for row in rows for column in columns]

    def within(self, pixels: int, size: tuple[int, int]) -> Views:
        """These views, in tiles of at most so many pixels where an image's largest one has more.

        The tiles overlap by an eighth of their shorter side, and fill the image's height or width
        where that is below the square's. Views that have tiles already keep theirs.

        Args:
            pixels: at least 1024.
            size: (H, W) of the image.
        """
        height, width = scaled_size(size, max(self.scales))
        if self.tile is not None or height * width <= pixels:
            return self
        rows = min(height, math.isqrt(pixels))
        columns = min(width, pixels // rows)
        rows = min(height, pixels // columns)
        # A length that strides divide needs no padding.
        rows = rows if rows == height else rows - rows % 32
        columns = columns if columns == width else columns - columns % 32
        return replace(self, tile=(rows, columns), overlap=min(rows, columns) // 8)

    def __str__(self) -> str:
        """As a report names what is not the default; empty for the default."""
        told = []
        if self.scales != (1.0,):
            kind = "multi-scale" if len(self.scales) > 1 else "scale"
            told.append(" ".join([kind, *(f"{s:g}" for s in self.scales)]))
        if self.flip:
            told.append("flip")
        if self.tile:
            overlap = f" overlapping by {self.overlap}" if self.overlap else ""
            told.append(f"tiles of {_size(self.tile)}{overlap}")
        return " + ".join(told)

    def to_dict(self) -> dict:
        """For JSON; None where there are no tiles, and where nothing is averaged."""
        how = []
        if self.tile:
            how.append("mean of the logits where tiles overlap")
        if self.count > 1:
            how.append("mean of the views' softmax probabilities at the image's own size")
        tiles = {"size": list(self.tile), "overlap": self.overlap} if self.tile else None
        return {
            "scales": list(self.scales),
            "flip": self.flip,
            "tiles": tiles,
            "average_of_views": ", then ".join(how) or None,
        }


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(H, W) times a scale, rounded half up, at least 1."""
    height, width = (max(1, math.floor(n * scale + 0.5)) for n in size)
    return height, width


def _along(length: int, tile: int, step: int) -> list[slice]:
    tile = min(tile, length)
    count = 1 + -(-(length - tile) // step)
    starts = [min(i * step, length - tile) for i in range(count)]
    return [slice(start, start + tile) for start in starts]


def parse_tile(text: str) -> tuple[int, int]:
    """(height, width) of "769x769".

    Raises:
        UserError: something else.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise UserError(f"--tile: found {text!r}, expected HEIGHTxWIDTH in pixels, 769x769 say")
    return int(found[1]), int(found[2])


def _size(tile: tuple[int, int]) -> str:
    return f"{tile[0]}x{tile[1]}"
