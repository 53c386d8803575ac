"""Writes the pack of a split: several processes, resumable, complete or not there.

Each sample has its place from the start, since sizes are known from the headers. The index is also
the journal: a line goes there once the pixels before it are on the disk, so whatever stops the
writing, the next one goes on behind the last line.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segcoord.data.image_io import Header, read_header, read_image, read_mask
from segcoord.data.pack.reader import (
    FORMAT,
    IMAGES,
    INDEX,
    MASKS,
    VERSION,
    is_of,
    partial_folder,
    source,
)
from segcoord.data.split import Sample, Split
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError

SYNC_INTERVAL = 2.0  # seconds between journal entries: what a killed packer loses at most
RESERVE = 2**20  # bytes kept free
INDEX_LINE = 1024  # bytes of the index for an image, more than most lines take
PREFETCH = 4  # samples handed to each process before the first has to be done
LOCK = "lock"


class _Job(NamedTuple):
    """One sample, what its image's header says, its place: pixels before it, the folder."""

    sample: Sample
    header: Header
    start: int
    part: Path


def write_pack(
    split: Split,
    folder: Path,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Writes a pack, or goes on with one that was stopped; replaces a pack that is there.

    With more than one worker a script must call this under `if __name__ == "__main__"`.

    Args:
        split: its files.
        folder: of the pack; it appears complete or not at all.
        workers: processes that decode; None for one on each core.
        progress: called with the number of samples done, those of an earlier start included.

    Raises:
        UserError: the folder holds something else, another process writes this pack, the disk is
            too small or full, a file of the dataset can't be used.
    """
    folder = folder.expanduser().absolute()
    part = partial_folder(folder)
    refuse_to_replace(folder)
    try:
        part.mkdir(parents=True, exist_ok=True)
        with _locked(part):
            _write(split, part, folder, workers, progress)
            _move(part, folder)
    except OSError as error:
        raise UserError(
            f"{error.filename or part}: could not be written ({error.strerror or error}). Free "
            "space or mend permissions and run it again, which goes on behind what is done; or "
            "choose another place with --out, which data.pack then has to name."
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            f"{part}: a process that decodes was killed, perhaps for want of memory. Run it again, "
            "which goes on behind what is done; --workers 1 takes least memory."
        ) from error


def refuse_to_replace(folder: Path) -> None:
    """Raises UserError unless the folder is absent, empty or a pack, and can be made."""
    for above in folder.expanduser().absolute().parents:
        if above.exists() and not above.is_dir():
            raise UserError(f"{above}: is a file, expected a folder for the packs (--out)")
    if not folder.exists():
        return
    found = {p.name for p in folder.iterdir()} if folder.is_dir() else {"a file"}
    if other := sorted(found - {IMAGES, MASKS, INDEX, LOCK}):
        raise UserError(
            f"{folder}: is no pack, it holds {other[0]!r}; nothing was written. "
            "Name another place with --out."
        )


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    with (part / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{part}: another process is writing this pack") from None
        try:
            yield
        finally:
            if part.exists() and [p.name for p in part.iterdir()] == [LOCK]:
                (part / LOCK).unlink()  # nothing was written, so nothing stays
                part.rmdir()


def _write(
    split: Split,
    part: Path,
    folder: Path,
    workers: int | None,
    progress: Callable[[int], None],
) -> None:
    jobs, start = [], 0
    with _pointing_to_the_check():
        for sample in split.samples:
            header = read_header(sample.image)
            jobs.append(_Job(sample, header, start, part))
            start += header.size[0] * header.size[1]
    top = {
        "format": FORMAT,
        "version": VERSION,
        "split": split.name,
        "images": len(split),
        "pixels": start,
        "labelled": split.labelled,
        "classes": split.labels.names,
    }
    lengths = {part / IMAGES: 3 * start} | ({part / MASKS: start} if split.labelled else {})
    kept = _kept(part / INDEX, jobs, lengths)
    _require_space(part, folder, lengths, len(jobs))
    if not split.labelled:
        (part / MASKS).unlink(missing_ok=True)
    for path, length in lengths.items():
        with path.open("ab") as file:
            file.truncate(length)  # no blocks are taken yet
    done = len(kept)
    progress(done)
    with (
        _Journal(part / INDEX, [json.dumps(top), *kept], list(lengths)) as journal,
        _pointing_to_the_check(),
    ):
        for record in _records(jobs[done:], workers):
            journal.add(json.dumps(record))
            done += 1
            progress(done)
        journal.end()


@contextmanager
def _pointing_to_the_check() -> Iterator[None]:
    """Where the first bad file ends the packing, says how to find them all."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}\nsegcoord data check names all such files at once.") from error


def _kept(index: Path, jobs: list[_Job], lengths: dict[Path, int]) -> list[str]:
    """The lines of a journal that still hold: up to the first one that is torn, of other sources,
    or whose pixels are not on the disk.
    """
    kept: list[str] = []
    if not index.exists() or any(_length(path) != length for path, length in lengths.items()):
        return kept
    for line, job in zip(index.read_text(errors="replace").split("\n")[1:], jobs):
        try:
            record = json.loads(line)
            place = (record["start"], tuple(record["size"]))
            same = place == (job.start, job.header.size) and is_of(record, source(job.sample))
            if not (same and _holds(job, record)):
                break
        except (ValueError, KeyError, TypeError, IndexError):
            break
        kept.append(line)
    return kept


