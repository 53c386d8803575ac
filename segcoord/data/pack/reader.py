"""A split's pixels, decoded once, in flat files that are mapped into memory; here they are read.

A crop then reads its own rows and nothing is decoded. docs/pack.md describes the files;
`segcoord.data.packing` writes them. A pack that no longer fits its dataset is an error, never a
silent return to the files.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from segcoord.config.schema import DataConfig
from segcoord.data.split import Sample, Split
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

FORMAT, VERSION = "segcoord pack", 1
IMAGES, MASKS, INDEX = "images.u8", "masks.u8", "index.jsonl"
REWRITE = (
    "Remove the pack's folder and run segcoord data pack again; a disk that changes files needs a "
    "look too."
)
REMEDY = "Run segcoord data pack again, or read the files with --data.pack off."


class Pack:
    """Images and masks by index, as views of mapped files; cheap to hand to another process.

    Args:
        folder: of the pack.
        labelled: whether there are masks.
        records: of its index.

    Attributes:
        sizes: (N, 2) int64, height and width of each image.
        checksums: (N, 2) uint32, CRC-32 of each image's and mask's bytes; 0 without a mask.
        orientations: (N,) uint8, EXIF orientation of each image, 1 where it has none.

    Raises:
        UserError: a file is missing, or is not as long as the sizes say.
    """

    def __init__(self, folder: Path, labelled: bool, records: list[dict]) -> None:
        self.folder, self.labelled = folder, labelled
        self.sizes = np.array([r["size"] for r in records], np.int64)
        both = [(r["image"][2], r["mask"][2] if r["mask"] else 0) for r in records]
        self.checksums = np.array(both, np.uint32)
        self.orientations = np.array([r.get("orientation", 1) for r in records], np.uint8)
        # The histograms behind each other, as few of the classes are in a mask.
        counts = [r.get("pixels", {}) for r in records]
        self._ends = np.cumsum([0, *map(len, counts)])
        self._classes = np.array([int(c) for one in counts for c in one], np.uint8)
        self._pixels = np.array([n for one in counts for n in one.values()], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes.prod(axis=1))])
        pixels = int(self.starts[-1])
        expected = {IMAGES: 3 * pixels} | ({MASKS: pixels} if labelled else {})
        self._files = {name: _identity(folder / name) for name in expected}
        self._maps: dict[str, np.ndarray] = {}
        for name, length in expected.items():
            found = self._files[name][1]
            if found != length:
                raise UserError(
                    f"{folder / name}: the pack is damaged: {found} bytes, expected {length}. "
                    f"{REMEDY}"
                )

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Image (H, W, 3) uint8 and mask (H, W) uint8 class indices, or None; not writable."""
        start, stop = self.starts[index], self.starts[index + 1]
        height, width = self.sizes[index]
        image = self._map(IMAGES)[3 * start : 3 * stop].reshape(height, width, 3)
        if not self.labelled:
            return image, None
        return image, self._map(MASKS)[start:stop].reshape(height, width)

    def _map(self, name: str) -> np.ndarray:
        """Mapped once in each process; the processes share the pages that the system caches."""
        if name not in self._maps:
            path = self.folder / name
            if _identity(path) != self._files[name]:
                raise UserError(f"{path}: the pack was written anew while it was in use")
            self._maps[name] = np.asarray(np.memmap(path, np.uint8, "r"))
        return self._maps[name]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_maps": {}}  # the pixels stay behind

    def counts(self, index: int) -> np.ndarray:
        """(256,) int64 pixels of a mask by class index, 255 for void, from the index."""
        counts = np.zeros(256, np.int64)
        part = slice(*self._ends[index : index + 2])
        counts[self._classes[part]] = self._pixels[part]
        return counts

    def damaged(self, index: int, masks_alone: bool = False) -> bool:
        """Whether the bytes of a mask, or of an image or its mask, are not those written."""
        first = 1 if masks_alone else 0
        found = [0 if x is None else zlib.crc32(x) for x in self[index][first:]]
        return found != self.checksums[index, first:].tolist()


def damaged_pack(pack: Pack, sample: Sample) -> UserError:
    """What to say of a mask of which a pack has other bytes than were written."""
    return UserError(
        f"its mask in {pack.folder / MASKS} is not as it was written; the pack is damaged.",
        path=sample.image,
        remedy=REWRITE,
        kind="damaged packs",
    )


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(
            f"{path}: the pack is damaged: this file can't be read ({error.strerror}). {REMEDY}"
        ) from error
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def pack_root(data: DataConfig) -> Path:
    """Where the packs of a dataset's splits lie: data.pack, or .segcoord in the dataset."""
    if data.pack in ("auto", "off"):
        return Path(data.root).expanduser() / ".segcoord"
    return Path(data.pack).expanduser()


def partial_folder(folder: Path) -> Path:
    """Where a pack is while it is written."""
    return folder.parent / f".{folder.name}.part"


