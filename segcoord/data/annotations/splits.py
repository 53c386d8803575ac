"""The splits of an imported dataset: those of the export, or made by fractions."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from segcoord.utils.errors import UserError

PARTS = ("train", "val", "test")
DEFAULT = (0.8, 0.2)
_SYNONYMS = (
    (re.compile(r"train(ing)?[-_ ]*\d*", re.IGNORECASE), "train"),
    (re.compile(r"val(id|idation)?[-_ ]*\d*", re.IGNORECASE), "val"),
    (re.compile(r"test(ing)?[-_ ]*\d*", re.IGNORECASE), "test"),
)


def parse_fractions(text: str) -> tuple[float, ...]:
    """--split as fractions of train, val and, if there are three, test.

    Raises:
        UserError: not two or three numbers above 0 whose sum is 1.
    """
    try:
        fractions = tuple(float(part) for part in text.split(","))
    except ValueError:
        fractions = ()
    ok = len(fractions) in (2, 3) and all(0 < f < 1 for f in fractions)
    if not ok or abs(sum(fractions) - 1) > 1e-6:
        raise UserError(
            f"--split: found {text!r}, expected the fractions of train, val and test, whose sum is "
            "1, for example 0.8,0.1,0.1, or of train and val, 0.8,0.2"
        )
    return fractions


def make_splits(
    names: Sequence[str],
    given: Sequence[str | None],
    presence: np.ndarray,
    digests: np.ndarray,
    fractions: Sequence[float] | None,
    group: str | None,
) -> tuple[dict[str, list[str]], str]:
    """Divide the images into splits.

    Args:
        names: of the images.
        given: split of each image in the export, or None.
        presence: (N, K) bool, the classes of each image.
        digests: (N, D) uint8; images with the same one are in the same split.
        fractions: of train, val and test; None for the splits of the export, and 0.8 and 0.2 where
            it has none.
        group: pattern of what stays together, for fractions.

    Returns:
        The names of each split, in the order of `names`, and how they were made.

    Raises:
        UserError: a bad pattern, too few images.
    """
    splits = [normalize(split) for split in given]
    counts = Counter(split for split in splits if split)
    if fractions is None and {"train", "val"} <= counts.keys():
        return _as_given(names, splits)
    made = fractions or DEFAULT
    fixed = {}
    chosen = list(range(len(names)))
    how = f"made by {' and '.join(f'{f:g}' for f in made)}"
    if fractions is None and "train" in counts and len(counts) > 1:
        chosen = [i for i in chosen if splits[i] in ("train", None)]
        rest = [i for i in range(len(names)) if splits[i] not in ("train", None)]
        fixed = _collect(names, splits, rest)
        how = f"train of the export divided by {' and '.join(f'{f:g}' for f in made)}"
    if len(chosen) < len(made):
        raise UserError(
            f"found {len(chosen)} image{'s' * (len(chosen) != 1)} to divide into "
            f"{' and '.join(PARTS[: len(made)])}, expected at least {len(made)}. Import more "
            "images, or use --unannotated keep if images without annotation show only background."
        )
    from segcoord.data.grouped_split import split_names

    contents = [digest.tobytes() for digest in digests[chosen]]
    parts = split_names(
        [names[i] for i in chosen], presence[chosen], made, group=group, contents=contents
    )
    result: dict[str, list[str]] = {part: [] for part in PARTS[: len(made)]}
    for i, part in zip(chosen, parts):
        result[PARTS[part]].append(names[i])
    if group is not None:
        how += f", images with the same {group!r} together"
    return result | fixed, how


def check_group(
    given: Sequence[str | None], fractions: Sequence[float] | None, group: str | None
) -> None:
    """Check the names of the splits, before the images are converted.

    Raises:
        UserError: a name that can't be that of a list; a group with the splits of the export.
    """
    splits = {normalize(split) for split in {*given}}
    if group is not None and fractions is None and {"train", "val"} <= splits:
        raise UserError(
            f"--group: found {group!r}, but the splits are those of the export; expected --split "
            "with it, for example --split 0.8,0.2, to make new ones"
        )


def normalize(split: str | None) -> str | None:
    """The name of a split that segcoord uses: "Validation" and "val2017" are val.

    Raises:
        UserError: a name that can't be that of a list.
    """
    if not split:
        return None
    for pattern, name in _SYNONYMS:
        if pattern.fullmatch(split):
            return name
    if re.search(r"[/\\\0+]", split) or split in (".", ".."):
        raise UserError(f"split {split!r}: expected a name without / and +; rename it in the tool")
    return split


def _as_given(
    names: Sequence[str], splits: Sequence[str | None]
) -> tuple[dict[str, list[str]], str]:
    """The splits of the export; images without one go to train."""
    without = sum(split is None for split in splits)
    how = "those of the export"
    if without:
        how += f"; {without} images without a split are in train"
    everything = range(len(names))
    return _collect(names, [split or "train" for split in splits], everything), how


def _collect(
    names: Sequence[str], splits: Sequence[str | None], which: Sequence[int]
) -> dict[str, list[str]]:
    order = {part: i for i, part in enumerate(PARTS)}
    found: dict[str, list[str]] = {}
    for i in which:
        found.setdefault(splits[i], []).append(names[i])
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))
