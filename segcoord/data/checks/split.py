"""Check one split: every sample, its class statistics, and what only the whole split shows."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from segcoord.config.schema import DataConfig
from segcoord.data.checks.findings import MAX_LISTED, Finding, only_errors
from segcoord.data.color_table import Color
from segcoord.data.file_pattern import SEE_README
from segcoord.data.inspection import SampleCheck, inspect_sample
from segcoord.data.labels import VOID, LabelSet
from segcoord.data.layouts import find_patterns
from segcoord.data.mask_diagnosis import binary_remedy
from segcoord.data.mask_palette import mixed_palettes_error
from segcoord.data.orientation import Exif
from segcoord.data.split import Sample, Split
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError
from segcoord.utils.text import first_lines, join_first


@dataclass
class SplitCheck:
    """Contents of a split; findings are in sample order, then those about the whole split."""

    pixels: np.ndarray  # (K,) int64, labeled pixels of each class
    images: np.ndarray  # (K,) int64, images in which the class occurs
    pixels_where_present: np.ndarray  # (K,) int64, labeled pixels of any class in these images
    void: int = 0  # pixels
    values: set[int | Color] = field(default_factory=set)  # as in `MaskCounts`; empty with a pack
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # images by (width, height)
    digests: list[bytes | None] = field(default_factory=list)  # as in SampleCheck, if requested
    difference_hashes: list[bytes | None] = field(default_factory=list)  # like digests
    findings: list[Finding] = field(default_factory=list)
    usable: list[bool] = field(default_factory=list)  # whether each sample has no errors
    _present: list[bytes] = field(default_factory=list)  # for `present`, 8 classes in a byte

    @property
    def unusable(self) -> int:
        """Number of samples with errors."""
        return self.usable.count(False)

    @property
    def present(self) -> np.ndarray:
        """(N, K) bool, whether a class occurs in a sample."""
        packed = np.frombuffer(b"".join(self._present), np.uint8).reshape(len(self._present), -1)
        return np.unpackbits(packed, axis=1, count=len(self.pixels)).astype(bool)

    def add(self, sample: Sample, check: SampleCheck, split: str, exif: Exif) -> None:
        """Count a sample of the named split, and note its findings; `exif` as in `Split`."""
        counts = check.counts[: len(self.pixels)]
        self.pixels += counts
        self.images += counts > 0
        self._present.append(np.packbits(counts > 0).tobytes())
        self.pixels_where_present += np.where(counts > 0, counts.sum(), 0)
        self.void += int(check.counts[VOID])
        self.values.update(check.values)
        if check.size is not None:
            self.sizes[check.size[::-1]] += 1
        self.findings += [Finding.from_error(error, split) for error in check.errors]
        self.usable.append(not check.errors)
        if check.transparent:
            self.findings.append(_transparent(sample, split))
        if check.orientation != 1 and exif == "ignore":
            self.findings.append(_exif_orientation(sample, check.orientation, split))
        if check.counts[VOID] and not counts.any():
            self.findings.append(_only_void(sample, split))


def check_split(
    split: Split,
    on_progress: Callable[[int], None] = lambda done: None,
    decode_images: bool = False,
) -> SplitCheck:
    """Check the header and the end of every image, and decode every mask.

    With a pack only the masks are read; the rest was checked when the pack was written.
    `on_progress` is called with the number of samples done, `decode_images` is as in
    `inspect_split`.

    Raises:
        UserError: lists the first unusable files and their number; or only the first class occurs.
    """
    check = inspect_split(split, on_progress, decode_images)
    errors = only_errors(check.findings)
    if check.unusable:
        summary = f"split {split.name!r}: {check.unusable} of {len(split)} samples can't be used"
        in_files = [e for e in errors if e.path is not None]
        raise UserError(f"{summary}\n{first_lines(in_files, MAX_LISTED)}")
    if errors:
        raise UserError(first_lines(errors, MAX_LISTED))
    return check


def inspect_split(
    split: Split,
    on_progress: Callable[[int], None] = lambda done: None,
    decode_images: bool = False,
) -> SplitCheck:
    """Check a split as `check_split` does, but collect all errors instead of raising.

    With `decode_images`, for a split without a pack, every image is decoded and digested too.
    """
    check = SplitCheck(*np.zeros((3, len(split.labels)), np.int64))
    index_of_zero = int(split.labels.to_index[0])
    binary: list[Sample] = []  # samples with only mask value 0 and void
    by: dict[str | None, Sample] = {}  # the first palette mask of each way of reading
    inspect = partial(inspect_sample, split, decode_image=decode_images)
    # Decoding, digests and checksums release the GIL, so threads use every core.
    with ThreadPoolExecutor(available_cores()) as pool:
        results = pool.map(inspect, range(len(split)))
        for done, (sample, result) in enumerate(zip(split.samples, results), 1):
            on_progress(done)
            check.add(sample, result, split.name, split.exif)
            by.setdefault(result.palette_by, sample)
            if decode_images:
                check.digests.append(result.digest)
                check.difference_hashes.append(result.difference_hash)
            if np.flatnonzero(result.counts).tolist() == [index_of_zero, VOID]:
                binary.append(sample)
    if len(split.labels) > 1 and np.flatnonzero(check.images).tolist() == [0]:
        check.findings.append(_only_first_class(split, check.void))
    elif np.count_nonzero(check.images) > 1:
        check.findings += [_only_zero_and_void(sample, split) for sample in binary]
    if "color" in by and "index" in by:
        error = mixed_palettes_error(by["color"].mask, by["index"].mask)
        check.findings.append(Finding.from_error(error, split.name))
    if split.labels.binary:
        foreground = [
            v for v in check.values if isinstance(v, tuple) or split.labels.to_index[v] == 1
        ]
        if len(foreground) > 1:
            check.findings.append(_several_foreground_values(split, foreground))
    return check


def _exif_orientation(sample: Sample, orientation: int, split: str) -> Finding:
    kind = "images with an EXIF orientation"
    found = f"has EXIF orientation {orientation}, which training ignores: it uses stored pixels."
    remedy = (
        "Correct if the mask was drawn on the stored pixels, wrong if it was drawn on the image as "
        "viewers show it; data.exif: turn then applies the orientation."
    )
    return Finding("warning", kind, split, found, remedy, str(sample.image))


def _transparent(sample: Sample, split: str) -> Finding:
    kind = "images with transparent pixels"
    found = "has transparent pixels, which become white in training, evaluation and prediction."
    remedy = (
        "Correct if viewers show the image as it should be; if the fourth channel is no "
        "transparency, save the image without it."
    )
    return Finding("warning", kind, split, found, remedy, str(sample.image))


def _only_void(sample: Sample, split: str) -> Finding:
    found = "every pixel of this mask is void."
    remedy = "Remove such images from the split: they cost time and train nothing."
    return Finding("warning", "masks with only void", split, found, remedy, str(sample.mask))


def _only_first_class(split: Split, void: int) -> Finding:
    first = split.labels.classes[0]
    found = f"the masks of split {split.name!r} contain only {first.name!r}"
    remedy = (
        f"Find out where the other ids were lost: every pixel is {first.id}. With "
        "data.val_fraction, another data.split_seed takes other samples."
    )
    if void:
        found += " and void"
        remedy = _void_remedy(split.labels)
    return Finding("error", "only the first class occurs", split.name, f"{found}.", remedy)


def _only_zero_and_void(sample: Sample, split: Split) -> Finding:
    kind = "masks with only 0 and void"
    name = split.labels.names[split.labels.to_index[0]]
    found = f"contains only {name!r} and void, unlike other masks of split {split.name!r}."
    remedy = _void_remedy(split.labels)
    return Finding("warning", kind, split.name, found, remedy, str(sample.mask))


def _void_remedy(labels: LabelSet) -> str:
    """What to do if a void value marks a class."""
    if labels.binary:
        return f"If {labels.names[1]!r} is marked with a value in data.void_ids, remove it there."
    chosen = [v for v in labels.void_ids if v != VOID]
    if chosen:
        return (
            f"data.void_ids makes {join_first(chosen, 8)} void. If such a value marks a "
            "class, such as 0 the background, list the class with this id in data.classes, and "
            "remove the value from data.void_ids."
        )
    return f"For 0/255 binary masks: {binary_remedy(VOID)}"


def _several_foreground_values(split: Split, values: list[int | Color]) -> Finding:
    kind = "several foreground values"
    values = sorted(values, key=lambda v: v if isinstance(v, tuple) else (v,))
    found = (
        f"the masks of split {split.name!r} hold the values {join_first(values, 8)}, which all "
        f"count as {split.labels.names[1]!r}."
    )
    remedy = (
        "If some of them are void, set data.void_ids, for example [255]; if they are several "
        "classes, list each in data.classes with its id or color; if these are no masks, correct "
        "data.masks."
    )
    return Finding("warning", kind, split.name, found, remedy)


def equal_colors(labels: LabelSet) -> list[Finding]:
    """A warning for each class with the color of an earlier one."""
    kind, remedy = "classes with the same color", "Give each class a color of its own."
    first: dict[tuple[int, int, int], str] = {}
    findings = []
    for c in labels.classes:
        if first.setdefault(c.color, c.name) != c.name:
            found = (
                f"data.classes: {c.name!r} has the color of {first[c.color]!r}, {list(c.color)}."
            )
            findings.append(Finding("warning", kind, "all splits", found, remedy))
    return findings


def missing_labels(split: Split, check: SplitCheck, data: DataConfig) -> list[Finding]:
    """An error if no pixel of a split is labeled."""
    if check.pixels.any() or check.unusable:  # an unreadable mask may have labels
        return []
    masks = "only void in its masks" if split.labelled else "no masks"
    found = f"split {split.name!r} of {data.root} has {masks}; training and evaluation need labels."
    remedy = SEE_README
    if not split.labelled:
        for patterns in find_patterns(data, split.name):
            remedy = patterns.remedy() or remedy
            if not patterns.masks.folder.is_dir():
                found = f"{found[:-1]}, but {patterns.masks.folder} (data.masks) is no folder."
                break
    return [Finding("error", "splits without labels", split.name, found, remedy)]


def only_class(split: Split, check: SplitCheck) -> list[Finding]:
    """An error if a training split has labels of one class only, which is not the first one."""
    present = np.flatnonzero(check.images)
    if len(split.labels) < 2 or len(present) != 1 or present[0] == 0 or check.unusable:
        return []
    name = split.labels.names[present[0]]
    void = " and void" if check.void else ""
    found = f"the masks of split {split.name!r} contain only {name!r}{void}."
    remedy = "A model that always predicts it scores 100 %. Find out where the others were lost: "
    remedy += "is the value of one, such as 0 for background, in data.void_ids?"
    return [Finding("error", "only one class occurs", split.name, found, remedy)]


def absent_classes(split: Split, check: SplitCheck) -> list[Finding]:
    """A warning for each class that occurs in no mask."""
    if not split.labelled or check.unusable:
        return []
    names = [split.labels.names[index] for index in np.flatnonzero(check.images == 0)]
    found = [f"class {name!r} occurs in no mask of split {split.name!r}." for name in names]
    remedy = "It can't be learned from this split, and is excluded from scores on it."
    return [Finding("warning", "classes that never occur", split.name, f, remedy) for f in found]


def duplicate_images(split: Split, check: SplitCheck) -> list[Finding]:
    """A warning for each image with the pixels of an earlier one; needs decoded images."""
    kind = "duplicate images in a split"
    remedy = "Remove one of the two; if their masks differ, find out which one is correct."
    first: dict[bytes, Sample] = {}
    findings = []
    for sample, digest in zip(split.samples, check.digests):
        if digest is not None and first.setdefault(digest, sample) is not sample:
            found = f"has the same pixels as {first[digest].image}."
            path = str(sample.image)
            findings.append(Finding("warning", kind, split.name, found, remedy, path))
    return findings
