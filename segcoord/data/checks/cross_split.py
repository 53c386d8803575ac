"""Compare the training with the validation split: shared files, equal pixels, equal names."""

from collections.abc import Sequence
from itertools import zip_longest

from segcoord.data.checks.findings import Finding
from segcoord.data.split import Sample, Split


def cross_split_findings(
    train: Split,
    val: Split,
    train_digests: Sequence[bytes | None],
    val_digests: Sequence[bytes | None],
) -> list[Finding]:
    """Find validation images that are also training images, or share the name of one.

    The digests are those of the decoded images; empty to compare files only.
    """
    by_digest = {d: s for s, d in zip(train.samples, train_digests) if d is not None}
    by_stem = {s.stem: s for s in train.samples}
    intended = train.name in (val.name, "trainval")  # VOC's trainval is train and val
    findings = []
    for sample, digest in zip_longest(val.samples, val_digests):
        duplicate, namesake = by_digest.get(digest), by_stem.get(sample.stem)
        level = "error"
        remedy = "A score on training images is meaningless: remove them from one of the splits."
        if namesake is not None and _same_file(sample, namesake):
            level = "warning" if intended else "error"
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
        names = f"{train.name} and {val.name}"
        findings.append(Finding(level, kind, names, found, remedy, str(sample.image)))
    return findings


def _same_file(a: Sample, b: Sample) -> bool:
    try:
        return a.image == b.image or a.image.samefile(b.image)
    except OSError:  # one of them is missing, which the check of its split reports
        return False
