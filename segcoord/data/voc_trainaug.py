"""VOC's trainaug split: the training images of VOC 2012 and of SBD, whose masks are .mat files.

    (VOC train + SBD train + SBD val) - VOC val = 10582 images

An image that both have keeps VOC's mask, which is finer and has void along the boundaries.

Sources: the split, Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation",
section 4; the .mat files, the README of SBD's benchmark_RELEASE (Hariharan et al., "Semantic
Contours from Inverse Detectors").
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from segcoord.data.image_io import read_header, read_mask, read_mask_values, size_mismatch_error
from segcoord.data.labels import VOC
from segcoord.data.layouts import read_list
from segcoord.data.mask_files import write_mask
from segcoord.utils.console import console, progress_bar
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write, require_space
from segcoord.utils.text import first_lines, join_first

PUBLISHED = {
    "VOC train": 1464,
    "VOC val": 1449,
    "SBD train": 8498,
    "SBD val": 2857,
    "trainaug": 10582,
}
"""Names in each list as their owners publish it, and in the one that comes out."""

BYTES_PER_MASK = 16 * 1024  # more than a mask takes: most are one or two blocks of a disk
SHOWN = 10  # names in one error
_COMPRESSED = 15  # the kind of an element of a .mat file


@dataclass(frozen=True)
class _Source:
    """One image of the split, and the file that its mask comes from: a PNG of VOC's, or a .mat."""

    image: Path
    mask: Path


def make_trainaug(voc: Path, sbd: Path, published: Mapping[str, int] = PUBLISHED) -> Path:
    """Makes SegmentationClassAug/*.png and, when all are right, the list trainaug.txt.

    Masks that are there already stay if they hold the same ids, so an interrupted run goes on.

    Args:
        voc: VOC2012, or a folder that has it or VOCdevkit/VOC2012.
        sbd: the folder with cls, train.txt and val.txt, or one that has it as `dataset` or as
            `benchmark_RELEASE/dataset`.
        published: how many names each list must have, as PUBLISHED.

    Returns:
        The path of trainaug.txt.

    Raises:
        UserError: another tree; lists of other lengths; a missing, damaged or wrong image or mask;
            too little space.
    """
    lists = Path("ImageSets", "Segmentation")
    voc_parts = ("JPEGImages", "SegmentationClass", f"{lists}/train.txt", f"{lists}/val.txt")
    voc = _tree("--voc", voc, ("", "VOC2012", "VOCdevkit/VOC2012"), voc_parts)
    sbd_parts = ("cls", "train.txt", "val.txt")
    sbd = _tree("--sbd", sbd, ("", "dataset", "benchmark_RELEASE/dataset"), sbd_parts)
    own, stems = _names(voc / lists, sbd, published)
    sources = {
        stem: _Source(
            voc / "JPEGImages" / f"{stem}.jpg",
            voc / "SegmentationClass" / f"{stem}.png"
            if stem in own
            else sbd / "cls" / f"{stem}.mat",
        )
        for stem in stems
    }
    _require_files((s.image for s in sources.values()), "VOC 2012's JPEGImages holds all of SBD's")
    _require_files((s.mask for s in sources.values()), "each name of a list has its mask")
    _make_masks(sources, voc / "SegmentationClassAug")
    target = voc / lists / "trainaug.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    console.print(f"{target}: {len(stems)} images, none of them in val")
    return target


def read_sbd(path: Path) -> np.ndarray:
    """(H, W) uint8 class ids of one of SBD's cls/*.mat: the field Segmentation of the struct GTcls.

    Raises:
        UserError: damaged, of another structure, or with ids of no class of VOC's.
    """
    try:
        content = path.read_bytes()
        _unzip(content)
        ids = loadmat(io.BytesIO(content))["GTcls"][0]["Segmentation"][0]
        wrong = ids.ndim != 2 or ids.dtype != np.uint8
    except Exception as error:  # a damaged or foreign file fails in the reader in any way
        raise UserError(
            f"{path}: damaged, or not of SBD's cls folder ({type(error).__name__}: {error}); "
            "expected a struct GTcls with a field Segmentation. Unpack SBD anew."
        ) from error
    if wrong:
        raise UserError(
            f"{path}: GTcls.Segmentation is {ids.dtype} of shape {ids.shape}, expected uint8 of "
            "(height, width). Unpack SBD anew."
        )
    unknown = np.unique(ids[ids >= len(VOC)])
    if unknown.size:
        raise UserError(
            f"{path}: holds the ids {join_first(unknown, SHOWN)}, expected 0 to "
            f"{len(VOC) - 1}, for SBD has no void. Unpack SBD anew."
        )
    return ids