def with_pack(split: Split, data: DataConfig) -> Split:
    """The split, read from its pack where data.pack allows it and there is one.

    Raises:
        UserError: the pack is there, but damaged or not up to date; data.pack names a folder
            without any pack.
    """
    if data.pack == "off":
        return split
    packs = pack_root(data)
    folder = packs / split.name
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        there = data.pack == "auto" or any(packs.glob(f"[!.]*/{INDEX}"))
    except OSError as error:
        raise UserError(f"{folder}: can't be read ({error.strerror}). {REMEDY}") from error
    else:
        return replace(split, pack=open_pack(folder, split))
    if not there:
        raise UserError(
            f"{packs}: data.pack names this folder, but there is no pack in it. Write one with "
            f"segcoord data pack --config CONFIG --out {packs}, or use --data.pack auto."
        )
    return split


def pixel_source(split: Split, data: DataConfig) -> str:
    """Says where a split's pixels come from."""
    if split.pack is not None:
        return f"pack {split.pack.folder}"
    unfinished = partial_folder(pack_root(data) / split.name)
    if data.pack != "off" and unfinished.exists():
        return f"files; {unfinished} is unfinished, and segcoord data pack goes on with it"
    return "files"


def open_pack(folder: Path, split: Split) -> Pack:
    """Opens the pack of a split.

    Everything but the pixels is checked: the index against its checksum, the files' lengths, and
    size and time of every source file. `damaged_error` checks the pixels.

    Raises:
        UserError: the pack is damaged or of another format, or the dataset is another one now.
    """
    header, records = read_index(folder / INDEX)
    if difference := _difference(records, split):
        raise UserError(f"{folder}: the pack is not up to date: {difference}. {REMEDY}")
    return Pack(folder, header["labelled"], records)


def read_index(path: Path) -> tuple[dict, list[dict]]:
    """The header and the records of a complete index.

    Raises:
        UserError: missing, unreadable, cut short, changed, or of another version.
    """
    try:
        *lines, last = path.read_bytes().splitlines(keepends=True)
        header = json.loads(lines[0])
        if (header["format"], header["version"]) != (FORMAT, VERSION):
            raise UserError(
                f"{path}: format {header['format']!r}, version {header['version']}; this version "
                f"of segcoord reads {FORMAT!r}, version {VERSION}. {REMEDY}"
            )
        if json.loads(last)["crc32"] != zlib.crc32(b"".join(lines)):
            raise UserError(f"{path}: the pack is damaged: its index was changed. {REMEDY}")
        return header, [json.loads(line) for line in lines[1:]]
    except OSError as error:
        found = error.strerror
    except (ValueError, KeyError, TypeError, IndexError):
        found = "cut short or no index at all"
    raise UserError(f"{path}: the pack is damaged: {found}. {REMEDY}")


def source(sample: Sample) -> dict:
    """What must stay as it is for a pack to stay right.

    Returns:
        stem; [bytes, mtime_ns] of the image and of the mask or None; a checksum of the table from
        mask values to class indices.

    Raises:
        UserError: a file that is not there.
    """
    return {
        "stem": sample.stem,
        "image": _stat(sample.image),
        "mask": sample.mask and _stat(sample.mask),
        "table": sample.mask and zlib.crc32(sample.labels.to_index),
    }


def is_of(record: dict, source: dict) -> bool:
    """Whether a record of an index was made from these sources."""
    return (
        record["stem"] == source["stem"]
        and record["image"][:2] == source["image"]
        and (record["mask"] and record["mask"][:2]) == source["mask"]
        and record["table"] == source["table"]
    )


def _stat(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    return [stat.st_size, stat.st_mtime_ns]


def _difference(records: list[dict], split: Split) -> str | None:
    """The first thing in which a dataset is not the one that was packed."""
    packed, now = [r["stem"] for r in records], [s.stem for s in split.samples]
    if packed != now:
        new, gone = sorted({*now} - {*packed}), sorted({*packed} - {*now})
        told = [f"{len(new)} images are new, the first {new[0]}"] if new else []
        told += [f"{len(gone)} are gone, the first {gone[0]}"] if gone else []
        return " and ".join(told) or "its list has another order"
    changed: list[Path] = []
    for record, sample in zip(records, split.samples):
        current = source(sample)
        if is_of(record, current):
            continue
        if record["image"][:2] != current["image"]:
            changed.append(sample.image)
        elif (record["mask"] and record["mask"][:2]) != current["mask"]:
            changed.append(sample.mask or sample.image)
        else:
            return (
                "its masks were read with other classes (data.classes, data.void_ids). For a pack "
                "of each, write one to a place of its own with segcoord data pack --out DIR, and "
                "read it with --data.pack DIR"
            )
    if changed:
        return f"{len(changed)} of {len(split)} samples changed since, the first {changed[0]}"
    return None


def verify(
    pack: Pack,
    split: Split,
    progress: Callable[[int], None] = lambda done: None,
    masks_alone: bool = False,
) -> None:
    """Reads every byte of a pack, or of its masks.

    Args:
        pack: of the split.
        split: whose images are named.
        progress: called with the number of images done.
        masks_alone: leave the images out.

    Raises:
        UserError: names the images whose bytes are not those that were written.
    """
    bad = []
    for index, sample in enumerate(split.samples):
        if pack.damaged(index, masks_alone):
            bad.append(sample.stem)
        progress(index + 1)
    if bad:
        what = "masks" if masks_alone else "images"
        raise UserError(
            f"{pack.folder}: the pack is damaged: {len(bad)} of {len(pack)} {what} are not as they "
            f"were written ({join_first(bad, 5)}). {REWRITE}"
        )
