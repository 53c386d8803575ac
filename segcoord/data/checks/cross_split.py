"""Compare the training with the validation split: shared files, equal pixels, equal names."""

from collections.abc import Sequence
from itertools import zip_longest

from segcoord.config.base import split_parts
from segcoord.data.checks.findings import Finding
from segcoord.data.split import Sample, Split


def cross_split_findings(
    train: Split,
    val: Split,
    train_digests: Sequence[bytes | None],
    val_digests: Sequence[bytes | None],
) -> list[Finding]:
    """Find validation images that are also training images, or share the name of one.

    One warning states how many validation images are trained on if the splits' names say that they
    are: the same split, or a validation split that is joined into the training split.

    The digests are those of the decoded images; empty to compare files only.
    """
    by_digest = {d: s for s, d in zip(train.samples, train_digests) if d is not None}
    by_stem = {s.stem: s for s in train.samples}
    names, train_parts = f"{train.name} and {val.name}", {*split_parts(train.name)}
    # VOC's trainval is train and val.
    intended = train_parts >= {*split_parts(val.name)} or "trainval" in train_parts
    findings, trained_on = [], 0
    for sample, digest in zip_longest(val.samples, val_digests):
        duplicate, namesake = by_digest.get(digest), by_stem.get(sample.stem)
        level = "error"
        remedy = "A score on training images is meaningless: remove them from one of the splits."
        if namesake is not None and _same_file(sample, namesake):
            if intended:
                trained_on += 1
                continue
            kind = "images in both splits"
            found = f"is in both split {train.name!r} and split {val.name!r}."
        elif duplicate is not None:
            kind = "duplicate images across splits"
            found = f"has the same pixels as {duplicate.image} of split {train.name!r}."
        elif namesake is not None and digest is not None:
            level, kind = "warning", "the same name in both splits"
            found = f"has the name of {namesake.image}, but other pixels."
            remedy = "Harmless if each split numbers its images from 1; otherwise look for copies."
        else:
            continue
        findings.append(Finding(level, kind, names, found, remedy, str(sample.image)))
    if trained_on:
        found = (
            f"{trained_on} of {len(val)} validation images are trained on, so scores on them don't "
            "measure generalization."
        )
        findings.append(Finding("warning", "images in both splits", names, found, ""))
    return findings


def _same_file(a: Sample, b: Sample) -> bool:
    try:
        return a.image == b.image or a.image.samefile(b.image)
    except OSError:  # one of them is missing, which the check of its split reports
        return False
