"""Create VOC's trainaug split from VOC 2012 and SBD, whose masks are .mat files.

    (VOC train + SBD train + SBD val) - VOC val = 10582 images

Images in both keep VOC's mask, which is finer and has void along the boundaries.

Sources: the split, Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation",
section 4; the .mat files, the README of SBD's benchmark_RELEASE (Hariharan et al., "Semantic
Contours from Inverse Detectors").
"""

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

from segcoord.data.image_io import read_header, size_mismatch_error
from segcoord.data.labels import VOC
from segcoord.data.mask_reader import read_mask, read_mask_values
from segcoord.data.mask_writer import write_mask
from segcoord.data.split_lists import read_list
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
"""Number of names in each published list, and in the resulting trainaug list."""

BYTES_PER_MASK = 16 * 1024  # upper bound: most masks take one or two disk blocks
SHOWN = 10  # names in an error message
_COMPRESSED = 15  # miCOMPRESSED, a data type of .mat files


@dataclass(frozen=True)
class _Source:
    """An image of the split and its source mask: a PNG of VOC or a .mat file of SBD."""

    image: Path
    mask: Path


def make_trainaug(voc: Path, sbd: Path, published: Mapping[str, int] = PUBLISHED) -> Path:
    """Write SegmentationClassAug/*.png, then, if all masks are right, the list trainaug.txt.

    Keeps existing masks with the same ids, so an interrupted run continues where it stopped.

    Args:
        voc: VOC2012, or a folder that contains it or VOCdevkit/VOC2012.
        sbd: the folder of cls, train.txt and val.txt, or one that contains it as `dataset` or
            `benchmark_RELEASE/dataset`.
        published: required number of names in each list, with the keys of PUBLISHED.

    Returns:
        The path of trainaug.txt.

    Raises:
        UserError: unknown tree; lists of other lengths; missing, damaged or wrong images or masks;
            too little disk space.
    """
    lists = Path("ImageSets", "Segmentation")
    voc_parts = ("JPEGImages", "SegmentationClass", f"{lists}/train.txt", f"{lists}/val.txt")
    voc = _tree("--voc", voc, ("", "VOC2012", "VOCdevkit/VOC2012"), voc_parts)
    sbd_parts = ("cls", "train.txt", "val.txt")
    sbd = _tree("--sbd", sbd, ("", "dataset", "benchmark_RELEASE/dataset"), sbd_parts)
    with_voc_mask, stems = _read_lists(voc / lists, sbd, published)
    sources = {
        stem: _Source(
            voc / "JPEGImages" / f"{stem}.jpg",
            voc / "SegmentationClass" / f"{stem}.png"
            if stem in with_voc_mask
            else sbd / "cls" / f"{stem}.mat",
        )
        for stem in stems
    }
    _require_files(
        (s.image for s in sources.values()), "VOC 2012's JPEGImages contains all of SBD's"
    )
    _require_files((s.mask for s in sources.values()), "every name in a list has a mask")
    _make_masks(sources, voc / "SegmentationClassAug")
    target = voc / lists / "trainaug.txt"
    with atomic_write(target) as temporary:
        temporary.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    console.print(f"{target}: {len(stems)} images, none of them in val")
    return target


def read_sbd(path: Path) -> np.ndarray:
    """Read (H, W) uint8 class ids from a cls/*.mat file of SBD: the field GTcls.Segmentation.

    Raises:
        UserError: the file is damaged, has another structure, or has ids that aren't VOC classes.
    """
    try:
        content = path.read_bytes()
        _check_compressed(content)
        ids = loadmat(io.BytesIO(content))["GTcls"][0]["Segmentation"][0]
        wrong = ids.ndim != 2 or ids.dtype != np.uint8
    except Exception as error:  # damaged or foreign files fail in many ways
        raise UserError(
            f"{path}: damaged, or not from SBD's cls folder ({type(error).__name__}: {error}); "
            "expected a struct GTcls with a field Segmentation. Unpack SBD again."
        ) from error
    if wrong:
        raise UserError(
            f"{path}: GTcls.Segmentation is {ids.dtype} of shape {ids.shape}, expected uint8 of "
            "(height, width). Unpack SBD again."
        )
    unknown = np.unique(ids[ids >= len(VOC)])
    if unknown.size:
        raise UserError(
            f"{path}: contains the ids {join_first(unknown, SHOWN)}, expected 0 to "
            f"{len(VOC) - 1}, since SBD has no void. Unpack SBD again."
        )
    return ids


