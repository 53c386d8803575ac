"""Each loss against a reference implementation, without labeled pixels, and on two processes."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers import forkserver
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segcoord.training.losses import (
    cross_entropy,
    dice_loss,
    distillation_loss,
    lovasz_loss,
    ohem_mask,
)

K = 5
WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.0, 7.0])
OPTIONS = [
    {},
    {"weights": WEIGHTS},
    {"label_smoothing": 0.1},
    {"label_smoothing": 0.3, "weights": WEIGHTS},
]


def batch(seed: int = 0, n: int = 2, size: tuple[int, int] = (6, 7)) -> tuple[Tensor, Tensor]:
    """Logits (n, K, H, W) and a target of class indices, a third of it void."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, K, *size, generator=generator)
    target = torch.randint(0, K, (n, *size), generator=generator, dtype=torch.uint8)
    target[torch.rand(n, *size, generator=generator) < 1 / 3] = 255
    return logits.requires_grad_(), target


def same(mine: Tensor, theirs: Tensor, logits: Tensor) -> None:
    """The same value and the same gradient."""
    torch.testing.assert_close(mine, theirs)
    gradients = (torch.autograd.grad(loss, logits)[0] for loss in (mine, theirs))
    torch.testing.assert_close(*gradients)


# -- cross-entropy


@pytest.mark.parametrize("options", OPTIONS)
def test_cross_entropy_equals_pytorchs(options: dict) -> None:
    logits, target = batch()
    renamed = {"weight": options.get("weights")} | options
    renamed.pop("weights", None)
    theirs = F.cross_entropy(logits, target.long(), ignore_index=255, **renamed)
    same(cross_entropy(logits, target, **options), theirs, logits)


def test_label_smoothing_follows_its_paper() -> None:
    """Szegedy et al. 2016, section 7: the target is 1 - e for the class plus e / K for each."""
    logits, target = batch()
    log_p = logits.log_softmax(1)
    total, count = 0.0, 0
    for n, y, x in (target != 255).nonzero().tolist():
        smooth = torch.full((K,), 0.1 / K)
        smooth[int(target[n, y, x])] += 0.9
        total, count = total - (smooth * log_p[n, :, y, x]).sum(), count + 1
    same(cross_entropy(logits, target, label_smoothing=0.1), total / count, logits)


def reference_hard_pixels(
    logits: Tensor, target: Tensor, threshold: float, min_kept: float
) -> Tensor:
    """Pixel by pixel, from a sorted list."""
    p = logits.detach().softmax(1)
    pixels = [
        (float(p[n, int(target[n, y, x]), y, x]), (n, y, x))
        for n, y, x in (target != 255).nonzero().tolist()
    ]
    pixels.sort()
    minimum = max(1, math.ceil(len(pixels) * min_kept))
    kept = torch.zeros(target.shape, dtype=torch.bool)
    for rank, (probability, index) in enumerate(pixels):
        kept[index] = rank < minimum or probability < threshold
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.7, 0.99])
@pytest.mark.parametrize("min_kept", [1e-6, 1 / 16, 0.5, 1.0])
def test_hard_pixels_equal_the_reference(threshold: float, min_kept: float) -> None:
    for seed in range(3):
        logits, target = batch(seed)
        expected = reference_hard_pixels(logits, target, threshold, min_kept)
        assert torch.equal(ohem_mask(logits, target, threshold, min_kept), expected)
        if min_kept == 1:
            assert torch.equal(expected, target != 255)
        if threshold == 0 and min_kept < 1:
            assert expected.sum() == max(1, math.ceil(int((target != 255).sum()) * min_kept))


@pytest.mark.parametrize("options", OPTIONS)
def test_ohem_averages_over_the_hard_pixels(options: dict) -> None:
    logits, target = batch()
    kept = reference_hard_pixels(logits, target, 0.3, 0.25)
    assert 0 < kept.sum() < (target != 255).sum()
    rest = torch.where(kept, target, 255)
    mine = cross_entropy(logits, target, ohem=(0.3, 0.25), **options)
    same(mine, cross_entropy(logits, rest, **options), logits)


