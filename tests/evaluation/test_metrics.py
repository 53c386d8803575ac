"""MeanIoU against a pixel-by-pixel count, torchmetrics and hand-computed scores."""

from __future__ import annotations

import warnings
from math import isnan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import ConfusionMatrix, JaccardIndex

import segcoord
from segcoord.evaluation.mean_iou import MeanIoU
from segcoord.evaluation.metrics import Scores, confusion_matrix

RANDOM = settings(derandomize=True, deadline=None, max_examples=60)
DTYPES = [torch.uint8, torch.int64]

# (truth, prediction) pairs: 00 00 01, 11 11 12, 22 20, and one void pixel.
TRUTH = [[0, 0, 1], [0, 1, 1], [2, 2, 255]]
PREDICTION = [[0, 1, 1], [0, 1, 2], [2, 0, 0]]


def naive_iou(
    preds: list[int], target: list[int], k: int, ignore_index: int
) -> tuple[list[float], float]:
    """Per-class IoU and its mean with sets of pixel indices, straight from the definition."""
    counted = [i for i, t in enumerate(target) if t != ignore_index]
    ious = []
    for c in range(k):
        truth = {i for i in counted if target[i] == c}
        predicted = {i for i in counted if preds[i] == c}
        union = truth | predicted
        ious.append(len(truth & predicted) / len(union) if union else float("nan"))
    present = [v for v in ious if not isnan(v)]
    return ious, sum(present) / len(present) if present else float("nan")


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, int, list[tuple[Tensor, Tensor]]]:
    """K, ignore_index and some pairs (preds, target) of 1x1 to 7x7.

    Classes are drawn from a subset, so some are absent; a map may be all void.
    """
    k = draw(st.integers(1, 5))
    ignore_index = draw(st.sampled_from([k, 200, 255]))
    in_preds = draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=k))
    in_target = draw(st.lists(st.sampled_from([*range(k), ignore_index]), min_size=1, max_size=k))
    pairs = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.integers(1, 7)), draw(st.integers(1, 7))
        n = size[0] * size[1]
        preds = draw(st.lists(st.sampled_from(in_preds), min_size=n, max_size=n))
        target = draw(st.lists(st.sampled_from(in_target), min_size=n, max_size=n))
        pairs.append(
            (
                torch.tensor(preds, dtype=draw(st.sampled_from(DTYPES))).view(size),
                torch.tensor(target, dtype=draw(st.sampled_from(DTYPES))).view(size),
            )
        )
    return k, ignore_index, pairs


def metric_of(k: int, ignore_index: int, pairs: list[tuple[Tensor, Tensor]]) -> MeanIoU:
    metric = MeanIoU(k, ignore_index)
    for preds, target in pairs:
        metric.update(preds, target)
    return metric


