"""What shows only when whole splits are looked at, and compared with each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segcoord.data.checks.findings import Finding
from segcoord.data.checks.split import SplitCheck
from segcoord.data.split import Sample, Split

_NO_SCORE = "A score on images that were trained on is no score: take them out of one split."


def check_across_splits(
    splits: Sequence[Split], checks: Sequence[SplitCheck], root: str, need_labels: bool = True
) -> list[Finding]:
    """The findings about the training and the validation split.

    Args:
        splits: the two, or one of them where the other could not be listed, or is the same.
        checks: of each; duplicates are looked for where they have digests.
        root: of the dataset, for the messages.
        need_labels: False for a split that is only predicted.
    """
    findings = []
    for split, check in zip(splits, checks):
        missing = labels_missing(split, check, root)
        findings += missing if need_labels else []
        findings += [] if missing else absent_classes(split, check)
        findings += duplicates(split, check.digests)
    if len(splits) == 2:
        findings += overlap(*splits)
        findings += same_pixels(*splits, *(check.digests for check in checks))
    return findings


def labels_missing(split: Split, check: SplitCheck, root: str) -> list[Finding]:
    """An error where no pixel of a split counts."""
    if check.pixels.any() or check.bad:  # a mask that can't be read may have labels
        return []
    found = "only void in its masks" if split.labelled else "no masks"
    return [
        Finding(
            "error",
            "a split without labels",
            split.name,
            f"split {split.name!r} of {root} has {found}, to train on or to score;",
            "see data/README.md for the folder where they belong",
        )
    ]


def absent_classes(split: Split, check: SplitCheck) -> list[Finding]:
    """A warning for each class that no mask has."""
    return [
        Finding(
            "warning",
            "classes that never occur",
            split.name,
            f"class {split.labels.names[index]!r} is in no mask of split {split.name!r}.",
            "It can't be learnt from such a split, and is left out of a score on it.",
        )
        for index in np.flatnonzero(check.images == 0)
        if split.labelled and not check.bad
    ]


def overlap(train: Split, val: Split) -> list[Finding]:
    """Files that are in both splits; an error unless their names say that it is meant so."""
    others = {sample.stem: index for index, sample in enumerate(train.samples)}
    both = [
        s for s in val.samples if s.stem in others and _same_file(s, train.samples[others[s.stem]])
    ]
    meant = train.name in (val.name, "trainval")  # VOC's trainval is train and val
    return [
        Finding(
            "warning" if meant else "error",
            "images in both splits",
            f"{train.name} and {val.name}",
            f"is in split {train.name!r} and in {val.name!r}.",
            _NO_SCORE,
            str(sample.image),
        )
        for sample in both
    ]


def duplicates(split: Split, digests: Sequence[bytes | None]) -> list[Finding]:
    """A warning for each image whose pixels an earlier one of its split has."""
    first: dict[bytes, Sample] = {}
    findings = []
    for sample, digest in zip(split.samples, digests):
        if digest is None:
            continue
        if first.setdefault(digest, sample) is not sample:
            findings.append(
                Finding(
                    "warning",
                    "the same picture twice in a split",
                    split.name,
                    f"has the same pixels as {first[digest].image}.",
                    "Remove one; if their masks differ, find out which is right.",
                    str(sample.image),
                )
            )
    return findings


def same_pixels(
    train: Split,
    val: Split,
    train_digests: Sequence[bytes | None],
    val_digests: Sequence[bytes | None],
) -> list[Finding]:
    """Different files of the two splits: with the same pixels, or at least the same name."""
    by_digest = {d: s for s, d in zip(train.samples, train_digests) if d is not None}
    by_stem = {s.stem: s for s in train.samples}
    names = f"{train.name} and {val.name}"
    findings = []
    for sample, digest in zip(val.samples, val_digests):
        twin, namesake = by_digest.get(digest), by_stem.get(sample.stem)
        if namesake is not None and _same_file(sample, namesake):
            continue  # told by `overlap`
        if twin is not None:
            found = f"has the same pixels as {twin.image} of split {train.name!r}."
            kind = "the same picture in both splits"
            findings.append(Finding("error", kind, names, found, _NO_SCORE, str(sample.image)))
        elif namesake is not None and digest is not None:
            found = f"has other pixels than {namesake.image}, which has its name."
            remedy = "Fine where each split counts its images anew; else look for copies."
            kind = "the same name in both splits"
            findings.append(Finding("warning", kind, names, found, remedy, str(sample.image)))
    return findings


def _same_file(a: Sample, b: Sample) -> bool:
    try:
        return a.image == b.image or a.image.samefile(b.image)
    except OSError:  # one of them is not there, which the check of its split tells
        return False
