"""Which sample comes when, and that its augmentation depends on (seed, epoch, index) alone."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segcoord.config.schema import DataConfig
from segcoord.data.image_folder import ImageList
from segcoord.data.labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS, VOID
from segcoord.data.labels import VOC as VOC_LABELS
from segcoord.data.layouts import find_split
from segcoord.data.loader import EpochShuffle, StepBatchSampler, TrainDataset, train_loader
from segcoord.data.split import Sample, SampleList
from segcoord.data.transforms import TrainTransform

MEAN = (0.485, 0.456, 0.406)


def transform(**settings) -> TrainTransform:
    data = DataConfig("voc", "unused", **{"crop_size": (48, 48), **settings})
    return TrainTransform(data, MEAN)


def dataset(root: Path, seed: int = 0) -> TrainDataset:
    data = DataConfig("voc", str(root), crop_size=(48, 48))
    return TrainDataset(find_split(data, "train"), transform(), seed)


def batches(root: Path, start: int, stop: int, workers: int, seed: int = 0) -> list[dict]:
    data = dataset(root, seed)
    return list(
        train_loader(
            data, StepBatchSampler(EpochShuffle(len(data), 5, seed), (start, stop)), workers
        )
    )


def equal(a: list[dict], b: list[dict]) -> bool:
    return len(a) == len(b) and all(torch.equal(x[k], y[k]) for x, y in zip(a, b) for k in x)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 30), st.integers(0, 5))
def test_every_epoch_is_a_permutation_and_a_start_only_cuts(
    size: int, batch_size: int, start: int, seed: int
) -> None:
    whole = list(StepBatchSampler(EpochShuffle(size, batch_size, seed), (0, 60)))
    assert all(len(batch) == batch_size for batch in whole)
    assert (
        list(StepBatchSampler(EpochShuffle(size, batch_size, seed), (start, 60))) == whole[start:]
    )
    stream = [key for batch in whole for key in batch]
    for epoch in range(len(stream) // size):
        keys = stream[epoch * size : (epoch + 1) * size]
        assert {e for e, _ in keys} == {epoch}
        assert sorted(index for _, index in keys) == list(range(size))


def test_the_order_differs_between_epochs_and_seeds() -> None:
    epochs = np.array(
        [i for b in StepBatchSampler(EpochShuffle(64, 64, 0), (0, 3)) for _, i in b]
    ).reshape(3, 64)
    assert not (epochs[0] == epochs[1]).all()
    assert not (epochs[1] == epochs[2]).all()
    other = np.array([i for b in StepBatchSampler(EpochShuffle(64, 64, 1), (0, 1)) for _, i in b])
    assert not (epochs[0] == other).all()


def test_batches_are_equal_for_any_number_of_workers(sample_voc: Path) -> None:
    alone = batches(sample_voc, 0, 7, workers=0)  # 35 samples: more than two epochs of 16
    assert equal(alone, batches(sample_voc, 0, 7, workers=2))
    assert equal(alone, batches(sample_voc, 0, 7, workers=3))
    assert equal(alone[4:], batches(sample_voc, 4, 7, workers=2))
    assert not equal(alone, batches(sample_voc, 0, 7, workers=0, seed=1))
    assert alone[0]["image"].shape == (5, 48, 48, 3)
    assert alone[0]["image"].dtype == alone[0]["mask"].dtype == torch.uint8


def test_every_draw_is_another_one(sample_voc: Path) -> None:
    """Workers that start from one random state, or epochs that repeat it, show here."""
    samples = dataset(sample_voc)
    draws = {samples[e, i]["image"].tobytes() for e in range(4) for i in range(len(samples))}
    assert len(draws) == 4 * len(samples)
    assert samples[2, 3]["image"].tobytes() == samples[2, 3]["image"].tobytes()


def test_padding_is_void_in_the_mask_and_mean_in_the_image() -> None:
    image = np.full((20, 30, 3), 200, np.uint8)
    mask = np.full((20, 30), 3, np.uint8)
    seen = set()
    for index in range(20):
        out, ids = transform(color_jitter=0)(image, mask, (0, 0, index))
        assert out.shape == (48, 48, 3)
        assert set(np.unique(ids)) <= {3, VOID}
        assert (out[ids == VOID] == [124, 116, 104]).all()
        assert (out[ids == 3] == 200).all()
        seen |= set(np.unique(ids).tolist())
    assert seen == {3, VOID}


def test_masks_keep_their_values_and_their_place() -> None:
    """The image shows its own mask, so that a shift between the two would show."""
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 8, (8, 12)), np.ones((16, 16))).astype(np.uint8)
    image = np.repeat(mask[..., None] * 30, 3, axis=2)
    for index in range(40):
        out, ids = transform(color_jitter=0)(image, mask, (0, 0, index))
        inside = ids != VOID
        assert set(np.unique(ids[inside])) <= set(np.unique(mask))
        agree = np.abs(out[..., 0].astype(int) - ids.astype(int) * 30) <= 15
        # Bilinear images and nearest masks may differ at the edges of the 16 pixel squares only.
        assert agree[inside].mean() > 0.85


def test_scale_covers_its_range() -> None:
    """Measured on a square of known size."""
    image = np.zeros((200, 200, 3), np.uint8)
    mask = np.zeros((200, 200), np.uint8)
    mask[90:110, 90:110] = 1
    large = transform(crop_size=(400, 400), scale=(0.5, 2.0), color_jitter=0)
    sides = [np.sqrt((large(image, mask, (0, 0, i))[1] == 1).sum()) / 20 for i in range(200)]
    assert 0.45 <= min(sides) < 0.6
    assert 1.9 < max(sides) <= 2.05


@pytest.mark.parametrize(("flip", "expected"), [(True, {False, True}), (False, {False})])
def test_flip(flip: bool, expected: set[bool]) -> None:
    image = np.zeros((48, 48, 3), np.uint8)
    mask = np.zeros((48, 48), np.uint8)
    mask[:, :24] = 1
    t = transform(scale=(1.0, 1.0), flip=flip, color_jitter=0)
    flipped = {bool(t(image, mask, (0, 0, i))[1][0, 0] == 0) for i in range(30)}
    assert flipped == expected


def private_growth(samples, look: Callable[[object], object]) -> int:
    """Bytes that a forked process takes for itself while it looks at every sample."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)

    def private() -> int:
        text = Path("/proc/self/smaps_rollup").read_text()
        return 1024 * int(re.search(r"Private_Dirty: +(\d+)", text)[1])

    child = os.fork()
    if child == 0:
        try:
            gc.disable()
            for index in range(64):  # what any work takes
                look(samples[index])
            before = private()
            for index in range(len(samples)):
                look(samples[index])
            sender.send(private() - before)
        finally:
            os._exit(0)
    sender.close()
    try:
        return receiver.recv()
    finally:
        os.waitpid(child, 0)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="not on this system")
