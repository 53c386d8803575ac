"""Splits that are stratified by class and divide no group: their guarantees and their errors."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcoord.data.grouped_split import group_names, split_names
from segcoord.utils.errors import UserError

RANDOM = settings(derandomize=True, deadline=None, max_examples=80)
FRACTIONS = [(0.8, 0.1, 0.1), (0.5, 0.5), (0.7, 0.2, 0.1), (0.9, 0.1), (0.25,) * 4, (1 / 3,) * 3]
DRIVE = r"^(\w+)_"

Dataset = tuple[list[str], np.ndarray, tuple[float, ...]]


@st.composite
def datasets(draw: st.DrawFn, max_group: int = 9) -> Dataset:
    """Names of the form DRIVE_FRAME, which classes they have, and fractions."""
    fractions = draw(st.sampled_from(FRACTIONS))
    sizes = draw(
        st.lists(st.integers(1, max_group), min_size=len(fractions), max_size=30), label="sizes"
    )
    names = [f"d{drive}_{frame}" for drive, size in enumerate(sizes) for frame in range(size)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = draw(st.integers(0, 5))
    presence = rng.random((len(names), classes)) < rng.random(classes) ** 2
    return names, presence, fractions


def sizes_of(parts: Sequence[int], count: int) -> np.ndarray:
    return np.bincount(parts, minlength=count)


@RANDOM
@given(datasets(), st.integers(0, 3))
def test_groups_stay_together_and_sizes_are_near_their_targets(data: Dataset, seed: int) -> None:
    names, presence, fractions = data
    parts = split_names(names, presence, fractions, seed, DRIVE)
    of_drive: dict[str, set[int]] = {}
    for name, part in zip(names, parts):
        of_drive.setdefault(name.partition("_")[0], set()).add(part)
    assert all(len(each) == 1 for each in of_drive.values())
    sizes, targets = sizes_of(parts, len(fractions)), np.array(fractions) * len(names)
    assert sizes.all()
    largest = max(Counter(name.partition("_")[0] for name in names).values())
    small = np.count_nonzero(targets <= largest + 1e-9)
    assert (sizes - targets < largest + 1e-9).all()
    assert (targets - sizes <= max(1, small) * largest + 1e-9).all()


@RANDOM
@given(datasets(), st.integers(0, 3))
def test_sizes_are_within_one_image_without_groups(data: Dataset, seed: int) -> None:
    names, presence, fractions = data
    targets = np.array(fractions) * len(names)
    sizes = sizes_of(split_names(names, presence, fractions, seed), len(fractions))
    small = np.count_nonzero(targets <= 1)
    assert sizes.all()
    assert (abs(sizes - targets) <= max(1, small) + 1e-9).all()


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ([1] * 11, "0110 0110 0110 0010 0100 1010 0010 0010 0010 0010 1100"),
        (
            [2, 2, 2, 3, 2],
            "0100010 0110011 1110001 1110000 0010011 0100001 "
            "0110000 0110011 0110011 1110011 0100011",
        ),
    ],
)
def test_a_group_that_fits_nowhere_goes_where_most_room_is(sizes: list[int], rows: str) -> None:
    """Where the part that lacks most images of its rarest class would become too large."""
    names = [f"d{drive}_{frame}" for drive, size in enumerate(sizes) for frame in range(size)]
    presence = np.array([[value == "1" for value in row] for row in rows.split()])
    parts = split_names(names, presence, (1 / 3,) * 3, 0, DRIVE)
    assert (abs(sizes_of(parts, 3) - 11 / 3) < max(sizes)).all()


@RANDOM
@given(datasets(), st.randoms(use_true_random=False))
def test_order_of_the_names_does_not_matter(data: Dataset, shuffle: random.Random) -> None:
    names, presence, fractions = data
    order = list(range(len(names)))
    shuffle.shuffle(order)
    for group in (None, DRIVE):
        parts = split_names(names, presence, fractions, 1, group)
        shuffled = split_names([names[i] for i in order], presence[order], fractions, 1, group)
        assert shuffled == [parts[i] for i in order]


@RANDOM
@given(datasets(max_group=3), st.data())
def test_images_with_the_same_digest_stay_together(data: Dataset, draw: st.DataObject) -> None:
    names, presence, fractions = data
    digest = st.sampled_from([None, b"a", b"b"])
    digests = draw.draw(st.lists(digest, min_size=len(names), max_size=len(names)))
    try:
        parts = split_names(names, presence, fractions, 0, DRIVE, digests)
    except UserError as error:
        assert "images with the same pixels are in one group" in str(error)
        return
    for value in (b"a", b"b"):
        assert len({part for part, each in zip(parts, digests) if each == value}) <= 1
    drives = {(name.partition("_")[0], part) for name, part in zip(names, parts)}
    assert len(drives) == len({drive for drive, _ in drives})


def photos(count: int = 300) -> tuple[list[str], np.ndarray]:
    """Names, and four classes of which the last is in one image of 20."""
    presence = np.random.default_rng(0).random((count, 4)) < (0.9, 0.5, 0.2, 0.05)
    return [f"{i:03}" for i in range(count)], presence


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.6, 0.4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_classes_are_in_each_part_as_often_as_in_all(
    fractions: tuple[float, ...], seed: int
) -> None:
    names, presence = photos()
    parts = np.array(split_names(names, presence, fractions, seed))
    counts = np.array([presence[parts == part].sum(0) for part in range(len(fractions))])
    wanted = np.outer(fractions, presence.sum(0))
    assert (abs(counts - wanted)[:, -1] <= 1).all()  # the rarest class is divided first
    assert (abs(counts - wanted) <= 3).all()
    order = np.random.default_rng(seed).permutation(len(names))
    bounds = (np.cumsum(fractions) * len(names)).round().astype(int)[:-1]
    by_chance = np.array([presence[each].sum(0) for each in np.split(order, bounds)])
    assert abs(counts - wanted).max() < abs(by_chance - wanted).max()


def test_split_is_the_same_on_every_machine() -> None:
    names, presence = photos(20)
    expected = [0, 1, 1, 1, 2, 0, 2, 1, 0, 0, 1, 0, 0, 0, 0, 2, 1, 0, 0, 2]
    assert split_names(names, presence, (0.5, 0.3, 0.2)) == expected
    expected = [1, 0, 0, 0, 1, 0, 2, 0, 1, 1, 0, 0, 2, 1, 2, 2, 0, 0, 1, 0]
    assert split_names(names, presence, (0.5, 0.3, 0.2), 1) == expected


def test_unicode_forms_of_a_name_make_the_same_split() -> None:
    names, presence = [f"Stra\u00dfe \u00e9{i}" for i in range(20)], np.ones((20, 1), bool)
    decomposed = [unicodedata.normalize("NFD", name) for name in names]
    assert names != decomposed
    fractions = (0.5, 0.5)
    assert split_names(names, presence, fractions) == split_names(decomposed, presence, fractions)


def drives(**sizes: int) -> tuple[list[str], np.ndarray]:
    """Frames of drives; the second class is only in the drive `rare`."""
    names = [f"{drive}_{i}" for drive, size in sizes.items() for i in range(size)]
    return names, np.array([[True, name.startswith("rare")] for name in names])


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_drive_is_for_training(seed: int) -> None:
    """A small drive with a rare class must not take its place."""
    names, presence = drives(rare=62, b=305, c=101)
    parts = split_names(names, presence, (0.8, 0.1, 0.1), seed, DRIVE)
    assert sizes_of(parts, 3)[0] == 305
    assert sorted(sizes_of(parts, 3)) == [62, 101, 305]


def test_every_part_gets_a_group_even_if_its_fraction_is_less_than_an_image() -> None:
    names, presence = photos(20)
    for seed in range(3):
        parts = split_names(names, presence, (0.98, 0.01, 0.01), seed)
        assert sizes_of(parts, 3).tolist() == [18, 1, 1]
    assert sorted(split_names(["a", "b"], np.zeros((2, 1), bool), (0.9, 0.1))) == [0, 1]


def test_another_seed_makes_another_split() -> None:
    names, presence = photos(60)
    made = {tuple(split_names(names, presence, (0.8, 0.2), seed)) for seed in range(5)}
    assert len(made) == 5


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (None, ["seq1/a_01", "seq1/a_02", "seq2/a_01"]),
        (r"(seq\d+)", ["seq1", "seq1", "seq2"]),
        (r"seq\d+", ["seq1", "seq1", "seq2"]),
        (r"seq(\d+)/(\w+)", ["1", "1", "2"]),
        (r"(?:seq)(?P<drive>\d)", ["1", "1", "2"]),
    ],
)
def test_group_is_the_first_parenthesis_or_the_whole_match(
    pattern: str | None, groups: list[str]
) -> None:
    assert group_names(["seq1/a_01", "seq1/a_02", "seq2/a_01"], 2, pattern) == groups


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.8, 0.1), r"fractions: found 0\.8, 0\.1, whose sum is 0\.9; expected two or more"),
        ((0.8, 0.1, 0.2), "whose sum is 1.1"),
        ((1.0,), "found 1, whose sum is 1; expected two or more numbers"),
        ((), "found none"),
        ((1.0, 0.0), "above 0"),
        ((1.5, -0.5), "above 0"),
        ((float("nan"), 0.5), "above 0"),
        ((float("inf"), float("-inf")), "above 0"),
    ],
)
def test_wrong_fractions_are_errors(fractions: tuple[float, ...], message: str) -> None:
    names, presence = photos(10)
    with pytest.raises(UserError, match=message):
        split_names(names, presence, fractions)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(seq\d+", r"group pattern: found '\(seq.*, wrong at character 1; expected a regular"),
        ("a{99999999999999}", "expected a regular expression"),
        (r"(seq\d+)", r"finds no group in 2 of 4 names: 'x', 'y'\. .*change the pattern"),
        (r"(seq)?\w", r"finds no group in 2 of 4 names: 'x', 'y'"),
        ("z*", "finds no group in 4 of 4 names: 'seq1', 'seq2', 'x' and 1 more"),
        (r"()\w", "finds no group in 4 of 4 names"),
        (r"^\w", r"groups by the pattern .*: found 3 \(s, x, y\), expected at least 4, one for"),
    ],
)
def test_wrong_patterns_are_errors(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_names(["seq1", "seq2", "x", "y"], np.ones((4, 1), bool), (0.25,) * 4, 0, pattern)


def test_fewer_images_than_parts_are_an_error() -> None:
    with pytest.raises(UserError, match=r"images: found 2 \(a, b\), expected at least 3, one for"):
        split_names(["a", "b"], np.ones((2, 1), bool), (0.8, 0.1, 0.1))
    same = r"images with the same pixels are in one group\): found 2 \(a, c\)"
    with pytest.raises(UserError, match=same):
        split_names(
            ["a", "b", "c"], np.ones((3, 1), bool), (0.4, 0.3, 0.3), 0, None, [b"1", b"1", None]
        )