# -- Dice and Lovasz


def test_dice_equals_the_reference() -> None:
    logits, target = batch()
    target[target == 3] = 255  # a class that is absent
    p, counted = logits.softmax(1), (target != 255).float()
    loss = 0.0
    for c in range(K):
        truth, mine = (target == c).float(), p[:, c] * counted
        if truth.any():
            loss = loss + 1 - 2 * (mine * truth).sum() / (mine.sum() + truth.sum())
    same(dice_loss(logits, target), loss / K, logits)


def test_lovasz_equals_the_reference() -> None:
    """Berman et al. 2018: the Lovasz extension of the Jaccard loss of each set of wrong pixels."""
    logits, target = batch()
    target[target == 3] = 255
    p = logits.softmax(1)
    counted = target != 255
    losses = []
    for c in sorted(set(target[counted].tolist())):
        truth = (target[counted] == c).numpy()
        errors = torch.where(torch.from_numpy(truth), 1 - p[:, c][counted], p[:, c][counted])
        order = errors.detach().numpy().argsort()[::-1]
        total, before = 0.0, 0.0
        wrong = np.zeros(len(truth), bool)
        for index in order:
            wrong[index] = True
            jaccard = 1 - (truth & ~wrong).sum() / (truth | wrong).sum()
            total, before = total + errors[index] * (jaccard - before), jaccard
        losses.append(total)
    assert len(losses) == K - 1
    same(lovasz_loss(logits, target), (sum(losses) / len(losses)).float(), logits)


@pytest.mark.parametrize("loss", [dice_loss, lovasz_loss])
def test_a_correct_prediction_costs_nothing_and_void_is_ignored(loss) -> None:
    _, target = batch()
    right = 40 * F.one_hot(target.long().clamp(max=K - 1), K).permute(0, 3, 1, 2).float()
    assert loss(right, target) == pytest.approx(0, abs=1e-5)
    other = torch.where((target == 255).unsqueeze(1), torch.randn_like(right), right)
    torch.testing.assert_close(loss(other, target), loss(right, target))
    assert loss(-right, target) > 0.5


def test_compiled_losses_are_the_same() -> None:
    def both(logits: Tensor, target: Tensor) -> Tensor:
        return dice_loss(logits, target) + lovasz_loss(logits, target)

    for pixels in (6, 9):
        logits, target = batch(size=(pixels, 7))
        same(torch.compile(both, backend="eager")(logits, target), both(logits, target), logits)


# -- distillation


def of_a_teacher(logits: Tensor, target: Tensor) -> Tensor:
    """The distillation loss for a teacher that confuses the classes in a fixed way."""
    return distillation_loss(logits, logits.detach().flip(1), target, 2.0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_equals_the_reference(temperature: float) -> None:
    """Pixel by pixel, sum of t * log(t / s), times T^2; the teacher is sure of some classes."""
    logits, target = batch()
    teacher_logits = batch(1)[0].detach()
    teacher_logits[:, 1] = -math.inf
    total, count = 0.0, 0
    for n, y, x in (target != 255).nonzero().tolist():
        t = (teacher_logits[n, :, y, x] / temperature).softmax(0)
        s = (logits[n, :, y, x] / temperature).softmax(0)
        total = total + sum(t[k] * (t[k] / s[k]).log() for k in range(K) if t[k] > 0)
        count += 1
    mine = distillation_loss(logits, teacher_logits, target, temperature)
    same(mine, temperature**2 * total / count, logits)


def test_a_teacher_that_agrees_gives_no_gradient() -> None:
    logits, target = batch()
    loss = distillation_loss(logits, logits.detach() + 3, target, 2.0)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-7


# -- few labeled pixels


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    options=st.sampled_from(OPTIONS),
    ohem=st.none() | st.tuples(st.sampled_from([0.0, 0.7]), st.sampled_from([0.01, 0.5, 1.0])),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    spread=st.sampled_from([0.0, 1.0, 100.0, 1e4]),
    kept=st.integers(0, 2),
)
def test_few_labeled_pixels_give_finite_losses(options, ohem, size, spread, kept) -> None:
    """Never NaN; 0 with a gradient of 0 if every pixel is void."""
    logits, target = batch(7, 2, size)
    logits = (logits.detach() * spread).requires_grad_()
    target[:] = 255
    target.view(-1)[:kept] = 1
    terms = [cross_entropy(logits, target, ohem=ohem, **options)]
    terms += [dice_loss(logits, target), lovasz_loss(logits, target), of_a_teacher(logits, target)]
    for loss in terms:
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.ndim == 0
        assert loss >= 0 and loss.isfinite()
        assert gradient.isfinite().all()
        if not kept:
            assert loss == 0
            assert not gradient.any()