def all_pixels(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All pairs concatenated as one image."""
    preds, target = zip(*pairs)
    return torch.cat([p.flatten().long() for p in preds]), torch.cat(
        [t.flatten().long() for t in target]
    )


@RANDOM
@given(maps())
def test_equals_a_pixel_by_pixel_count(drawn: tuple) -> None:
    k, ignore_index, pairs = drawn
    metric = metric_of(k, ignore_index, pairs)
    preds, target = all_pixels(pairs)
    ious, mean = naive_iou(preds.tolist(), target.tolist(), k, ignore_index)
    np.testing.assert_allclose(metric.scores().iou, ious, rtol=1e-12)
    np.testing.assert_allclose(metric.compute().item(), mean, rtol=1e-12)
    assert metric.confusion.sum() == (target != ignore_index).sum()


def voc_devkit(
    pairs: list[tuple[np.ndarray, np.ndarray]], num: int
) -> tuple[np.ndarray, np.ndarray]:
    """VOCcode/VOCevalseg.m of the 2012 kit, step by step: joint histogram and accuracies.

    MATLAB indices start at 1, in column-major order: bin 1 + gt + res * num of a (num, num) array.
    """
    confcounts = np.zeros(num * num, int)
    for gt, res in pairs:
        gt, res = gt.astype(float), res.astype(float)
        locs = gt < 255
        sumim = 1 + gt + res * num
        for bin in sumim[locs]:
            confcounts[int(bin) - 1] += 1
    confcounts = confcounts.reshape(num, num, order="F")
    accuracies = np.zeros(num)
    for j in range(num):
        gtj, resj, gtjresj = confcounts[j].sum(), confcounts[:, j].sum(), confcounts[j, j]
        denominator = gtj + resj - gtjresj
        accuracies[j] = 100 * gtjresj / denominator if denominator else np.nan  # MATLAB's 0 / 0
    return confcounts, accuracies


@RANDOM
@given(maps())
def test_equals_the_voc_development_kit(drawn: tuple) -> None:
    k, ignore_index, pairs = drawn
    scores = metric_of(k, ignore_index, pairs).scores()
    maps_ = [(t.numpy().copy(), p.numpy()) for p, t in pairs]
    for truth, _ in maps_:
        truth[truth == ignore_index] = 255
    confcounts, accuracies = voc_devkit(maps_, k)
    assert (scores.confusion == confcounts).all()
    np.testing.assert_allclose(100 * scores.iou, accuracies, rtol=1e-14)
    if not scores.absent:  # the kit's mean is NaN where a class is absent
        np.testing.assert_allclose(100 * scores.miou, accuracies.mean(), rtol=1e-14)


@RANDOM
@given(maps())
def test_several_updates_equal_one(drawn: tuple) -> None:
    k, ignore_index, pairs = drawn
    one = metric_of(k, ignore_index, [all_pixels(pairs)])
    assert torch.equal(metric_of(k, ignore_index, pairs).confusion, one.confusion)


@RANDOM
@given(maps(), st.integers(0, 3))
def test_states_of_processes_are_summed(drawn: tuple, split_at: int) -> None:
    """Runs the reduction of torchmetrics without starting processes."""
    k, ignore_index, pairs = drawn
    first = metric_of(k, ignore_index, pairs[:split_at])
    second = metric_of(k, ignore_index, pairs[split_at:])
    together = metric_of(k, ignore_index, pairs)
    states = [first.confusion.clone(), second.confusion.clone()]
    first.sync(dist_sync_fn=lambda state, group: states, distributed_available=lambda: True)
    assert torch.equal(first.confusion, together.confusion)
    np.testing.assert_equal(first.scores().miou, together.scores().miou)


@RANDOM
@given(maps())
def test_equals_the_confusion_matrix_of_torchmetrics(drawn: tuple) -> None:
    k, ignore_index, pairs = drawn
    preds, target = all_pixels(pairs)
    if k == 1:
        return  # torchmetrics requires two classes
    theirs = ConfusionMatrix(task="multiclass", num_classes=k, ignore_index=ignore_index)
    theirs.update(preds, target)
    assert torch.equal(metric_of(k, ignore_index, pairs).confusion, theirs.confmat)


@RANDOM
@given(st.integers(2, 6), st.integers(0, 2**16))
def test_equals_the_jaccard_index_if_every_class_occurs(k: int, seed: int) -> None:
    """They differ for an absent class: 0 in torchmetrics, NaN here."""
    random = np.random.default_rng(seed)
    target = torch.from_numpy(random.permutation([*range(k), *random.integers(0, k, 50)]))
    preds = torch.from_numpy(random.integers(0, k, len(target)))
    target = torch.cat([target, torch.full((9,), 255)])
    preds = torch.cat([preds, torch.from_numpy(random.integers(0, k, 9))])
    ours = metric_of(k, 255, [(preds, target)])
    for average, value in (("none", ours.scores().iou), ("macro", ours.compute().numpy())):
        theirs = JaccardIndex("multiclass", num_classes=k, ignore_index=255, average=average)
        # torchmetrics computes in float32
        np.testing.assert_allclose(theirs(preds, target).numpy(), value, rtol=1e-5)


def test_hand_computed_scores_of_a_3x3_image() -> None:
    metric = metric_of(4, 255, [(torch.tensor(PREDICTION), torch.tensor(TRUTH))])
    scores = metric.scores()
    assert scores.confusion.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert scores.truth.tolist() == [3, 3, 2, 0]
    np.testing.assert_allclose(scores.iou, [2 / 4, 2 / 4, 1 / 3, np.nan])
    np.testing.assert_allclose(scores.accuracy, [2 / 3, 2 / 3, 1 / 2, np.nan])
    assert scores.miou == pytest.approx(4 / 9)
    assert scores.mean_accuracy == pytest.approx(11 / 18)
    assert scores.pixel_accuracy == pytest.approx(5 / 8)
    assert scores.frequency_weighted_iou == pytest.approx((3 / 2 + 3 / 2 + 2 / 3) / 8)
    assert scores.classes_counted == 3
    assert scores.absent == [3]
    assert metric.compute() == pytest.approx(4 / 9)
    assert metric.compute().dtype == torch.float64


def test_an_absent_class_is_left_out_but_a_falsely_predicted_one_is_not() -> None:
    truth = torch.tensor([[0, 0, 0, 255]])
    perfect = metric_of(3, 255, [(torch.tensor([[0, 0, 0, 1]]), truth)])
    assert perfect.compute() == 1.0  # not 1/3: classes 1 and 2 are absent
    assert perfect.scores().classes_counted == 1
    wrong = metric_of(3, 255, [(torch.tensor([[0, 0, 1, 1]]), truth)]).scores()
    np.testing.assert_allclose(wrong.iou, [2 / 3, 0, np.nan])
    assert wrong.miou == pytest.approx(1 / 3)
    assert isnan(wrong.accuracy[1])  # class 1 is not in truth
    assert wrong.mean_accuracy == pytest.approx(2 / 3)


def test_predictions_in_void_are_ignored() -> None:
    truth = torch.tensor([[0, 1, 255, 255]])
    scores = [
        metric_of(2, 255, [(torch.tensor([[0, 1, *void]]), truth)]).scores().confusion
        for void in ([0, 0], [0, 1], [1, 1])
    ]
    assert all((s == [[1, 0], [0, 1]]).all() for s in scores)


def test_the_score_is_over_the_dataset_not_the_mean_over_images() -> None:
    big = torch.zeros(10, 10, dtype=torch.uint8), torch.zeros(10, 10, dtype=torch.uint8)
    small = torch.tensor([[0, 1]]), torch.tensor([[1, 1]])
    metric = metric_of(2, 255, [big, small])
    assert metric.compute() == pytest.approx((100 / 101 + 1 / 2) / 2)
    per_image = [metric_of(2, 255, [pair]).compute() for pair in (big, small)]
    assert metric.compute() != pytest.approx(float(sum(per_image)) / 2)


@pytest.mark.parametrize("target", [[[255, 255], [255, 255]], [[255]], [[]]])
def test_scores_without_labeled_pixels_are_nan(target: list[list[int]]) -> None:
    target = torch.tensor(target, dtype=torch.uint8)
    metric = metric_of(3, 255, [(torch.zeros_like(target), target)])
    scores = metric.scores()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an empty mean must not warn
        assert metric.compute().isnan()
        assert isnan(scores.mean_accuracy)
        assert isnan(scores.pixel_accuracy)
        assert isnan(scores.frequency_weighted_iou)
    assert np.isnan(scores.iou).all()
    assert scores.classes_counted == 0


def test_counts_beyond_float32_precision() -> None:
    n = 2**24 + 1  # rounded to 2**24 in float32
    scores = Scores(np.array([[n, 1], [0, n - 1]]))
    np.testing.assert_allclose(scores.iou, [n / (n + 1), (n - 1) / n], rtol=1e-15)


def test_a_map_with_more_pixels_than_float32_can_count() -> None:
    n = 2**24 + 5
    zeros = torch.zeros(n, dtype=torch.uint8)
    assert metric_of(2, 255, [(zeros, zeros)]).confusion.tolist() == [[n, 0], [0, 0]]


def test_shape_and_memory_order_do_not_matter() -> None:
    preds = torch.arange(24).remainder(3).view(2, 3, 4)
    target = preds.roll(1).clone()
    expected = metric_of(3, 255, [(preds.flatten(), target.flatten())]).confusion
    for change in (lambda x: x, lambda x: x[None], lambda x: x.transpose(0, 2), lambda x: x.int()):
        got = metric_of(3, 255, [(change(preds), change(target))])
        assert torch.equal(got.confusion, expected)


def test_reset_clears_the_state_and_forward_returns_the_batch_score() -> None:
    metric = segcoord.MeanIoU(2)
    assert metric(torch.tensor([0, 1]), torch.tensor([0, 0])) == pytest.approx(1 / 4)
    assert metric(torch.tensor([1]), torch.tensor([1])) == 1.0
    assert metric.compute() == pytest.approx((1 / 2 + 1 / 2) / 2)
    metric.reset()
    assert metric.confusion.sum() == 0


@pytest.mark.parametrize(("k", "ignore_index"), [(3, 0), (3, 2), (3, -1), (3, 256)])
def test_ignore_index_must_not_be_a_class(k: int, ignore_index: int) -> None:
    with pytest.raises(ValueError, match=f"ignore_index={ignore_index}, expected {k} to 255"):
        MeanIoU(k, ignore_index)
    classes = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"ignore_index={ignore_index}, expected {k} to 255"):
        confusion_matrix(classes, classes, k, ignore_index)


@pytest.mark.parametrize("k", [0, 256])
def test_the_number_of_classes_is_bounded(k: int) -> None:
    with pytest.raises(ValueError, match=f"num_classes={k}, expected 1 to 255"):
        MeanIoU(k)


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        (torch.zeros(2, 3).long(), torch.zeros(3, 2).long(), r"\(2, 3\) and target \(3, 2\)"),
        (torch.zeros(1, 2, 3).long(), torch.zeros(2, 3).long(), "differ"),
        (torch.zeros(2, 2), torch.zeros(2, 2).long(), "integer class indices"),
        (torch.zeros(2, 2).long(), torch.zeros(2, 2), "integer class indices"),
        (torch.tensor([0, 3]), torch.tensor([0, 0]), "preds holds 3; 3 classes"),
        (torch.tensor([0, 255]), torch.tensor([0, 255]), "preds holds 255; 3 classes"),
        (torch.tensor([0, -1]), torch.tensor([0, 0]), "preds holds -1; 3 classes"),
        (torch.tensor([0, 0]), torch.tensor([0, -100]), "target holds -100; 3 classes"),
        (torch.tensor([0, 0]), torch.tensor([0, 256]), "target holds 256; 3 classes"),
        (torch.tensor([0, 0]), torch.tensor([0, 2**40]), "target holds 1099511627776"),
        (torch.tensor([0, 0]), torch.tensor([0, 3]), "target holds 3, neither a class nor 255"),
        (torch.tensor([0, 0]), torch.tensor([0, 254]), "target holds 254, neither a class nor 255"),
    ],
)
def test_invalid_maps_are_refused_and_leave_the_state_unchanged(
    preds: Tensor, target: Tensor, message: str
) -> None:
    metric = metric_of(3, 255, [(torch.tensor([1]), torch.tensor([2]))])
    before = metric.confusion.clone()
    with pytest.raises(ValueError, match=message):
        metric.update(preds, target)
    assert torch.equal(metric.confusion, before)


def test_255_is_refused_if_another_value_is_ignored() -> None:
    with pytest.raises(ValueError, match="target holds 255, neither a class nor 3"):
        metric_of(3, 3, [(torch.tensor([0]), torch.tensor([255]))])
