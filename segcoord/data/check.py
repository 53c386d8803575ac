"""What must be right in a split before a training may start, and the histogram of its classes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segcoord.data import reading
from segcoord.data.diagnosis import foreign_palette, unknown_values
from segcoord.data.findings import Finding, errors, listed
from segcoord.data.layouts import Sample, Split
from segcoord.errors import UserError
from segcoord.labels import UNKNOWN, VOID


@dataclass(frozen=True)
class SplitCheck:
    """What a split holds.

    Args:
        pixels: (K,) int64, labelled pixels of each class.
        images: (K,) int64, images in which the class occurs.
        within: (K,) int64, labelled pixels, of whatever class, of these images.
        void: pixels that count nowhere.
        sizes: images by (width, height).
        digests: of each sample's decoded pixels; None where unreadable; empty if not asked for.
        findings: in the order of the samples.
        bad: samples that can't be used.
    """

    pixels: np.ndarray
    images: np.ndarray
    within: np.ndarray
    void: int
    sizes: Counter[tuple[int, int]]
    digests: list[bytes | None]
    findings: list[Finding]
    bad: int


@dataclass
class _Seen:
    """What one sample holds: (H, W), (256,) pixels by class index, digest, mistakes."""

    size: tuple[int, int] | None = None
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    digest: bytes | None = None
    errors: list[UserError] = field(default_factory=list)


def check_split(split: Split, advance: Callable[[], None] = lambda: None) -> SplitCheck:
    """Reads the header and the end of every image, and the whole of every mask.

    Args:
        split: its files.
        advance: called once for each sample, for a progress bar.

    Raises:
        UserError: names the first files with a problem, the problem and how many there are; or
            all that is labelled is the first class.
    """
    check = inspect_split(split, advance)
    mistakes = errors(check.findings)
    if check.bad:
        told = f"split {split.name!r}: {check.bad} of {len(split)} samples can't be used"
        raise UserError(f"{told}\n{listed([m for m in mistakes if m.path is not None])}")
    if mistakes:
        raise UserError(listed(mistakes))
    return check


def inspect_split(
    split: Split, advance: Callable[[], None] = lambda: None, content: bool = False
) -> SplitCheck:
    """As `check_split`, but collects every mistake instead of raising.

    Args:
        split: its files.
        advance: called once for each sample, for a progress bar.
        content: decode every image too, which finds damage inside of it, and digest its pixels.
    """
    k = len(split.labels)
    pixels, images, within = np.zeros((3, k), np.int64)
    void, bad = 0, 0
    sizes: Counter[tuple[int, int]] = Counter()
    digests: list[bytes | None] = []
    findings: list[Finding] = []
    # Decoding and digesting release Python's lock, so threads use every core.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen_in_order = pool.map(lambda sample: _inspect(sample, content), split.samples)
        for sample, seen in zip(split.samples, seen_in_order):
            advance()
            counted = seen.counts[:k]
            pixels += counted
            images += counted > 0
            within += np.where(counted > 0, counted.sum(), 0)
            void += int(seen.counts[VOID])
            if seen.size is not None:
                sizes[seen.size[::-1]] += 1
            if content:
                digests.append(seen.digest)
            findings += [Finding.of(error, split.name) for error in seen.errors]
            bad += bool(seen.errors)
            if seen.counts[VOID] and not counted.any():
                findings.append(_all_void(sample, split.name))
    if k > 1 and void and np.flatnonzero(images).tolist() == [0]:
        findings.append(_first_class_alone(split))
    return SplitCheck(pixels, images, within, void, sizes, digests, findings, bad)


def _all_void(sample: Sample, split: str) -> Finding:
    return Finding(
        "warning",
        "masks of nothing but void",
        split,
        "no pixel of this mask counts.",
        "Take such images out of the split: they cost time and teach nothing.",
        str(sample.mask),
    )


def _first_class_alone(split: Split) -> Finding:
    return Finding(
        "error",
        "no class but the first",
        split.name,
        f"split {split.name!r}: its masks hold {split.labels.names[0]!r} and void alone.",
        "If they are 0/255 binary masks, write 0 and 1, for 255 is void.",
    )


def _inspect(sample: Sample, content: bool) -> _Seen:
    seen = _Seen()
    try:
        if content:
            image = reading.read_image(sample.image)
            seen.size = image.shape[:2]
            # The shape too, for the same bytes can be a picture of another width.
            digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
            digest.update(np.ascontiguousarray(image))
            seen.digest = digest.digest()
        else:
            seen.size = check_image(sample.image)
    except UserError as error:
        seen.errors.append(error)
    if sample.mask is not None:
        try:
            seen.counts = _count_mask(sample, seen.size)
        except UserError as error:
            seen.errors.append(error)
    return seen


def _count_mask(sample: Sample, size: tuple[int, int] | None) -> np.ndarray:
    """(256,) int64 pixels by class index; UserError for what is wrong with the mask."""
    values, palette = reading.read_mask_palette(sample.mask)
    if size is not None and values.shape != size:
        raise reading.other_size(sample.mask, values.shape, size)
    # OpenCV counts in float32, which is exact up to 2**24.
    parts = np.array_split(values.ravel(), values.size // 2**24 + 1)
    histogram = sum(
        cv2.calcHist([p], [0], None, [256], [0, 256]).astype(np.int64) for p in parts
    ).ravel()
    if palette is not None:
        error = foreign_palette(sample.mask, histogram, palette, sample.labels)
        if error is not None:
            raise error
    indices = sample.labels.to_index
    if histogram[indices == UNKNOWN].any():
        raise unknown_values(sample.mask, histogram, sample.labels)
    counts = np.zeros(256, np.int64)
    np.add.at(counts, indices, histogram)
    return counts


def check_image(path: Path) -> tuple[int, int]:
    """(H, W); decodes nothing unless the file's end looks wrong."""
    try:
        with path.open("rb") as file, Image.open(path) as header:
            size, kind = header.size[::-1], header.format
            reading.check_image_depth(path, header, file.read(32))
            file.seek(-min(64, path.stat().st_size), os.SEEK_END)
            end = file.read()
    except reading.UNREADABLE as error:
        raise reading.not_an_image(path, error) from error
    if not reading.is_complete(end, kind):
        reading.read_image(path)
    return size
