"""The paired bootstrap on data with a known difference, and the compare command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import flip_byte

from segcoord.cli.main import main
from segcoord.data.pack.reader import MASKS
from segcoord.evaluation.bootstrap import (
    count_image,
    iou_in_truth,
    mean_iou_in_truth,
    miou_interval,
    paired_bootstrap,
)
from segcoord.evaluation.mean_iou import MeanIoU
from segcoord.inference.load import load
from segcoord.models.checkpoint import save

K = 4
RECALL = np.array([0.92, 0.75, 0.6, 0.35])  # of each class, of model A
GAIN = np.array([0.01, -0.02, 0.06, 0.08])  # of model B


def images(rng: np.random.Generator, n: int, gain: np.ndarray | float = GAIN) -> list[np.ndarray]:
    """(n, 3, K) counts of A and B; some images are hard for both, rare classes are often absent."""
    truth = rng.poisson([4000, 900, 300, 90], (n, K)) * (rng.random((n, K)) < [1, 0.9, 0.6, 0.4])
    hard = rng.normal(0, 0.08, (n, 1)) + rng.normal(0, 0.03, (n, K))
    both = []
    for recall in (RECALL, RECALL + gain):
        found = rng.binomial(truth, np.clip(recall + hard, 0.01, 0.99))
        lost = truth - found
        predicted = found + np.roll(lost, 1, axis=1)  # a lost pixel is taken for the class before
        both.append(np.stack([found, truth, predicted], 1))
    return both


def test_the_interval_covers_the_true_difference_at_its_level() -> None:
    rng = np.random.default_rng(7)
    a, b = (x.sum(0) for x in images(rng, 400_000))
    true = mean_iou_in_truth(b) - mean_iou_in_truth(a), *(iou_in_truth(b) - iou_in_truth(a))
    trials, inside = 300, np.zeros(1 + K)
    for trial in range(trials):
        result = paired_bootstrap(*images(rng, 80), resamples=400, seed=trial)
        for i, estimate in enumerate([result.difference, *result.classes]):
            inside[i] += estimate.low <= true[i] <= estimate.high
    # 95 % of 300: the standard deviation is 1.3 %; percentile intervals are slightly narrow
    assert (inside / trials >= 0.90).all(), inside / trials
    assert (inside / trials <= 0.99).all(), inside / trials


def test_the_paired_interval_is_narrower_than_that_of_one_model() -> None:
    a, b = images(np.random.default_rng(3), 100)
    paired = paired_bootstrap(a, b).difference
    alone = miou_interval(a)
    assert alone.low < mean_iou_in_truth(a.sum(0)) < alone.high
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_equal_models_are_rarely_outside_the_noise() -> None:
    rng = np.random.default_rng(1)
    outside = sum(
        paired_bootstrap(*images(rng, 60, gain=0.0), resamples=400).difference.outside_noise
        for _ in range(100)
    )
    assert 1 <= outside <= 13  # 5 of 100 are expected


def test_a_model_does_not_differ_from_itself() -> None:
    a, _ = images(np.random.default_rng(0), 50)
    result = paired_bootstrap(a, a, resamples=200)
    for estimate in (result.difference, *result.classes):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
    assert not result.difference.outside_noise
    assert "the same mIoU" in result.summary()


@pytest.mark.parametrize("n", [1, 9, 10])
def test_few_images_are_never_outside_the_noise(n: int) -> None:
    """All resamples of one image are equal: its interval is a point, and excludes 0."""
    a, _ = images(np.random.default_rng(0), 60)
    a = a[(a[:, 1, 0] > 0)][:n]
    b = a.copy()
    b[:, 0, 0] //= 2
    result = paired_bootstrap(a, b, resamples=200)
    assert result.drawn == n and result.difference.outside_noise
    assert result.to_dict(list("wxyz"))["outside_noise"] is (True if n == 10 else None)
    assert ("too few to tell it from noise" in result.summary()) == (n < 10)
    assert ("A is better" in result.summary()) == (n == 10)


def test_swapping_the_models_flips_the_sign() -> None:
    a, b = images(np.random.default_rng(5), 70)
    one, other = paired_bootstrap(a, b, resamples=500), paired_bootstrap(b, a, resamples=500)
    assert one.difference.value == pytest.approx(-other.difference.value, abs=1e-15)
    assert one.difference.low == pytest.approx(-other.difference.high, abs=1e-12)
    assert one.difference.high == pytest.approx(-other.difference.low, abs=1e-12)
    assert paired_bootstrap(a, b, resamples=500).to_dict(list("wxyz")) == one.to_dict(list("wxyz"))
    assert paired_bootstrap(a, b, resamples=500, seed=1).difference != one.difference


def test_resamples_equal_those_of_a_plain_loop() -> None:
    a, b = images(np.random.default_rng(2), 30)
    rng, expected = np.random.default_rng(0), []
    for _ in range(300):
        drawn = rng.integers(30, size=30)
        expected.append(mean_iou_in_truth(b[drawn].sum(0)) - mean_iou_in_truth(a[drawn].sum(0)))
    result = paired_bootstrap(a, b, resamples=300).difference
    assert [result.low, result.high] == pytest.approx(
        np.percentile(expected, [2.5, 97.5]), abs=1e-12
    )


def test_absent_classes_are_left_out_of_both() -> None:
    a, b = images(np.random.default_rng(4), 40)
    a[:, 1:, 3] -= a[:, :1, 3]
    a[:, :2, 3] = b[:, :2, 3] = 0  # not in truth
    a[:, 2, 3], b[:, 2, 3] = 0, 50  # and only B predicts it
    result = paired_bootstrap(a, b, resamples=200)
    assert np.isnan([result.iou_a[3], result.iou_b[3], result.classes[3].value]).all()
    assert result.a == pytest.approx(iou_in_truth(a.sum(0))[:3].mean())
    assert result.b == pytest.approx(iou_in_truth(b.sum(0))[:3].mean())
    absent = result.to_dict(list("wxyz"))["classes"][3]
    assert absent["difference"] == {"value": None, "interval": [None, None]}
    assert absent["images"] == 0
    json.dumps(absent, allow_nan=False)


def test_unlabeled_images_are_not_drawn_and_different_images_are_refused() -> None:
    a, b = images(np.random.default_rng(6), 25)
    empty = np.zeros((30, 3, K), np.int64)
    more = paired_bootstrap(np.concatenate([a, empty]), np.concatenate([b, empty]), resamples=300)
    assert more.drawn == 25
    assert more.difference == paired_bootstrap(a, b, resamples=300).difference
    with pytest.raises(ValueError, match="truths differ"):
        paired_bootstrap(a, b[::-1])
    with pytest.raises(ValueError, match="no image"):
        paired_bootstrap(empty, empty)


def test_counts_give_the_scores_of_the_metric() -> None:
    rng = np.random.default_rng(8)
    metric, counts = MeanIoU(K), []
    for _ in range(5):
        truth = rng.choice([0, 1, 2, 3, 255], (13, 17)).astype(np.uint8)
        prediction = rng.integers(0, K, (13, 17)).astype(np.uint8)
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        counts.append(count_image(prediction, truth, K))
    assert iou_in_truth(np.sum(counts, 0)) == pytest.approx(metric.scores().iou, abs=0)
    assert mean_iou_in_truth(np.sum(counts, 0)) == pytest.approx(metric.scores().miou, abs=1e-15)


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    """A folder whose best.ckpt is that of tiny_run with another bias of the last layer."""
    folder = tmp_path_factory.mktemp("other")
    model = load(tiny_run / "best.ckpt", fold=False)
    with torch.no_grad():
        model.net.segmentation_head[0].bias += torch.linspace(-1, 1, len(model.labels))
    stored = torch.load(tiny_run / "best.ckpt", weights_only=True)
    save(model, folder / "best.ckpt", config=stored["config"])
    return folder


def test_compare_agrees_with_evaluate(tiny_run, other_run, tmp_path, capsys) -> None:
    miou = []
    for name, folder in (("a", tiny_run), ("b", other_run)):
        score = tmp_path / f"{name}.json"
        assert main(["evaluate", f"--checkpoint={folder / 'best.ckpt'}", f"--json={score}"]) == 0
        result = json.loads(score.read_text())
        ious = [c["iou"] for c in result["classes"] if c["pixels"]]
        miou.append(sum(ious) / len(ious))
    capsys.readouterr()
    out = tmp_path / "compare.json"
    arguments = [str(tiny_run), str(other_run / "best.ckpt"), "--resamples=500", f"--json={out}"]
    assert main(["compare", *arguments]) == 0
    result = json.loads(out.read_text())
    assert [result["a"]["miou"], result["b"]["miou"]] == pytest.approx(miou, abs=1e-12)
    assert result["difference"]["value"] == pytest.approx(miou[1] - miou[0], abs=1e-12)
    low, high = result["difference"]["interval"]
    assert low <= high and result["outside_noise"] is None  # 6 images are too few to tell
    assert result["images"] == 6
    assert result["a"]["checkpoint"] == str(tiny_run / "best.ckpt")
    alone, shared = json.loads(score.read_text())["protocol"], result["protocol"]
    assert shared["average"] == "one confusion matrix over the split; mean over classes in truth"
    specific = {"average", "command", "date", "heights", "widths"}
    for key in alone.keys() - specific:  # the last score is B's
        assert (shared | result["b"])[key] == alone[key], key
    stored = torch.load(tiny_run / "best.ckpt", weights_only=True)
    assert (result["a"]["step"], result["b"]["step"]) == (stored["progress"]["step"], None)
    printed = capsys.readouterr().out
    assert "points" in printed and "car" in printed
    assert main(["compare", str(other_run), str(tiny_run), "--resamples=500", f"--json={out}"]) == 0
    assert json.loads(out.read_text())["difference"]["value"] == -result["difference"]["value"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}"], "expected RUN_A RUN_B"),
        (["{run}", "nowhere"], "nowhere"),
        (["{run}", "{empty}"], "best.ckpt"),
        (["{run}", "{run}", "--resamples=0"], "--resamples"),
        (["{run}", "{run}", "--seed=-1"], "--seed: found -1, expected 0 or more"),
        (["{run}", "{run}", "--json={run}"], "is a folder"),
        (["{run}", "{run}", "--json={run}/best.ckpt"], "is one of the compared checkpoints"),
        (["{run}", "{empty}/missing.ckpt"], "missing.ckpt: no such checkpoint"),
        (["{run}", "{voc}"], "voc.ckpt was trained for 21"),
        (["{run}", "{run}", "--split=missing"], "missing"),
    ],
)
def test_invalid_arguments_are_refused_before_an_image_is_read(
    arguments, message, tiny_run, voc_checkpoint, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("segcoord.evaluation.compare.evaluate", None)
    paths = {"run": tiny_run, "empty": tmp_path, "voc": voc_checkpoint}
    arguments = [argument.format(**paths) for argument in arguments]
    assert main(["compare", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_run_equals_itself_and_a_damaged_pack_is_refused(tiny_run, tmp_path, capsys) -> None:
    config = f"--config={tiny_run / 'config.yaml'}"
    assert main(["data", "pack", config, "--split=val", f"--out={tmp_path}"]) == 0
    arguments = ["compare", str(tiny_run), str(tiny_run), f"--data.pack={tmp_path}"]
    arguments += ["--resamples=10", f"--json={tmp_path / 'c.json'}"]
    assert main(arguments) == 0
    result = json.loads((tmp_path / "c.json").read_text())
    assert result["difference"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert "the same mIoU" in capsys.readouterr().out
    flip_byte(tmp_path / "val" / MASKS, 5000)
    assert main(arguments) == 1
    assert "the pack is damaged: 1 of 6 masks don't match" in capsys.readouterr().err