def _length(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def _holds(job: _Job, record: dict) -> bool:
    """Whether the pixels of a sample that was packed are as they were written."""
    count = job.header.size[0] * job.header.size[1]
    for key, name, channels in (("image", IMAGES, 3), ("mask", MASKS, 1)):
        if record[key] is not None:
            place = {"count": channels * count, "offset": channels * job.start}
            if zlib.crc32(np.fromfile(job.part / name, np.uint8, **place)) != record[key][2]:
                return False
    return True


def _require_space(part: Path, folder: Path, lengths: dict[Path, int], images: int) -> None:
    taken = sum(path.stat().st_blocks * 512 for path in lengths if path.exists())
    needed = sum(lengths.values()) + images * INDEX_LINE + RESERVE - taken
    free = shutil.disk_usage(part).free
    if needed > free:
        old = _length(folder / IMAGES)
        stale = f" Removing {folder}, which it replaces, would help." if old else ""
        raise UserError(
            f"{part.parent}: the pack needs {needed / 1e9:.3f} GB more, {free / 1e9:.3f} GB are "
            f"free there; nothing was written.{stale} Free space, or choose another place with "
            "--out, which data.pack then has to name."
        )


class _Journal:
    """The index while it grows.

    Args:
        path: of the index.
        lines: that it begins with.
        pixels: the files whose bytes must be on the disk before a line tells of them.
    """

    def __init__(self, path: Path, lines: list[str], pixels: list[Path]) -> None:
        self.path, self.pixels = path, pixels
        self.waiting: list[str] = []
        self.checksum = 0
        self.synced = time.monotonic()
        # Never shorter on the disk than it was, unless it is to be: written beside, then renamed.
        beside = path.with_suffix(".new")
        with beside.open("wb") as file:
            self._append(file, lines)
        beside.replace(path)

    def __enter__(self) -> _Journal:
        self.file = self.path.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.sync()
        finally:
            self.file.close()

    def add(self, line: str) -> None:
        self.waiting.append(line)
        if time.monotonic() - self.synced >= SYNC_INTERVAL:
            self.sync()

    def sync(self) -> None:
        for path in self.pixels:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        self._append(self.file, self.waiting)
        self.waiting = []
        self.synced = time.monotonic()

    def end(self) -> None:
        """The last line: a checksum of all before it."""
        self.sync()
        self._append(self.file, [json.dumps({"crc32": self.checksum})])

    def _append(self, file, lines: list[str]) -> None:
        text = "".join(f"{line}\n" for line in lines).encode()
        self.checksum = zlib.crc32(text, self.checksum)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _records(jobs: list[_Job], workers: int | None) -> Iterator[dict]:
    """Decodes and writes; yields the records in order."""
    if workers is None:
        workers = min(available_cores(), 16, len(jobs) // 16)  # a process takes a second to start
    if workers < 2:
        yield from map(_decode, jobs)
        return
    # "spawn" is the one start method that is safe beside threads and the same on all systems.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_set_up_process)
    try:
        pending: deque = deque()
        for job in jobs:
            if len(pending) >= PREFETCH * workers:
                yield pending.popleft().result()
            pending.append(pool.submit(_decode, job))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _set_up_process() -> None:
    """One thread, Ctrl-C left to the parent, and an end when the parent is killed."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with(parent) -> None:
        parent.join()
        os._exit(1)

    parent = multiprocessing.parent_process()
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def _decode(job: _Job) -> dict:
    """Writes one sample's pixels to their place; returns its line of the index."""
    sample = job.sample
    # Before the pixels, so that a file that changes meanwhile is found to have changed.
    record = source(sample)
    size, orientation, _ = job.header
    record |= {"size": list(size), "start": job.start, "orientation": orientation}
    image = read_image(sample.image, strict=True)
    if image.shape[:2] != size:
        raise UserError(f"{sample.image}: its size is not what its header said; was it changed?")
    record["image"].append(_put(image, job.part / IMAGES, 3 * job.start))
    if sample.mask is not None:
        mask = read_mask(sample.mask, sample.labels, size)
        record["mask"].append(_put(mask, job.part / MASKS, job.start))
        counts = np.bincount(mask.ravel(), minlength=256)
        record["pixels"] = {str(i): int(counts[i]) for i in np.flatnonzero(counts)}
    return record


def _put(array: np.ndarray, path: Path, offset: int) -> int:
    array = np.ascontiguousarray(array)
    with path.open("rb+", buffering=0) as file:
        file.seek(offset)
        rest = memoryview(array).cast("B")
        while rest:
            rest = rest[file.write(rest) :]
    return zlib.crc32(array)


def _move(part: Path, folder: Path) -> None:
    """Gives a complete pack its name; one that is there steps aside first."""
    old = folder.parent / f".{folder.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    _sync(part)
    part.rename(folder)
    _sync(folder.parent)
    (folder / LOCK).unlink()  # last, so that nobody else takes the folder meanwhile
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
