"""Two models on the same images: the bootstrap on data whose truth is known, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from segcoord.cli.main import main
from segcoord.data.pack.reader import MASKS
from segcoord.evaluation.bootstrap import compare, count_image, interval, iou, mean_iou
from segcoord.evaluation.metrics import MeanIoU
from segcoord.inference.load import load
from segcoord.models.checkpoint import save
from segcoord.models.factory import create_model

K = 4
SEEN = np.array([0.92, 0.75, 0.6, 0.35])  # of a class's pixels, by model A
GAIN = np.array([0.01, -0.02, 0.06, 0.08])  # of model B


def images(rng: np.random.Generator, n: int, gain: np.ndarray | float = GAIN) -> list[np.ndarray]:
    """(n, 3, K) counts of A and B: some images are hard for both; rare classes often lack."""
    truth = rng.poisson([4000, 900, 300, 90], (n, K)) * (rng.random((n, K)) < [1, 0.9, 0.6, 0.4])
    hard = rng.normal(0, 0.08, (n, 1)) + rng.normal(0, 0.03, (n, K))
    both = []
    for seen in (SEEN, SEEN + gain):
        found = rng.binomial(truth, np.clip(seen + hard, 0.01, 0.99))
        lost = truth - found
        predicted = found + np.roll(lost, 1, axis=1)  # a lost pixel is taken for the class before
        both.append(np.stack([found, truth, predicted], 1))
    return both


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    a, b = (x.sum(0) for x in images(rng, 400_000))
    true = mean_iou(b) - mean_iou(a), *(iou(b) - iou(a))
    trials, inside = 300, np.zeros(1 + K)
    for trial in range(trials):
        result = compare(*images(rng, 80), resamples=400, seed=trial)
        for i, estimate in enumerate([result.difference, *result.classes]):
            inside[i] += estimate.low <= true[i] <= estimate.high
    # 95 % of 300: the standard deviation of the share is 1.3 %; percentiles run a little short
    assert (inside / trials >= 0.90).all(), inside / trials
    assert (inside / trials <= 0.99).all(), inside / trials


def test_pairing_makes_the_interval_narrower_than_the_models_own() -> None:
    a, b = images(np.random.default_rng(3), 100)
    paired = compare(a, b).difference
    alone = interval(a)
    assert alone.low < mean_iou(a.sum(0)) < alone.high
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_a_difference_where_there_is_none_is_called_noise() -> None:
    rng = np.random.default_rng(1)
    outside = sum(
        compare(*images(rng, 60, gain=0.0), resamples=400).difference.outside_noise
        for _ in range(100)
    )
    assert 1 <= outside <= 13  # 5 of 100 are expected


def test_one_model_with_itself_differs_by_exactly_nothing() -> None:
    a, _ = images(np.random.default_rng(0), 50)
    result = compare(a, a, resamples=200)
    for estimate in (result.difference, *result.classes):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
    assert not result.difference.outside_noise
    assert "the same mIoU" in result.sentence()


@pytest.mark.parametrize("n", [1, 9, 10])
def test_few_images_tell_nothing_from_noise(n: int) -> None:
    """The draws of one image are all alike: its interval is a point, which leaves out 0."""
    a, _ = images(np.random.default_rng(0), 60)
    a = a[(a[:, 1, 0] > 0)][:n]
    b = a.copy()
    b[:, 0, 0] //= 2
    result = compare(a, b, resamples=200)
    assert result.drawn == n and result.difference.outside_noise
    assert result.to_dict(list("wxyz"))["outside_noise"] is (True if n == 10 else None)
    assert ("too few to tell it from noise" in result.sentence()) == (n < 10)
    assert ("A is better" in result.sentence()) == (n == 10)


def test_the_other_order_flips_the_sign() -> None:
    a, b = images(np.random.default_rng(5), 70)
    one, other = compare(a, b, resamples=500), compare(b, a, resamples=500)
    assert one.difference.value == pytest.approx(-other.difference.value, abs=1e-15)
    assert one.difference.low == pytest.approx(-other.difference.high, abs=1e-12)
    assert one.difference.high == pytest.approx(-other.difference.low, abs=1e-12)
    assert compare(a, b, resamples=500).to_dict(list("wxyz")) == one.to_dict(list("wxyz"))
    assert compare(a, b, resamples=500, seed=1).difference != one.difference


def test_draws_are_those_of_a_plain_loop() -> None:
    """One draw at a time, its images' counts added one by one."""
    a, b = images(np.random.default_rng(2), 30)
    rng, plain = np.random.default_rng(0), []
    for _ in range(300):
        drawn = rng.integers(30, size=30)
        plain.append(mean_iou(b[drawn].sum(0)) - mean_iou(a[drawn].sum(0)))
    found = compare(a, b, resamples=300).difference
    assert [found.low, found.high] == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=1e-12)


def test_absent_classes_are_left_out_of_both() -> None:
    a, b = images(np.random.default_rng(4), 40)
    a[:, 1:, 3] -= a[:, :1, 3]
    a[:, :2, 3] = b[:, :2, 3] = 0  # in no truth
    a[:, 2, 3], b[:, 2, 3] = 0, 50  # and B alone predicts it
    result = compare(a, b, resamples=200)
    assert np.isnan([result.iou_a[3], result.iou_b[3], result.classes[3].value]).all()
    assert result.a == pytest.approx(iou(a.sum(0))[:3].mean())
    assert result.b == pytest.approx(iou(b.sum(0))[:3].mean())
    plain = result.to_dict(list("wxyz"))["classes"][3]
    assert plain["difference"] == {"value": None, "interval": [None, None]}
    assert plain["images"] == 0
    json.dumps(plain, allow_nan=False)


