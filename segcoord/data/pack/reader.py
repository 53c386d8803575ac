"""Read a pack: the decoded pixels of a split in flat, memory-mapped files.

A crop reads its own rows and decodes nothing. docs/pack.md describes the format and
`segcoord.data.pack.writer` writes it. A pack that doesn't match its dataset is an error, never a
silent fallback to the files.
"""

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from segcoord.config.schema import DataConfig
from segcoord.data.file_pattern import stored_path
from segcoord.data.image_io import has_transparency
from segcoord.data.labels import LabelSet
from segcoord.data.split import Sample, Split
from segcoord.utils.console import progress_counter
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

FORMAT, VERSION = "segcoord pack", 1
ON_WHITE = "white"
"""The header's value of "transparency": transparent pixels were composited on white."""
ALPHA_SUFFIXES = {".png", ".tif", ".tiff", ".webp", ".bmp"}
IMAGES, MASKS, INDEX = "images.u8", "masks.u8", "index.jsonl"
REWRITE = (
    "Remove the pack's folder and run segcoord data pack again; also check the disk, since the "
    "files changed on it."
)
REMEDY = "Run segcoord data pack again, or read the files with --data.pack off."


class Pack:
    """Images and masks by index, as views of mapped files; pickles without the pixels.

    Args:
        folder: of the pack.
        labelled: whether the pack has masks.
        records: the index lines of the images.

    Attributes:
        sizes: (N, 2) int64, height and width of each image.
        checksums: (N, 2) uint32, CRC-32 of each image's and mask's bytes; 0 without a mask.
        orientations: (N,) uint8, EXIF orientation of each image, 1 if it has none.
        transparent: (N,) bool, whether an image has transparent pixels, which were made white.

    Raises:
        UserError: a file is missing, or its length doesn't match the sizes.
    """

    def __init__(self, folder: Path, labelled: bool, records: list[dict]) -> None:
        self.folder, self.labelled = folder, labelled
        self.sizes = np.array([r["size"] for r in records], np.int64)
        checksums = [(r["image"][2], r["mask"][2] if r["mask"] else 0) for r in records]
        self.checksums = np.array(checksums, np.uint32)
        self.orientations = np.array([r.get("orientation", 1) for r in records], np.uint8)
        self.transparent = np.array([r.get("transparent", False) for r in records], bool)
        # Sparse histograms, concatenated: a mask has few of the classes.
        histograms = [r.get("pixels", {}) for r in records]
        self._ends = np.cumsum([0, *map(len, histograms)])
        self._classes = np.array([int(c) for h in histograms for c in h], np.uint8)
        self._pixels = np.array([n for h in histograms for n in h.values()], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes.prod(axis=1))])
        pixels = int(self.starts[-1])
        expected = {IMAGES: 3 * pixels} | ({MASKS: pixels} if labelled else {})
        self._files = {name: _identity(folder / name) for name in expected}
        self._maps: dict[str, np.ndarray] = {}
        for name, length in expected.items():
            actual = self._files[name][1]
            if actual != length:
                raise UserError(
                    f"{folder / name}: the pack is damaged: {actual} bytes, expected {length}. "
                    f"{REMEDY}"
                )

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read-only image (H, W, 3) uint8 and mask (H, W) uint8 of class indices, or None."""
        start, stop = self.starts[index], self.starts[index + 1]
        height, width = self.sizes[index]
        image = self._map(IMAGES)[3 * start : 3 * stop].reshape(height, width, 3)
        if not self.labelled:
            return image, None
        return image, self._map(MASKS)[start:stop].reshape(height, width)

    def _map(self, name: str) -> np.ndarray:
        """Map a file once per process; all processes share the page cache."""
        if name not in self._maps:
            path = self.folder / name
            if _identity(path) != self._files[name]:
                raise UserError(f"{path}: the pack was replaced while it was in use")
            self._maps[name] = np.asarray(np.memmap(path, np.uint8, "r"))
        return self._maps[name]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_maps": {}}

    def counts(self, index: int) -> np.ndarray:
        """(256,) int64 pixels of a mask per class index, 255 for void, from the index."""
        counts = np.zeros(256, np.int64)
        entries = slice(*self._ends[index : index + 2])
        counts[self._classes[entries]] = self._pixels[entries]
        return counts

    def damaged(self, index: int, masks_alone: bool = False) -> bool:
        """Whether an image or its mask, or the mask alone, doesn't match its checksum."""
        first = 1 if masks_alone else 0
        actual = [0 if x is None else zlib.crc32(x) for x in self[index][first:]]
        return actual != self.checksums[index, first:].tolist()


