"""Options of test-time augmentation: scales, horizontal flip, tiles. Imports no torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from segcoord.utils.errors import UserError

MAX_SCALE = 16  # larger scales are mostly typos and would exhaust the memory
BLENDING = "weighted by the distance to the tile's edge"
OVERLAP = 1 / 5  # of a tile's shorter side, by default
ALIGNMENT = 32  # pixels: tiles that start at multiples of all strides need no other sampling grid


@dataclass(frozen=True)
class Views:
    """The views of an image whose probabilities are averaged; by default the whole image once.

    Args:
        scales: factors of the image's height and width, above 0 and at most 16.
        flip: also predict each scale flipped horizontally.
        tile: height and width of the tiles that a scaled image is cut into; None for no tiles.
        overlap: minimum overlap of adjacent tiles in pixels, in each direction; None for a fifth
            of the tile's shorter side. Set to 0 without a tile.

    Raises:
        UserError: a scale is out of range or given twice, the tile is empty, or the overlap is not
            smaller than the tile or is given without a tile.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    tile: tuple[int, int] | None = None
    overlap: int | None = None

    def __post_init__(self) -> None:
        for scale in self.scales:
            if not 0 < scale <= MAX_SCALE:
                limits = f"above 0, and {MAX_SCALE} at most"
                raise UserError(f"scales: found {scale:g}, expected {limits}")
        duplicates = [s for s in self.scales if self.scales.count(s) > 1]
        if duplicates or not self.scales:
            found = f"{duplicates[0]:g} twice" if duplicates else "none"
            raise UserError(f"scales: found {found}, expected distinct scales such as 0.5 1.0 1.5")
        if self.tile is None:
            if not self.overlap:
                object.__setattr__(self, "overlap", 0)
                return
            raise UserError(
                f"overlap: found {self.overlap} without tiles; give the tile too, such as 769x769"
            )
        if min(self.tile) < 1:
            raise UserError(f"tile: found {_size(self.tile)}, expected at least 1x1")
        if self.overlap is None:
            object.__setattr__(self, "overlap", math.floor(min(self.tile) * OVERLAP))
        if not 0 <= self.overlap < min(self.tile):
            raise UserError(
                f"overlap: found {self.overlap}, expected 0 to {min(self.tile) - 1}, for a tile of "
                f"{_size(self.tile)}"
            )

    @property
    def count(self) -> int:
        """Number of views, each of which may be cut into tiles."""
        return len(self.scales) * (1 + self.flip)

    def tiles(self, size: tuple[int, int]) -> tuple[list[slice], list[slice]]:
        """Rows and columns of the tiles of an image of size (H, W), which form a grid.

        Along each axis there are as few tiles as the overlap allows, at about equal distances.
        The first starts and the last ends with the image. Tiles are no larger than the image.
        """
        rows, columns = (_along(n, t, self.overlap) for n, t in zip(size, self.tile or size))
        return rows, columns

    def within(self, pixels: int, size: tuple[int, int]) -> Views:
        """Add tiles of at most so many pixels if the image's largest view has more.

        The tiles are those that need the fewest pixels in all. Views that already have tiles are
        returned unchanged.

        Args:
            pixels: at least 4096.
            size: (H, W) of the image.
        """
        height, width = scaled_size(size, max(self.scales))
        if self.tile is not None or height * width <= pixels:
            return self
        overlap = math.floor(math.isqrt(pixels) * OVERLAP)
        overlap = max(ALIGNMENT // 2, overlap - overlap % ALIGNMENT)
        best: tuple[int, tuple[int, int]] | None = None
        for count in range(1, height + 1):
            rows = _tile_length(height, count, overlap)
            if count > 1 and rows <= 2 * overlap:
                break
            columns = pixels // rows
            if columns < width:
                columns -= columns % ALIGNMENT
                if columns <= 2 * overlap:
                    continue
                count_along = len(_along(width, columns, overlap))
                columns = _tile_length(width, count_along, overlap)
            else:
                columns, count_along = width, 1
            total = count * count_along * rows * columns
            if best is None or total < best[0]:
                best = total, (rows, columns)
        tile = best[1]
        return replace(self, tile=tile, overlap=min(overlap, min(tile) // 2))

    def __str__(self) -> str:
        """The settings that differ from the default, as printed in reports."""
        parts = []
        if self.scales != (1.0,):
            kind = "multi-scale" if len(self.scales) > 1 else "scale"
            parts.append(" ".join([kind, *(f"{s:g}" for s in self.scales)]))
        if self.flip:
            parts.append("flip")
        if self.tile:
            overlap = f" overlapping by {self.overlap}" if self.overlap else ""
            parts.append(f"tiles of {_size(self.tile)}{overlap}")
        return " + ".join(parts)

    def to_dict(self) -> dict:
        """For JSON; None for no tiles and for no averaging."""
        steps = [f"mean of the logits, {BLENDING}"] if self.tile else []
        if self.count > 1:
            steps.append("mean of the views' softmax probabilities at the image's own size")
        tiles = {"size": list(self.tile), "overlap": self.overlap} if self.tile else None
        return {
            "scales": list(self.scales),
            "flip": self.flip,
            "tiles": tiles,
            "average_of_views": ", then ".join(steps) or None,
        }


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(H, W) times a scale, rounded half up, at least 1."""
    height, width = (max(1, math.floor(n * scale + 0.5)) for n in size)
    return height, width


def _along(length: int, tile: int, overlap: int) -> list[slice]:
    """Ranges of the tiles along one axis."""
    tile = min(tile, length)
    step = max(1, tile - overlap)
    gaps = -(-(length - tile) // step)
    unit = math.gcd(step, ALIGNMENT)
    # Rounding up to a unit that divides the step keeps the overlap.
    starts = [-(-i * (length - tile) // (gaps * unit)) * unit for i in range(gaps)]
    starts.append(length - tile)
    return [slice(start, start + tile) for start in starts]


def _tile_length(length: int, count: int, overlap: int) -> int:
    """The length with which so many tiles cover an axis, a multiple of `ALIGNMENT` if possible."""
    tile = -(-(length + (count - 1) * overlap) // count)
    return min(length, tile + -tile % ALIGNMENT)


def parse_tile(text: str, option: str = "--tile", example: str = "769x769") -> tuple[int, int]:
    """Parse "769x513" as (height, width); raises UserError for another format."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise UserError(
            f"{option}: found {text!r}, expected HEIGHTxWIDTH in pixels, such as {example}"
        )
    return int(match[1]), int(match[2])


def _size(tile: tuple[int, int]) -> str:
    return f"{tile[0]}x{tile[1]}"