def test_images_without_labels_are_not_drawn_and_other_images_are_refused() -> None:
    a, b = images(np.random.default_rng(6), 25)
    empty = np.zeros((30, 3, K), np.int64)
    more = compare(np.concatenate([a, empty]), np.concatenate([b, empty]), resamples=300)
    assert more.drawn == 25
    assert more.difference == compare(a, b, resamples=300).difference
    with pytest.raises(ValueError, match="truths differ"):
        compare(a, b[::-1])
    with pytest.raises(ValueError, match="no image"):
        compare(empty, empty)


def test_counts_are_those_of_the_score() -> None:
    rng = np.random.default_rng(8)
    metric, counts = MeanIoU(K), []
    for _ in range(5):
        truth = rng.choice([0, 1, 2, 3, 255], (13, 17)).astype(np.uint8)
        prediction = rng.integers(0, K, (13, 17)).astype(np.uint8)
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        counts.append(count_image(prediction, truth, K))
    assert iou(np.sum(counts, 0)) == pytest.approx(metric.scores().iou, abs=0)
    assert mean_iou(np.sum(counts, 0)) == pytest.approx(metric.scores().miou, abs=1e-15)


@pytest.fixture(scope="module")
def other_run(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    """A folder whose best.ckpt is tiny_run's with other last weights."""
    folder = tmp_path_factory.mktemp("other")
    model = load(tiny_run / "best.ckpt", fold=False)
    with torch.no_grad():
        model.net.segmentation_head[0].bias += torch.linspace(-1, 1, len(model.labels))
    stored = torch.load(tiny_run / "best.ckpt", weights_only=True)
    save(model, folder / "best.ckpt", config=stored["config"])
    return folder


def test_the_command_says_what_evaluate_says(tiny_run, other_run, tmp_path, capsys) -> None:
    miou = []
    for name, folder in (("a", tiny_run), ("b", other_run)):
        score = tmp_path / f"{name}.json"
        assert main(["evaluate", f"--checkpoint={folder / 'best.ckpt'}", f"--json={score}"]) == 0
        result = json.loads(score.read_text())
        seen = [c["iou"] for c in result["classes"] if c["pixels"]]
        miou.append(sum(seen) / len(seen))
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
    alone, how = json.loads(score.read_text())["protocol"], result["protocol"]
    assert how["average"] == "one confusion matrix over the split; mean over classes in truth"
    of_this_run = {"average", "command", "date", "heights", "widths"}
    for key in alone.keys() - of_this_run:  # the last score is B's
        assert (how | result["b"])[key] == alone[key], key
    stored = torch.load(tiny_run / "best.ckpt", weights_only=True)
    assert (result["a"]["step"], result["b"]["step"]) == (stored["progress"]["step"], None)
    printed = capsys.readouterr().out
    assert "points" in printed and "car" in printed
    assert main(["compare", str(other_run), str(tiny_run), "--resamples=500", f"--json={out}"]) == 0
    assert json.loads(out.read_text())["difference"]["value"] == -result["difference"]["value"]


def test_the_command_finds_nothing_between_a_run_and_itself(tiny_run, tmp_path, capsys) -> None:
    out = tmp_path / "c.json"
    arguments = ["compare", str(tiny_run), str(tiny_run), f"--json={out}", "--resamples", "100"]
    assert main(arguments) == 0
    assert json.loads(out.read_text())["difference"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert "the same mIoU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{run}"], "RUN_B"),
        (["{run}", "nowhere"], "nowhere"),
        (["{run}", "{empty}"], "best.ckpt"),
        (["{run}", "{run}", "--resamples=0"], "--resamples"),
        (["{run}", "{run}", "--seed=-1"], "--seed: found -1, expected 0 or more"),
        (["{run}", "{run}", "--json={run}"], "is a folder"),
        (["{run}", "{run}", "--json={run}/best.ckpt"], "is a checkpoint that is compared"),
        (["{run}", "{empty}/missing.ckpt"], "missing.ckpt: no such checkpoint"),
        (["{run}", "{empty}/21.ckpt"], "21.ckpt was trained for 21"),
        (["{run}", "{run}", "--split=missing"], "missing"),
    ],
)
def test_mistakes_are_told_before_an_image_is_read(
    arguments, told, tiny_run, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("segcoord.evaluation.compare.evaluate", None)
    save(create_model("mobilenetv2_ca_050", 21), tmp_path / "21.ckpt")
    words = [word.format(run=tiny_run, empty=tmp_path) for word in arguments]
    assert main(["compare", *words]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_damaged_pack_is_not_compared(tiny_run, tmp_path, capsys) -> None:
    config = f"--config={tiny_run / 'config.yaml'}"
    assert main(["data", "pack", config, "--split=val", f"--out={tmp_path}"]) == 0
    arguments = ["compare", str(tiny_run), str(tiny_run), f"--data.pack={tmp_path}"]
    arguments.append("--resamples=10")
    assert main(arguments) == 0
    with (tmp_path / "val" / MASKS).open("r+b") as file:
        file.seek(5000)
        value = file.read(1)[0]
        file.seek(5000)
        file.write(bytes([value ^ 1]))
    assert main(arguments) == 1
    assert "the pack is damaged: 1 of 6 masks are not as they" in capsys.readouterr().err