def _check_compressed(content: bytes) -> None:
    """Raise zlib.error or struct.error if a .mat file is damaged.

    scipy doesn't verify the zlib checksums, and damage can crash it. Format: MathWorks, "MAT-File
    Format", level 5: after 128 bytes, elements of a data type, a size and that many bytes.
    """
    order = "<" if content[126:128] == b"IM" else ">"
    offset = 128
    while offset < len(content):
        data_type, size = struct.unpack_from(f"{order}II", content, offset)
        if data_type == _COMPRESSED:
            zlib.decompress(content[offset + 8 : offset + 8 + size])
        offset += 8 + size


def _tree(option: str, given: Path, below: tuple[str, ...], parts: tuple[str, ...]) -> Path:
    """The folder that contains all of `parts`: the given one, or one of those below it."""
    folders = [given.expanduser() / b for b in below]
    missing = {f: [part for part in parts if not (f / part).exists()] for f in folders}
    best = min(folders, key=lambda folder: len(missing[folder]))
    if not missing[best]:
        return best
    found = "no such folder"
    if best.is_dir():
        names = sorted(p.name for p in best.iterdir())
        found = f"found {join_first(names, SHOWN) or 'an empty folder'}"
    raise UserError(
        f"{option} {given}: {best} lacks {', '.join(missing[best])} ({found}). Expected a folder "
        f"with {', '.join(parts)}, or one that contains it as {' or '.join(below[1:])}; see "
        "data/README.md."
    )


def _read_lists(voc: Path, sbd: Path, published: Mapping[str, int]) -> tuple[set[str], list[str]]:
    """The names that have a VOC mask, and all names of the split, sorted."""
    files = {f"VOC {s}": voc / f"{s}.txt" for s in ("train", "val")}
    files |= {f"SBD {s}": sbd / f"{s}.txt" for s in ("train", "val")}
    names = {key: {stem for _, stem in read_list(file)} for key, file in files.items()}
    union = names["VOC train"] | names["SBD train"] | names["SBD val"]
    names["trainaug"] = union - names["VOC val"]
    counts = {key: len(listed) for key, listed in names.items()}
    if counts != published:
        found = ", ".join(f"{n} in {key} (of {published[key]})" for key, n in counts.items())
        raise UserError(
            f"the lists of {voc} and {sbd} don't give the published split, (VOC train + SBD train "
            f"+ SBD val) - VOC val: found {found}. Download those that differ again."
        )
    return names["VOC train"], sorted(names["trainaug"])


def _require_files(paths: Iterable[Path], why: str) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        names = join_first((path.name for path in missing), SHOWN)
        raise UserError(
            f"{missing[0].parent}: {len(missing)} files of the split are missing ({names}). "
            f"Unpack the archive again: {why}."
        )


def _make_masks(sources: Mapping[str, _Source], folder: Path) -> None:
    """Write the masks that are missing or differ.

    Raises:
        UserError: names the first masks that can't be made, after all others are written.
    """
    targets = [folder / f"{stem}.png" for stem in sources]
    new = sum(not target.exists() for target in targets)
    require_space(folder, new * BYTES_PER_MASK, f"{new} masks")
    outcomes: Counter[str] = Counter()
    problems: list[str] = []
    with warnings.catch_warnings(), progress_bar() as bar, ThreadPoolExecutor() as pool:
        # scipy warns of a damaged file and returns text instead, which read_sbd reports.
        warnings.simplefilter("ignore")
        results = pool.map(_make_mask, sources.values(), targets)
        for outcome in bar.track(results, total=len(targets), description="masks"):
            if isinstance(outcome, UserError):
                problems.append(str(outcome))
            else:
                outcomes[outcome] += 1
    summary = ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items()))
    if problems:
        raise UserError(
            f"{len(problems)} of {len(targets)} masks can't be made, so trainaug.txt was not "
            f"written ({summary or 'no other masks'})\n" + first_lines(problems, SHOWN)
        )
    console.print(f"{folder}: {summary}")


def _make_mask(source: _Source, target: Path) -> str | UserError:
    """Write a mask unless it exists; returns the outcome, or the error that prevented it."""
    try:
        size = read_header(source.image).size
        if source.mask.suffix == ".png":
            ids = read_mask(source.mask, VOC, size)
        else:
            ids = read_sbd(source.mask)
        if ids.shape != size:
            return size_mismatch_error(source.mask, ids.shape, size)
        existed = target.exists()
        if existed and _contains(target, ids):
            return "already written"
        write_mask(target, ids, VOC, palette=True)
        return "different and replaced" if existed else "written"
    except UserError as error:
        return error


def _contains(path: Path, ids: np.ndarray) -> bool:
    try:
        return np.array_equal(read_mask_values(path), ids)
    except UserError:  # damaged or foreign, to be replaced
        return False