def test_a_worker_shares_the_names_of_a_large_split() -> None:
    """To look at a Python object writes to it; 100,000 samples as such are 70 MB in each worker."""
    count, root = 100_000, Path("/data/images/train")
    names = [f"scene_{number:08d}" for number in range(count)]
    plain = [Sample(n, root / f"{n}.jpg", root / f"{n}.png", VOC_LABELS) for n in names]

    def look(sample: Sample) -> None:
        assert os.fspath(sample.image) != os.fspath(sample.mask)

    of_objects = private_growth(plain, look)
    assert of_objects > 40_000_000  # so this test can see it
    samples = SampleList(plain)
    listed = ImageList([(str(s.image), number % 1000) for number, s in enumerate(plain)])
    del plain, names
    # What is left is Python's table of interned names: 3 MB, or 15 in a process that had many.
    assert private_growth(samples, look) < of_objects / 2
    assert private_growth(listed, lambda one: one[0].endswith("jpg")) < of_objects / 10


def test_samples_are_those_that_were_given() -> None:
    labels = [VOC_LABELS, CITYSCAPES, CITYSCAPES_TRAIN_IDS]
    given = [
        Sample("a b", Path("/x/a b.jpg"), Path("/x/a b.png"), labels[2]),
        Sample("\u00e9\u4e2d", Path("\u00e9/\u4e2d.jpg"), None, labels[0]),
        Sample(os.fsdecode(b"\xff"), Path(os.fsdecode(b"/\xff.jpg")), None, labels[1]),
    ]
    samples = SampleList(given)
    assert list(samples) == given
    assert (samples[-1], samples[1:], len(samples)) == (given[2], given[1:], 3)
    assert [s.labels for s in samples] == [labels[2], labels[0], labels[1]]
    assert list(pickle.loads(pickle.dumps(samples))) == given
    with pytest.raises(IndexError):
        samples[3]
    pairs = [("/x/a.jpg", 3), ("/x/\u00e9.jpg", 999)]
    assert list(ImageList(pairs)) == pairs