def damaged_pack(pack: Pack, sample: Sample) -> UserError:
    """The error for a mask that doesn't match its checksum in a pack."""
    return UserError(
        f"its mask in {pack.folder / MASKS} doesn't match its checksum; the pack is damaged.",
        path=sample.image,
        remedy=REWRITE,
        kind="damaged packs",
    )


def _identity(path: Path) -> tuple[int, int, int]:
    """Inode, size and modification time in nanoseconds."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(
            f"{path}: the pack is damaged: this file can't be read ({error.strerror}). {REMEDY}"
        ) from error
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def pack_root(data: DataConfig) -> Path:
    """Folder of the packs of a dataset's splits: data.pack, or .segcoord in the dataset."""
    if data.pack in ("auto", "off"):
        return stored_path(Path(data.root).expanduser()) / ".segcoord"
    return Path(data.pack).expanduser()


def partial_folder(folder: Path) -> Path:
    """Folder of a pack while it is being written."""
    return folder.parent / f".{folder.name}.part"


def with_pack(split: Split, data: DataConfig) -> Split:
    """The split, read from its pack if one exists and data.pack allows it.

    Raises:
        UserError: the pack is damaged or not up to date; data.pack names a folder without any pack.
    """
    if data.pack == "off":
        return split
    packs = pack_root(data)
    folder = packs / split.name
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        optional = data.pack == "auto" or any(packs.glob(f"[!.]*/{INDEX}"))
    except OSError as error:
        raise UserError(f"{folder}: can't be read ({error.strerror}). {REMEDY}") from error
    else:
        return replace(split, pack=open_pack(folder, split))
    if not optional:
        raise UserError(
            f"{packs}: data.pack names this folder, but it contains no pack. Write one with "
            f"segcoord data pack --config CONFIG --out {packs}, or use --data.pack auto."
        )
    return split


def pixel_source(split: Split, data: DataConfig) -> str:
    """Describes where a split's pixels are read from, and what data.skip_bad left out."""
    left_out = describe_left_out(split)
    if split.pack is not None:
        return f"pack {split.pack.folder}{left_out}"
    incomplete = partial_folder(pack_root(data) / split.name)
    if data.pack != "off" and incomplete.exists():
        left_out += f"; {incomplete} is incomplete, segcoord data pack writes it again"
    return f"files{left_out}"


def describe_left_out(split: Split) -> str:
    """How many samples data.skip_bad left out, after a comma; empty without any."""
    total = len(split) + split.left_out
    return f", {split.left_out} of {total} samples left out (data.skip_bad)" * bool(split.left_out)


def open_pack(folder: Path, split: Split) -> Pack:
    """Open the pack of a split.

    Checks everything but the pixels: the index against its checksum, the files' lengths, and size
    and modification time of every source file. `verify` checks the pixels.

    Raises:
        UserError: the pack is damaged or of another format, or the dataset has changed.
    """
    header, records = read_index(folder / INDEX)
    if difference := _difference(records, split) or _other_reading(header, records, split):
        raise UserError(f"{folder}: the pack is not up to date: {difference}. {REMEDY}")
    return Pack(folder, header["labelled"], records)


