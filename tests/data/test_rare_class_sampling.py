"""Which image and class rare class sampling draws, and the crops that training reads with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segcoord.data.checks.split import check_split
from segcoord.data.labels import VOID
from segcoord.data.layouts import find_split
from segcoord.data.loader import TrainDataset
from segcoord.data.rare_class_sampling import MAX_PIXELS, RareClassSampler, class_pixels
from segcoord.data.split import Split
from segcoord.data.transforms import TrainTransform
from segcoord.utils.errors import UserError
from tests.helpers import MEAN, pack_config

PIXELS = np.array([9700, 200, 100, 0])
PRESENT = np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0] * 5]).T.astype(bool)


def draws(probability: float, count: int = 4000, seed: int = 0) -> list[tuple[int, int] | None]:
    sampler = RareClassSampler(PIXELS, PRESENT, probability)
    return [sampler.draw((seed, 0, index)) for index in range(count)]


def test_classes_are_drawn_with_the_probabilities_of_daformer() -> None:
    """exp((1 - f) / 0.01) of f = 0.97, 0.02 and 0.01; the absent class is never drawn."""
    drawn = [pair for pair in draws(1.0) if pair is not None]
    assert len(drawn) == 4000
    share = np.bincount([c for _, c in drawn], minlength=4) / 4000
    expected = np.array([0, np.exp(-1), 1, 0]) / (1 + np.exp(-1))
    assert np.abs(share - expected).max() < 0.03
    assert all(PRESENT[image, c] for image, c in drawn)
    assert {image for image, c in drawn if c == 1} == {1, 2}


def test_an_image_with_a_class_of_its_own_is_not_drawn_all_the_time() -> None:
    """Of 1000 draws, 10 are for the pixel that only image 3 has, and the rest for class 0."""
    present = np.zeros((1000, 3), bool)
    present[:, 0], present[3, 1] = True, True
    sampler = RareClassSampler(np.array([1_000_000, 1, 0]), present, 1.0)
    np.testing.assert_allclose(sampler.class_probabilities, [0.99, 0.01, 0])


def test_limited_classes_leave_the_rest_to_the_others_by_the_formula() -> None:
    """Void images don't count, and what one class leaves takes another to its limit."""
    pixels = np.array([800, 103, 96, 1])
    present = np.zeros((200, 4), bool)
    present[:100, :2], present[:2, 2], present[0, 3] = True, True, True
    sampler = RareClassSampler(pixels, present, 1.0)
    np.testing.assert_allclose(sampler.class_probabilities, [0, 0.7, 0.2, 0.1], atol=1e-9)


@pytest.mark.parametrize("size", [(128, 256), (40, 50)])
def test_the_pixels_of_a_large_class_are_spread_over_it(size: tuple[int, int]) -> None:
    mask = np.zeros(size, np.uint8)
    mask[:, 40:] = 1
    rows, columns = class_pixels(mask, 1, (0, 0, 0))
    assert {*columns.tolist()} == {*range(40, size[1])}
    assert {*rows.tolist()} == {*range(size[0])}
    assert len(rows) == min(MAX_PIXELS, (mask == 1).sum())
    again, other = (class_pixels(mask, 1, (0, 0, i))[1] for i in (0, 1))
    assert np.array_equal(columns, again)
    assert np.array_equal(columns, other) == (len(rows) < MAX_PIXELS)


def test_a_part_of_the_crops_is_drawn_and_each_from_its_key() -> None:
    some = draws(0.25)
    assert abs(sum(pair is not None for pair in some) / 4000 - 0.25) < 0.03
    assert some == draws(0.25)
    assert some != draws(0.25, seed=1)


def dataset(root: Path, probability: float, **settings) -> TrainDataset:
    data = pack_config(root, rare_class_sampling=probability, color_jitter=0.0, **settings)
    split = find_split(data, "train")
    check = check_split(split)
    sampler = RareClassSampler(check.pixels, check.present, probability) if probability else None
    return TrainDataset(split, TrainTransform(data, MEAN), 3, sampler)


def test_crops_contain_the_class_that_was_drawn(sample_voc: Path) -> None:
    rare = dataset(sample_voc, 1.0, scale=(1.0, 2.0))
    plain = dataset(sample_voc, 0.0, scale=(1.0, 2.0))
    moved = 0
    for index in range(16):
        image_index, c = rare.rare_classes.draw((3, 0, index))
        sample = rare[0, index]
        assert (sample["mask"] == c).any()
        assert rare.source((0, index)) == rare.path(image_index)
        moved += image_index != index
        assert not np.array_equal(sample["image"], plain[0, index]["image"])
    assert moved > 8


def test_without_a_draw_the_crop_is_that_of_plain_training(sample_voc: Path) -> None:
    half, plain = dataset(sample_voc, 0.5), dataset(sample_voc, 0.0)
    kept = [i for i in range(16) if half.rare_classes.draw((3, 0, i)) is None]
    assert 2 < len(kept) < 14
    for index in kept:
        assert (half[0, index]["image"] == plain[0, index]["image"]).all()
        assert (half[0, index]["mask"] == plain[0, index]["mask"]).all()


def test_presence_is_that_of_the_masks(sample_voc: Path) -> None:
    split = find_split(pack_config(sample_voc), "train")
    present = check_split(split).present
    for index in range(len(split)):
        values = np.unique(split.read(index)[1])
        assert np.flatnonzero(present[index]).tolist() == [v for v in values if v != VOID]


def test_masks_that_changed_during_training_are_an_error(sample_voc: Path, monkeypatch) -> None:
    rare = dataset(sample_voc, 1.0)
    void = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), VOID, np.uint8)
    monkeypatch.setattr(Split, "read", lambda split, index: void)
    with pytest.raises(UserError, match="any more, which it had when training started"):
        rare[0, 0]
