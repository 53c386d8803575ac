"""Find images of different splits that look alike, such as neighboring frames of a video."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from segcoord.data.checks.findings import Finding
from segcoord.data.split import Split

MAX_DISTANCE = 40
"""Bits of two difference hashes that differ, at most; of 256."""
_FLAT = 32  # a hash with fewer bits, or fewer zeros, is mostly that of a flat area
_CHUNK = 2**20  # pairs that are compared at once


def near_neighbor_findings(
    splits: Sequence[Split], hashes: Sequence[Sequence[bytes]]
) -> list[Finding]:
    """A warning for each image that looks like one of an earlier split.

    Args:
        splits: two or more.
        hashes: of the images of each split, as `inspection.difference_hash` makes them.
    """
    kind = "images that look alike in two splits"
    remedy = (
        "If they are neighboring frames or patches, scores are too high: keep them together with "
        "--group."
    )
    words = [_words(each) for each in hashes]
    findings = []
    for (a, split_a), (b, split_b) in combinations(enumerate(splits), 2):
        names = f"{split_a.name} and {split_b.name}"
        for index, other in _near(words[b], words[a]):
            found = f"looks like {split_a.samples[other].image} of split {split_a.name!r}."
            path = str(split_b.samples[index].image)
            findings.append(Finding("warning", kind, names, found, remedy, path))
    return findings


def _words(hashes: Sequence[bytes]) -> np.ndarray:
    """(N, 4) uint64."""
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(len(hashes), -1)


def _near(words: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """The index of each hash that is near another one, and the index of the nearest."""
    ones = np.bitwise_count(words).sum(1)
    candidates = np.flatnonzero((ones >= _FLAT) & (ones <= 64 * words.shape[1] - _FLAT))
    rows = max(1, _CHUNK // len(others))
    found = []
    for start in range(0, len(candidates), rows):
        chunk = candidates[start : start + rows]
        distances = np.zeros((len(chunk), len(others)), np.uint16)
        for a, b in zip(words[chunk].T, others.T):
            distances += np.bitwise_count(a[:, None] ^ b)
        nearest = distances.argmin(1)
        near = distances[np.arange(len(chunk)), nearest] <= MAX_DISTANCE
        found += zip(chunk[near].tolist(), nearest[near].tolist())
    return found
