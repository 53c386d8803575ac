"""Class changes at the edges of tiles, compared with the same photos predicted as a whole.

    python benchmarks/seams.py PHOTO... --checkpoint FILE... [--size 3000x4000] [--max-pixels N]

Resizes the photos, predicts them in the tiles of `segcoord predict` and as a whole, and prints the
share of the pixels whose class changes from one row or column to the next: at the edges of tiles,
near them (the median of the 100 lines on each side), and their ratio. A whole photo has no seams,
so its ratio is what the contents of the photos give. Needs the memory of a whole photo.
"""

from __future__ import annotations

import argparse
import time
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch

import segcoord
from segcoord.inference.photo import read_photo
from segcoord.inference.run import MAX_PIXELS
from segcoord.inference.scales_and_tiles import Views, parse_tile

NEAR = 100  # lines on each side of an edge


def changes(classes: np.ndarray, axis: int) -> np.ndarray:
    """Share of the pixels that differ from those of the next row (axis 0) or column (axis 1)."""
    before, after = (classes[:-1], classes[1:]) if axis == 0 else (classes[:, :-1], classes[:, 1:])
    return (before != after).mean(1 - axis)


def measure(masks: list[np.ndarray], tiles: tuple[list[slice], list[slice]]) -> tuple[float, float]:
    """Mean share of changes at the edges of tiles, and the mean of the medians near them."""
    at_edges, near = [], []
    for axis, spans in enumerate(tiles):
        shares = np.mean([changes(mask, axis) for mask in masks], axis=0)
        edges = {n - 1 for s in spans for n in (s.start, s.stop)} - {-1, len(shares)}
        for edge in edges:
            at_edges.append(shares[edge])
            lines = np.r_[shares[max(0, edge - NEAR) : edge], shares[edge + 1 : edge + 1 + NEAR]]
            near.append(np.median(lines))
    return float(np.mean(at_edges)), float(np.mean(near))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--checkpoint", nargs="+", type=Path, required=True)
    parser.add_argument("--size", type=parse_tile, default=(3000, 4000))
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS)
    args = parser.parse_args()
    tiled = Views().within(args.max_pixels, args.size)
    photos = [
        cv2.resize(read_photo(path).pixels, args.size[::-1], interpolation=cv2.INTER_CUBIC)
        for path in args.photos
    ]
    print(f"{len(photos)} photos of {args.size[0]}x{args.size[1]}, {tiled}")
    print("decoder, protocol: at edges, near them, ratio; seconds per photo")
    for checkpoint in args.checkpoint:
        model = segcoord.load(checkpoint)
        for name, views in (("tiles", tiled), ("whole", Views())):
            start = time.perf_counter()
            masks = [segcoord.predict(model, photo, views) for photo in photos]
            seconds = (time.perf_counter() - start) / len(photos)
            edge, near = measure(masks, tiled.tiles(args.size))
            print(
                f"{model.spec['decoder']}, {name}: {edge:.4%}, {near:.4%}, {edge / near:.2f}; "
                f"{seconds:.1f} s",
                flush=True,
            )
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {date.today()}")


if __name__ == "__main__":
    main()
