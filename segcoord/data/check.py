"""What must be right before a training may start: every image's header and every mask's values."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segcoord.data import reading
from segcoord.data.layouts import Sample, Split
from segcoord.errors import UserError
from segcoord.labels import UNKNOWN, VOID

SHOWN = 10  # problems named in one error


@dataclass(frozen=True)
class SplitCheck:
    """What a split holds.

    Args:
        pixels: (K,) int64, labelled pixels of each class.
        images: (K,) int64, images in which the class occurs.
        void: pixels that count nowhere.
    """

    pixels: np.ndarray
    images: np.ndarray
    void: int


def check_split(split: Split, advance: Callable[[], None] = lambda: None) -> SplitCheck:
    """Reads the header and the end of every image, and the whole of every mask.

    Args:
        split: its files.
        advance: called once for each sample, for a progress bar.

    Raises:
        UserError: names the first files with a problem, the problem and how many there are; or
            all that is labelled is the first class.
    """
    k = len(split.labels)
    problems: list[str] = []
    pixels, images, void = np.zeros(k, np.int64), np.zeros(k, np.int64), 0
    # Decoding releases Python's lock, so threads use every core.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for counts in pool.map(_check_sample, split.samples):
            advance()
            if isinstance(counts, str):
                problems.append(counts)
                continue
            pixels += counts[:k]
            images += counts[:k] > 0
            void += int(counts[VOID])
    if problems:
        shown = "\n".join(problems[:SHOWN])
        more = f"\n... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"split {split.name!r}: {len(problems)} of {len(split)} samples can't be used\n"
            f"{shown}{more}"
        )
    if k > 1 and void and np.flatnonzero(images).tolist() == [0]:
        raise UserError(
            f"split {split.name!r}: its masks hold {split.labels.names[0]!r} and void alone. "
            "If they are 0/255 binary masks, write 0 and 1, for 255 is void."
        )
    return SplitCheck(pixels, images, void)


def _check_sample(sample: Sample) -> np.ndarray | str:
    """(256,) pixels by class index (zeros without a mask), or what is wrong."""
    try:
        size = check_image(sample.image)
        counts = np.zeros(256, np.int64)
        if sample.mask is None:
            return counts
        values = reading.read_mask_values(sample.mask)
        if values.shape != size:
            return reading.size_message(sample.mask, values.shape, size)
        # OpenCV counts in float32, which is exact up to 2**24.
        parts = np.array_split(values.ravel(), values.size // 2**24 + 1)
        histogram = sum(
            cv2.calcHist([p], [0], None, [256], [0, 256]).astype(np.int64) for p in parts
        ).ravel()
        indices = sample.labels.to_index
        if histogram[indices == UNKNOWN].any():
            return f"{sample.mask}: {reading.diagnose(histogram, sample.labels)}"
        np.add.at(counts, indices, histogram)
        return counts
    except UserError as error:
        return str(error)


def check_image(path: Path) -> tuple[int, int]:
    """(H, W); decodes nothing unless the file's end looks wrong."""
    try:
        with path.open("rb") as file, Image.open(path) as header:
            size, kind = header.size[::-1], header.format
            reading.check_image_depth(path, header, file.read(32))
            file.seek(-min(64, path.stat().st_size), os.SEEK_END)
            end = file.read()
    except reading.UNREADABLE as error:
        raise UserError(f"{path}: can't be read as an image: {error}") from error
    if not reading.is_complete(end, kind):
        reading.read_image(path)
    return size
