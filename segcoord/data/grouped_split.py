"""Divide the images of a dataset into parts, stratified by class, without dividing a group.

Iterative stratification: Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label
Data", ECML PKDD 2011, here over groups of images, and with limits for the sizes of the parts.
"""

import hashlib
import os
import re
from collections.abc import Sequence

import numpy as np

from segcoord.data.file_pattern import nfc
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

_TOLERANCE = 1e-6  # of the sum of the fractions


def split_names(
    names: Sequence[str],
    presence: np.ndarray,
    fractions: Sequence[float],
    seed: int = 0,
    group: str | None = None,
    contents: Sequence[bytes | None] = (),
) -> list[int]:
    """Assign each image to a part.

    The images of a group stay together, and the classes have about the same share of images in
    each part. The result doesn't depend on the order of the names, and is the same on every
    machine.

    With G images in the largest group, no part exceeds its fraction of the images by G or more, and
    none falls short of it by more than G; or by more than S times G if the fractions of S parts are
    at most G images, because each of these needs a group too. No part is empty.

    Args:
        names: of the images, each once.
        presence: (N, K) bool, whether a class occurs in an image.
        fractions: size of each part, as a fraction of all images; their sum is 1.
        seed: another seed makes another split.
        group: regular expression that finds the group in a name, as in `group_names`.
        contents: digest of each image; images with the same digest are in the same part. None for
            an unknown one; empty to compare no digests.

    Returns:
        The index of its fraction for each name.

    Raises:
        UserError: invalid fractions; an invalid pattern, or one that a name doesn't match; fewer
            groups than fractions.
    """
    check_fractions(fractions)
    groups = group_names(names, len(fractions), group, contents)
    digests = {key: hashlib.sha256(os.fsencode(f"{seed}/{key}")).digest() for key in {*groups}}
    order = sorted(digests, key=lambda key: (digests[key], key))
    position = {key: index for index, key in enumerate(order)}
    group_of = np.array([position[key] for key in groups])
    counts = np.zeros((len(order), presence.shape[1]), np.int32)
    np.add.at(counts, group_of, presence)
    placement = _Placement(
        np.bincount(group_of),
        counts,
        np.array(fractions) / sum(fractions),
        [digests[key] for key in order],
    )
    return placement.run()[group_of].tolist()


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise UserError unless there are two fractions or more, above 0 and with the sum 1."""
    total = sum(fractions)
    if len(fractions) > 1 and min(fractions) > 0 and abs(total - 1) <= _TOLERANCE:
        return
    found = ", ".join(f"{fraction:g}" for fraction in fractions) or "none"
    raise UserError(
        f"fractions: found {found}, whose sum is {total:g}; expected two or more numbers above 0 "
        "whose sum is 1, for example 0.8, 0.1, 0.1"
    )


def group_names(
    names: Sequence[str],
    parts: int,
    group: str | None = None,
    contents: Sequence[bytes | None] = (),
) -> list[str]:
    """The group of each image; each is a group of its own without a pattern.

    Args:
        names: of the images, each once.
        parts: smallest number of groups.
        group: regular expression, searched in each name. Its first parenthesis is the group, or
            the whole match without one.
        contents: digests as in `split_names`; groups that share one become a single group.

    Raises:
        UserError: an invalid pattern, or one that a name doesn't match; fewer groups than parts.
    """
    keys = [nfc(name) for name in names]
    if group is not None:
        keys = _matches(keys, group)
    keys = _merge(keys, contents)
    found = sorted({*keys})
    if len(found) < parts:
        raise _too_few_error(found, parts, group, bool(contents))
    return keys


def _too_few_error(found: Sequence[str], parts: int, group: str | None, merged: bool) -> UserError:
    what = "images" if group is None else f"groups by the pattern {group!r}"
    if merged:
        what += " (images with the same pixels are in one group)"
    other = "" if group is None else ", or another pattern"
    return UserError(
        f"{what}: found {len(found)} ({join_first(found, 8)}), expected at least {parts}, one for "
        f"each part. Give fewer fractions{other}."
    )


def _matches(names: Sequence[str], group: str) -> list[str]:
    try:
        pattern = re.compile(group)
    except (re.error, OverflowError, RecursionError) as error:
        position = getattr(error, "pos", None)
        where = "" if position is None else f", wrong at character {position + 1}"
        raise UserError(
            f"group pattern: found {group!r}{where}; expected a regular expression, for example "
            r"(seq\d+)"
        ) from None
    matches = map(pattern.search, names)
    first = 1 if pattern.groups else 0
    found = [match[first] if match else None for match in matches]
    missing = [name for name, text in zip(names, found) if not text]
    if missing:
        raise UserError(
            f"group pattern: {group!r} finds no group in {len(missing)} of {len(names)} names: "
            f"{join_first(map(repr, missing), 3)}. Each image needs a group: change the pattern. "
            "It is searched in the path of the image below its folder, without suffix."
        )
    return found


def _merge(keys: Sequence[str], contents: Sequence[bytes | None]) -> list[str]:
    """Replace the key of each image by the first one of all groups that are linked by contents."""
    parent = {key: key for key in keys}

    def first(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    key_of: dict[bytes, str] = {}
    for key, content in zip(keys, contents):
        if content is not None:
            low, high = sorted((first(key), first(key_of.setdefault(content, key))))
            parent[high] = low
    return [first(key) for key in keys]


class _Placement:
    """Places groups in parts, one after the other.

    A group goes to a part in which it fits, or else to the part with the most room. Of several in
    which it fits, it goes to the one that lacks most images of the group's rarest class. That
    bounds the sizes: while a part has room for the largest group, every group fits somewhere, so no
    part is exceeded.

    Args:
        sizes: (G,) number of images of each group.
        counts: (G, K) number of images of each group that contain a class.
        fractions: (M,) of the parts.
        digests: of each group, which decide between equal parts.
    """

    def __init__(
        self,
        sizes: np.ndarray,
        counts: np.ndarray,
        fractions: np.ndarray,
        digests: Sequence[bytes],
    ) -> None:
        self.sizes, self.counts, self.digests = sizes, counts, digests
        self.left = counts.sum(0, dtype=np.int64)  # images with each class in unplaced groups
        self.targets = fractions * sizes.sum()
        self.wanted = self.left[:, None] * fractions
        self.placed = np.zeros(len(fractions), np.int64)
        self.placed_counts = np.zeros((len(self.left), len(fractions)), np.int64)
        self.part = np.full(len(sizes), -1)
        self.unplaced = len(sizes)

    def run(self) -> np.ndarray:
        """Return (G,) the part of each group."""
        # Small groups could take the place of one that fits only one part.
        large = np.flatnonzero(self.sizes > max(1, self.targets.min()))
        self._place(large[np.argsort(-self.sizes[large], kind="stable")])
        while self.left.any():
            rarest = np.where(self.left > 0, self.left, self.left.max() + 1).argmin()
            self._place(np.flatnonzero((self.part < 0) & (self.counts[:, rarest] > 0)))
        self._place(np.flatnonzero(self.part < 0))
        return self.part

    def _place(self, groups: np.ndarray) -> None:
        for group in groups:
            part = self._choose(group)
            self.part[group] = part
            self.placed[part] += self.sizes[group]
            self.placed_counts[:, part] += self.counts[group]
            self.left -= self.counts[group]
            self.unplaced -= 1

    def _choose(self, group: int) -> int:
        size, digest = self.sizes[group], self.digests[group]
        room = lacking = (self.targets - self.placed).tolist()
        present = np.flatnonzero(self.counts[group])
        if len(present):
            rarest = present[self.left[present].argmin()]
            lacking = (self.wanted[rarest] - self.placed_counts[rarest]).tolist()
        parts = [*range(len(room))]
        empty = [part for part in parts if not self.placed[part]]
        if self.unplaced <= len(empty):  # one for each
            parts = empty
        fitting = [part for part in parts if room[part] >= size]
        first, second = (lacking, room) if fitting else (room, lacking)
        return max(
            fitting or parts,
            key=lambda part: (first[part], second[part], digest[part % len(digest)]),
        )
