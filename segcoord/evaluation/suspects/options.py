"""Options that ranking a split and ranking unlabeled images share, checked before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import Namespace

from segcoord.inference.scales_and_tiles import Views, parse_tile
from segcoord.utils.devices import torchrun_processes
from segcoord.utils.errors import UserError
from segcoord.utils.files import require_writable_path

MAX_TOP = 100
"""Rows of the largest contact sheet, which is a single JPEG."""

SHEET = "sheet.jpg"
LISTED = 10
"""Lines on the terminal."""


@dataclass(frozen=True)
class Options:
    """Where to write, how many images to show, and how to predict."""

    out: Path
    top: int
    views: Views


def read_options(args: Namespace) -> Options:
    """The options of the command.

    Raises:
        UserError: options out of range or that don't go together, an output that can't be written,
            or several processes.
    """
    if not 1 <= args.top <= MAX_TOP:
        raise UserError(f"--top: found {args.top}, expected 1 to {MAX_TOP}")
    if args.overlap is not None and not args.tile:
        raise UserError(
            f"--overlap: found {args.overlap} without --tile; give both, for example --tile 769x769"
        )
    processes = math.prod(torchrun_processes() or (1,))
    if processes > 1:
        raise UserError(
            f"found {processes} processes, expected one, which ranks all images; run without "
            "torchrun"
        )
    out = Path(args.out).expanduser()
    require_writable_path(out, folder=True)
    tile = args.tile and parse_tile(args.tile)
    return Options(out, args.top, Views(tuple(args.scales), args.flip, tile, args.overlap))