def read_index(path: Path) -> tuple[dict, list[dict]]:
    """Read the header and the image records of a complete index.

    Raises:
        UserError: missing, unreadable, truncated, modified, or of another version.
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
            raise UserError(
                f"{path}: the pack is damaged: its index doesn't match its checksum. {REMEDY}"
            )
        return header, [json.loads(line) for line in lines[1:]]
    except OSError as error:
        problem = error.strerror
    except (ValueError, KeyError, TypeError, IndexError):
        problem = "truncated or not an index"
    raise UserError(f"{path}: the pack is damaged: {problem}. {REMEDY}")


def source_of(sample: Sample) -> dict:
    """Identifies the files and classes that a sample was packed from.

    Returns:
        stem; [bytes, mtime_ns] of the image and of the mask or None; for a gray mask, CRC-32 of the
        table from mask values to class indices.

    Raises:
        UserError: a file can't be read.
    """
    return {
        "stem": sample.stem,
        "image": _stat(sample.image),
        "mask": sample.mask and _stat(sample.mask),
        "table": sample.mask and sample.labels.checksums["gray"],
    }


def _stat(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    return [stat.st_size, stat.st_mtime_ns]


def _difference(records: list[dict], split: Split) -> str | None:
    """Describes the first difference between a dataset and the one that was packed."""
    packed, current = [r["stem"] for r in records], [s.stem for s in split.samples]
    if packed != current:
        new, gone = sorted({*current} - {*packed}), sorted({*packed} - {*current})
        parts = [f"{len(new)} images are new, the first {new[0]}"] if new else []
        parts += [f"{len(gone)} are gone, the first {gone[0]}"] if gone else []
        return " and ".join(parts) or "its list has another order"
    changed: list[Path] = []
    for record, sample in zip(records, split.samples):
        source = source_of(sample)
        if record["image"][:2] != source["image"]:
            changed.append(sample.image)
        elif (record["mask"] and record["mask"][:2]) != source["mask"]:
            changed.append(sample.mask or sample.image)
        elif sample.mask and record["table"] not in _tables(record, sample.labels):
            return (
                "its masks were read with other classes (data.classes, data.void_ids) or by rules "
                "of another version. To keep a pack for each, write one to a folder of its own "
                "with segcoord data pack --out DIR, and read it with --data.pack DIR"
            )
    if changed:
        return f"{len(changed)} of {len(split)} samples changed since, the first {changed[0]}"
    return None


def _tables(record: dict, labels: LabelSet) -> set[int]:
    """The values of "table" with which a packed mask is as if read with these labels."""
    if "kind" in record:
        return {labels.checksums[record["kind"]]}
    return {labels.checksums["gray"], labels.color_checksum}  # of an older pack


def _other_reading(header: dict, records: list[dict], split: Split) -> str | None:
    """Describes how the images were decoded, if they would now be decoded differently."""
    packed = header.get("exif", "ignore")  # absent before data.exif
    turned = [s for r, s in zip(records, split.samples) if r.get("orientation", 1) != 1]
    if turned and packed != split.exif:
        return (
            f"it was written with data.exif {packed}, now it is {split.exif}, and {len(turned)} "
            f"images have an EXIF orientation, the first {turned[0].image}"
        )
    if header.get("transparency") != ON_WHITE:  # written when alpha was dropped
        paths = (s.image for s in split.samples if s.image.suffix.lower() in ALPHA_SUFFIXES)
        if first := next((path for path in paths if has_transparency(path)), None):
            return (
                f"it has the hidden colors of transparent pixels, which are white now, for "
                f"example in {first}"
            )
    return None


def verify(
    pack: Pack,
    split: Split,
    progress: Callable[[int], None] = lambda done: None,
    masks_alone: bool = False,
) -> None:
    """Check every byte of a pack, or of its masks, against the checksums.

    `progress` is called with the number of images done.

    Raises:
        UserError: names the images that don't match their checksums.
    """
    bad = []
    for index, sample in enumerate(split.samples):
        if pack.damaged(index, masks_alone):
            bad.append(sample.stem)
        progress(index + 1)
    if bad:
        what = "masks" if masks_alone else "images"
        raise UserError(
            f"{pack.folder}: the pack is damaged: {len(bad)} of {len(pack)} {what} don't match "
            f"their checksums ({join_first(bad, 5)}). {REWRITE}"
        )


def verify_masks(split: Split) -> None:
    """Check the checksums of a pack's masks: a flipped bit would silently change a score.

    Does nothing for a split that is read from files.

    Raises:
        UserError: a damaged pack.
    """
    if split.pack is not None and split.labelled:
        with progress_counter(f"verify {split.name}", len(split)) as on_progress:
            verify(split.pack, split, on_progress, masks_alone=True)
