"""What must be right in a split before a training may start, and the histogram of its classes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segcoord.data import image_io as reading
from segcoord.data.checks.findings import Finding, first_findings, only_errors
from segcoord.data.labels import VOID
from segcoord.data.pack.reader import Pack, damaged_pack
from segcoord.data.split import Sample, Split
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError


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
    """What one sample holds: (H, W), EXIF orientation, (256,) pixels by index, digest, mistakes."""

    size: tuple[int, int] | None = None
    orientation: int = 1
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    digest: bytes | None = None
    errors: list[UserError] = field(default_factory=list)


def check_split(split: Split, advance: Callable[[], None] = lambda: None) -> SplitCheck:
    """Reads the header and the end of every image, and the whole of every mask.

    Where the split has a pack, only its masks are read: all else was when it was written.

    Args:
        split: its files.
        advance: called once for each sample, for a progress bar.

    Raises:
        UserError: names the first files with a problem, the problem and how many there are; or
            all that is labelled is the first class.
    """
    check = inspect_split(split, advance)
    mistakes = only_errors(check.findings)
    if check.bad:
        told = f"split {split.name!r}: {check.bad} of {len(split)} samples can't be used"
        raise UserError(f"{told}\n{first_findings([m for m in mistakes if m.path is not None])}")
    if mistakes:
        raise UserError(first_findings(mistakes))
    return check


def inspect_split(
    split: Split, advance: Callable[[], None] = lambda: None, content: bool = False
) -> SplitCheck:
    """As `check_split`, but collects every mistake instead of raising.

    Args:
        split: its files.
        advance: called once for each sample, for a progress bar.
        content: decode every image too, which finds damage inside of it, and digest its pixels;
            for a split without a pack.
    """
    k = len(split.labels)
    pixels, images, within = np.zeros((3, k), np.int64)
    void, bad = 0, 0
    sizes: Counter[tuple[int, int]] = Counter()
    digests: list[bytes | None] = []
    findings: list[Finding] = []
    alone: list[Sample] = []  # samples that hold id 0 and void, and nothing else
    zero = int(split.labels.to_index[0])

    def look(index: int) -> _Seen:
        if split.pack is not None:
            return _inspect_packed(split.samples[index], split.pack, index)
        return _inspect(split.samples[index], content)

    # Decoding, digesting and checksums release Python's lock, so threads use every core.
    with ThreadPoolExecutor(available_cores()) as pool:
        for sample, seen in zip(split.samples, pool.map(look, range(len(split)))):
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
            if seen.orientation != 1:
                findings.append(_turned(sample, seen.orientation, split.name))
            if seen.counts[VOID] and not counted.any():
                findings.append(_all_void(sample, split.name))
            elif seen.counts[VOID] and np.flatnonzero(counted).tolist() == [zero]:
                alone.append(sample)
    if k > 1 and np.flatnonzero(images).tolist() == [0]:
        findings.append(_first_class_alone(split, void))
    elif np.count_nonzero(images) > 1:
        findings += [_binary(sample, split) for sample in alone]
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


def _first_class_alone(split: Split, void: int) -> Finding:
    first = split.labels.classes[0]
    return Finding(
        "error",
        "no class but the first",
        split.name,
        f"split {split.name!r}: its masks hold {first.name!r}{' and void' if void else ''} alone.",
        "If they are 0/255 binary masks, write 0 and 1, for 255 is void."
        if void
        else f"Find out where the ids were lost: every pixel is {first.id}.",
    )


def _binary(sample: Sample, split: Split) -> Finding:
    name = split.labels.names[split.labels.to_index[0]]
    return Finding(
        "warning",
        "masks of 0 and void alone",
        split.name,
        f"this mask holds {name!r} and void alone, others of split {split.name!r} more.",
        "If it is a 0/255 binary mask, write the class's id, for 255 is void.",
        str(sample.mask),
    )


def _turned(sample: Sample, orientation: int, split: str) -> Finding:
    return Finding(
        "warning",
        "images that viewers turn",
        split,
        f"has EXIF orientation {orientation}, which training ignores: it takes the stored pixels.",
        "Right where the masks were drawn on the stored pixels, and wrong where on what a viewer "
        "shows.",
        str(sample.image),
    )


def _inspect(sample: Sample, content: bool) -> _Seen:
    seen = _Seen()
    try:
        header = reading.read_header(sample.image)
        seen.size, seen.orientation = header.size, header.orientation
        if content:
            image = reading.read_image(sample.image, strict=True)
            seen.size = image.shape[:2]
            # The shape too, for the same bytes can be a picture of another width.
            digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
            digest.update(np.ascontiguousarray(image))
            seen.digest = digest.digest()
        elif not header.complete:
            reading.read_image(sample.image)
    except UserError as error:
        seen.errors.append(error)
    if sample.mask is not None:
        try:
            seen.counts = reading.count_mask(sample.mask, sample.labels, seen.size)
        except UserError as error:
            seen.errors.append(error)
    return seen


def _inspect_packed(sample: Sample, pack: Pack, index: int) -> _Seen:
    """From the index, once the mask has the checksum that is there; other bytes train wrongly."""
    seen = _Seen(tuple(pack.sizes[index].tolist()), int(pack.orientations[index]))
    if pack.labelled and pack.damaged(index, masks_alone=True):
        seen.errors.append(damaged_pack(pack, sample))
    elif pack.labelled:
        seen.counts = pack.counts(index)
    return seen


def check_image(path: Path) -> None:
    """Decodes nothing unless the file's end looks wrong.

    Raises:
        UserError: what is wrong with it.
    """
    if not reading.read_header(path).complete:
        reading.read_image(path)
