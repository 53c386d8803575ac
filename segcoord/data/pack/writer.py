"""Write the pack of a split: several processes decode; the pack appears complete or not at all.

Image headers give the sizes, so every sample's offset is known before its pixels are decoded.
"""

import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segcoord.data.image_io import Header, decode_image, read_header
from segcoord.data.mask_palette import mixed_palettes_error
from segcoord.data.mask_reader import decode_mask
from segcoord.data.orientation import Exif
from segcoord.data.pack.reader import (
    FORMAT,
    IMAGES,
    INDEX,
    MASKS,
    ON_WHITE,
    VERSION,
    partial_folder,
    source_of,
)
from segcoord.data.pairing import is_own_mask, own_mask_error
from segcoord.data.process_map import process_map
from segcoord.data.split import Sample, Split
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError
from segcoord.utils.files import require_space

RESERVE = 2**20  # bytes kept free
INDEX_LINE = 1024  # bytes of the index for an image, more than most lines take
LOCK = "lock"


class _Job(NamedTuple):
    """One sample to decode; `start` is the number of pixels before it in the pack."""

    sample: Sample
    header: Header
    start: int
    folder: Path
    exif: Exif


def write_pack(
    split: Split,
    folder: Path,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the pack of a split; replaces an existing one once the new one is complete.

    With more than one worker a script must call this under `if __name__ == "__main__"`.

    Args:
        split: its files.
        folder: of the pack; it appears complete or not at all.
        workers: processes that decode; None for one per core.
        progress: called with the number of samples done.

    Raises:
        UserError: the folder holds something else, another process is writing this pack, the disk
            is too small or full, a file of the dataset can't be used.
    """
    folder = folder.expanduser().absolute()
    part = partial_folder(folder)
    refuse_to_replace(folder)
    try:
        part.mkdir(parents=True, exist_ok=True)
        with _locked(part):
            _write(split, part, folder, workers, progress)
            _rename(part, folder)
    except OSError as error:
        raise UserError(
            f"{error.filename or part}: could not be written ({error.strerror or error}); nothing "
            "was kept. Free space or fix the permissions, or write the pack to another folder with "
            "--out DIR and read it with --data.pack DIR."
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            f"{part}: a decoding process was killed, perhaps out of memory; nothing was kept. "
            "--workers 1 takes the least memory."
        ) from error


def refuse_to_replace(folder: Path) -> None:
    """Raise UserError unless the folder is absent, empty or a pack, and can be created."""
    for parent in folder.expanduser().absolute().parents:
        if parent.exists() and not parent.is_dir():
            raise UserError(f"{parent}: is a file, expected a folder for the packs (--out)")
    if not folder.exists():
        return
    names = {p.name for p in folder.iterdir()} if folder.is_dir() else {"a file"}
    if foreign := sorted(names - {IMAGES, MASKS, INDEX, LOCK}):
        raise UserError(
            f"{folder}: is not a pack, it contains {foreign[0]!r}; nothing was written. "
            "Choose another folder with --out."
        )


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Hold the lock of the partial folder: empty it before, remove it if writing fails."""
    with (part / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{part}: another process is writing this pack") from None
        try:
            for leftover in part.iterdir():  # of a killed process
                if leftover.name != LOCK:
                    leftover.unlink()
            yield
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _write(
    split: Split,
    part: Path,
    folder: Path,
    workers: int | None,
    progress: Callable[[int], None],
) -> None:
    jobs, pixels = [], 0
    with _hint_at_check():
        for sample in split.samples:
            job = _Job(sample, read_header(sample.image, split.exif), pixels, part, split.exif)
            jobs.append(job)
            pixels += job.header.size[0] * job.header.size[1]
    lengths = {IMAGES: 3 * pixels} | ({MASKS: pixels} if split.labelled else {})
    _require_space(folder, sum(lengths.values()) + len(jobs) * INDEX_LINE + RESERVE)
    for name, length in lengths.items():
        with (part / name).open("wb") as file:
            file.truncate(length)  # allocates no blocks yet
    header = {
        "format": FORMAT,
        "version": VERSION,
        "split": split.name,
        "images": len(split),
        "pixels": pixels,
        "labelled": split.labelled,
        "exif": split.exif,
        "transparency": ON_WHITE,
        "classes": split.labels.names,
    }
    lines = [json.dumps(header)]
    if workers is None:
        workers = min(available_cores(), 16, len(jobs) // 16)  # starting one takes a second
    by: dict[str | None, Sample] = {}  # the first palette mask of each way of reading
    progress(0)
    with _hint_at_check(), closing(process_map(_decode, jobs, workers)) as records:
        for job, record in zip(jobs, records):
            by.setdefault(record.pop("palette_by", None), job.sample)
            if "color" in by and "index" in by:
                raise mixed_palettes_error(by["color"].mask, by["index"].mask)
            lines.append(json.dumps(record))
            progress(len(lines) - 1)
    text = "".join(f"{line}\n" for line in lines).encode()
    checksum = json.dumps({"crc32": zlib.crc32(text)})
    (part / INDEX).write_bytes(text + f"{checksum}\n".encode())
    for name in (*lengths, INDEX):
        _sync(part / name)


@contextmanager
def _hint_at_check() -> Iterator[None]:
    """The first bad file ends the packing; the error says how to find all of them."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}\nsegcoord data check lists all such files.") from error


def _require_space(folder: Path, needed: int) -> None:
    try:
        require_space(folder.parent, needed, "the pack")
    except UserError as error:
        stale = f" Removing {folder}, which it replaces, helps." if folder.exists() else ""
        raise UserError(
            f"{error}{stale} --out DIR writes the pack to another folder, --data.pack DIR reads it "
            "from there. Nothing was written."
        ) from error


def _decode(job: _Job) -> dict:
    """Decode one sample into the pack; returns its line of the index."""
    sample = job.sample
    # Before the pixels, so that a file that changes meanwhile makes the pack stale.
    record = source_of(sample)
    size, orientation = job.header.size, job.header.orientation
    record |= {"size": list(size), "start": job.start, "orientation": orientation}
    image, transparent = decode_image(sample.image, strict=True, exif=job.exif)
    if image.shape[:2] != size:
        raise UserError(
            f"{sample.image}: decoded to {image.shape[:2]} (height, width), expected {size} as in "
            "its header; was it changed meanwhile?"
        )
    record["image"].append(_put(image, job.folder / IMAGES, 3 * job.start))
    if transparent:
        record["transparent"] = True
    if sample.mask is not None:
        if is_own_mask(sample.image, sample.mask):
            raise own_mask_error(sample.image)
        mask, _, kind, record["palette_by"] = decode_mask(sample.mask, sample.labels, size)
        record |= {"kind": kind, "table": sample.labels.checksums[kind]}
        record["mask"].append(_put(mask, job.folder / MASKS, job.start))
        counts = np.bincount(mask.ravel(), minlength=256)
        record["pixels"] = {str(i): int(counts[i]) for i in np.flatnonzero(counts)}
    return record


def _put(array: np.ndarray, path: Path, offset: int) -> int:
    """Write an array at a byte offset of a file; returns the CRC-32 of its bytes."""
    array = np.ascontiguousarray(array)
    with path.open("rb+", buffering=0) as file:
        file.seek(offset)
        left = memoryview(array).cast("B")
        while left:
            left = left[file.write(left) :]
    return zlib.crc32(array)


def _rename(part: Path, folder: Path) -> None:
    """Give a complete pack its name; an existing pack is moved aside, then removed."""
    old = folder.parent / f".{folder.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    _sync(part)
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    _sync(folder.parent)
    (folder / LOCK).unlink()  # last: without it another process could lock `part`
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