def test_label_smoothing_keeps_a_class_weight_of_0() -> None:
    """Smoothing would spread the pixels of a class of weight 0 over the other classes."""
    logits, target = batch()
    target[target != 255] = 2
    loss = cross_entropy(logits, target, WEIGHTS, label_smoothing=0.1)
    assert loss == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


# -- two processes


def rank_batches() -> list[list[tuple[Tensor, Tensor]]]:
    """Batches of two processes: unequal amounts of void, then only void in the second."""
    pairs = [[batch(1), batch(2)], [batch(3), batch(4)]]
    pairs[0][1][1][:, :4] = 255
    pairs[1][1][1][:] = 255
    return pairs


CASES = {
    "plain": cross_entropy,
    "smooth and weighted": lambda x, t: cross_entropy(x, t, WEIGHTS, 0.1),
    "hard": lambda x, t: cross_entropy(x, t, ohem=(0.3, 0.25)),
    "hard and weighted": lambda x, t: cross_entropy(x, t, WEIGHTS, ohem=(0.3, 0.25)),
    "dice": dice_loss,
    "lovasz": lovasz_loss,
    "distillation": of_a_teacher,
}


def mean_gradients(rank: int, store: str) -> list[Tensor]:
    """As in DistributedDataParallel: the gradient of a factor on the logits, averaged."""
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(minutes=2)
    )
    results = []
    try:
        for loss in CASES.values():
            for pair in rank_batches():
                logits, target = pair[rank]
                factor = torch.ones(K, 1, 1, requires_grad=True)
                value = loss(logits.detach() * factor, target)
                value.backward()
                both = torch.cat([factor.grad.flatten(), value.detach().view(1)])
                dist.all_reduce(both)
                results.append(both / 2)
    finally:
        dist.destroy_process_group()
    return results


def test_two_processes_take_the_mean_over_the_whole_batch(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    other = forkserver().Process(target=mean_gradients, args=(1, store))
    other.start()
    try:
        results = iter(mean_gradients(0, store))
    finally:
        other.join(60)
        other.kill()
    assert other.exitcode == 0
    for name, loss in CASES.items():
        for pair in rank_batches():
            factor = torch.ones(K, 1, 1, requires_grad=True)
            joined = [torch.cat(part) for part in zip(*((x.detach(), t) for x, t in pair))]
            if name.startswith("hard"):  # each process chooses among its own
                kept = torch.cat([reference_hard_pixels(x, t, 0.3, 0.25) for x, t in pair])
                weights = WEIGHTS if "weighted" in name else None
                expected = cross_entropy(
                    joined[0] * factor, torch.where(kept, joined[1], 255), weights
                )
            elif name in ("dice", "lovasz"):
                terms = [loss(x.detach() * factor, t) for x, t in pair if (t != 255).any()]
                expected = sum(terms) / len(terms)
            else:
                expected = loss(joined[0] * factor, joined[1])
            expected.backward()
            both = torch.cat([factor.grad.flatten(), expected.detach().view(1)])
            torch.testing.assert_close(next(results), both, msg=lambda m, n=name: f"{n}: {m}")