def _unzip(content: bytes) -> None:
    """Raises zlib.error or struct.error where a .mat file is damaged.

    scipy reads what is in it without this check, and damage can crash it. Format: MathWorks,
    "MAT-File Format", level 5: after 128 bytes, elements of a kind, a size and so many bytes.
    """
    order = "<" if content[126:128] == b"IM" else ">"
    place = 128
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        if kind == _COMPRESSED:
            zlib.decompress(content[place + 8 : place + 8 + size])  # whose end has a checksum
        place += 8 + size


def _tree(option: str, given: Path, below: tuple[str, ...], parts: tuple[str, ...]) -> Path:
    """The folder that has all of `parts`: the given one, or one of those below it."""
    given = given.expanduser()
    places = [given / b for b in below]
    lacks = {place: [part for part in parts if not (place / part).exists()] for place in places}
    best = min(places, key=lambda place: len(lacks[place]))
    if not lacks[best]:
        return best
    found = "no such folder"
    if best.is_dir():
        names = sorted(p.name for p in best.iterdir())
        found = f"found {join_first(names, SHOWN) or 'an empty folder'}"
    raise UserError(
        f"{option} {given}: {best} lacks {', '.join(lacks[best])} ({found}). Expected a folder "
        f"with {', '.join(parts)}, or one that has it as {' or '.join(below[1:])}; see "
        "data/README.md."
    )


def _names(voc: Path, sbd: Path, published: Mapping[str, int]) -> tuple[set[str], list[str]]:
    """The names that have a mask of VOC's, and all of the split's, sorted."""
    files = {f"VOC {s}": voc / f"{s}.txt" for s in ("train", "val")}
    files |= {f"SBD {s}": sbd / f"{s}.txt" for s in ("train", "val")}
    names = {which: {stem for _, stem in read_list(file)} for which, file in files.items()}
    union = names["VOC train"] | names["SBD train"] | names["SBD val"]
    names["trainaug"] = union - names["VOC val"]
    found = {which: len(listed) for which, listed in names.items()}
    if found != published:
        told = ", ".join(f"{n} in {which} (of {published[which]})" for which, n in found.items())
        raise UserError(
            f"the lists of {voc} and {sbd} don't make the published split, (VOC train + SBD train "
            f"+ SBD val) - VOC val: found {told}. Fetch those that differ anew."
        )
    return names["VOC train"], sorted(names["trainaug"])


def _require_files(paths: Iterable[Path], why: str) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        names = join_first((path.name for path in missing), SHOWN)
        raise UserError(
            f"{missing[0].parent}: {len(missing)} files of the split are missing ({names}). "
            f"Unpack the archive anew: {why}."
        )


def _make_masks(sources: Mapping[str, _Source], folder: Path) -> None:
    """Writes the masks that are not there yet or differ; names the first that can't be made."""
    targets = [folder / f"{stem}.png" for stem in sources]
    new = sum(not target.exists() for target in targets)
    require_space(folder, new * BYTES_PER_MASK, f"{new} masks")
    outcomes: Counter[str] = Counter()
    problems: list[str] = []
    with warnings.catch_warnings(), progress_bar() as bar, ThreadPoolExecutor() as pool:
        # Of a damaged file scipy warns, and then hands out text in its place, which is told below.
        warnings.simplefilter("ignore")
        done = pool.map(_make_mask, sources.values(), targets)
        for outcome in bar.track(done, total=len(targets), description="masks"):
            if isinstance(outcome, UserError):
                problems.append(str(outcome))
            else:
                outcomes[outcome] += 1
    told = ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items()))
    if problems:
        raise UserError(
            f"{len(problems)} of {len(targets)} masks can't be made, so that there is no list of "
            f"them ({told or 'none is there'})\n" + first_lines(problems, SHOWN)
        )
    console.print(f"{folder}: {told}")


def _make_mask(source: _Source, target: Path) -> str | UserError:
    """What became of one mask, or what is wrong with it."""
    try:
        size = read_header(source.image).size
        if source.mask.suffix == ".png":
            ids = read_mask(source.mask, VOC, size)
        else:
            ids = read_sbd(source.mask)
        if ids.shape != size:
            return size_mismatch_error(source.mask, ids.shape, size)
        there = target.exists()
        if there and _holds(target, ids):
            return "there already"
        write_mask(target, ids, VOC, palette=True)
        return "replaced, for they differed" if there else "written"
    except UserError as error:
        return error


def _holds(path: Path, ids: np.ndarray) -> bool:
    try:
        return np.array_equal(read_mask_values(path), ids)
    except UserError:  # a damaged or foreign file, which is made anew
        return False
