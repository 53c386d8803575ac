"""Class weights: the formulas, the weighted loss, and training runs that use it."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, SMALL
from PIL import Image

from segcoord.cli.main import main, run
from segcoord.cli.train import train
from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.checks.split import SplitCheck, check_split
from segcoord.data.class_weights import FORMULAS, class_weights
from segcoord.data.layouts import find_split
from segcoord.models.checkpoint import read_checkpoint
from segcoord.training.losses import cross_entropy

MASKS = ([[0, 0, 0, 0, 0, 0, 1, 255]], [[0, 0, 0, 1, 1, 2, 255, 255]], [[0, 0, 255, 255] * 2])


@pytest.fixture
def three(tmp_path: Path) -> SplitCheck:
    """A split of three masks with 13 pixels of class 0, 3 of 1, 1 of 2, none of 3, and 7 void."""
    for kind in ("images", "masks"):
        (tmp_path / kind / "train").mkdir(parents=True)
    for number, values in enumerate(MASKS):
        Image.new("RGB", (8, 1)).save(tmp_path / "images" / "train" / f"{number}.png")
        mask = Image.fromarray(np.array(values, np.uint8))
        mask.save(tmp_path / "masks" / "train" / f"{number}.png")
    classes = [ClassConfig(name, [0, 0, n]) for n, name in enumerate("abcd")]
    return check_split(find_split(DataConfig("folder", str(tmp_path), classes=classes), "train"))


def test_pixels_are_counted_in_the_images_where_a_class_occurs(three: SplitCheck) -> None:
    assert three.pixels.tolist() == [13, 3, 1, 0]
    assert three.pixels_where_present.tolist() == [7 + 6 + 4, 7 + 6, 6, 0]


def test_formulas_match_values_computed_by_hand(three: SplitCheck) -> None:
    p = [13 / 17, 3 / 17, 1 / 17]
    mean = (1 / p[0] + 1 / p[1] + 1 / p[2]) / 3
    expected = {
        "inverse": [1 / p[0] / mean, 1 / p[1] / mean, 1 / p[2] / mean, 0],
        "enet": [*(1 / math.log(1.02 + x) for x in p), 0],
        # 13/17, 3/13, 1/6: the median is 3/13.
        "median": [(3 / 13) / (13 / 17), 1, (3 / 13) / (1 / 6), 0],
    }
    assert set(expected) == set(FORMULAS)
    for formula, weights in expected.items():
        np.testing.assert_allclose(class_weights(three, formula), weights, rtol=1e-12)


def test_inverse_weights_have_mean_1_and_enet_weights_are_bounded() -> None:
    pixels = np.array([10**12, 10**6, 1, 0], np.int64)
    check = SplitCheck(pixels, pixels, pixels)
    assert class_weights(check, "inverse")[:3].mean() == pytest.approx(1)
    enet = class_weights(check, "enet")
    assert enet[0] == pytest.approx(1 / math.log(2.02), rel=1e-5)
    assert enet[2] == pytest.approx(1 / math.log(1.02))


@pytest.mark.parametrize("formula", FORMULAS)
def test_weighted_loss_equals_pytorchs_cross_entropy(three: SplitCheck, formula: str) -> None:
    torch.manual_seed(0)
    weights = torch.from_numpy(class_weights(three, formula)).float()
    logits = torch.randn(2, 4, 6, 7, requires_grad=True)
    target = torch.randint(0, 4, (2, 6, 7), dtype=torch.uint8)
    target[0, :3] = 255
    theirs = F.cross_entropy(logits, target.long(), weights, ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, target, weights), theirs)
    (expected,) = torch.autograd.grad(theirs, logits)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, target, weights), logits)
    torch.testing.assert_close(gradient, expected)


def test_equal_weights_give_the_unweighted_loss() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 6, 7)
    target = torch.randint(0, 5, (2, 6, 7), dtype=torch.uint8)
    same = cross_entropy(logits, target, torch.full((5,), 3.0))
    torch.testing.assert_close(same, cross_entropy(logits, target))


@pytest.mark.parametrize("value", [255, 1])
def test_loss_is_0_for_only_void_or_only_classes_of_weight_0(value: int) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    target = torch.full((2, 4, 4), value, dtype=torch.uint8)
    loss = cross_entropy(logits, target, torch.tensor([1.0, 0.0, 2.0]))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def command(root: Path, folder: Path, *more: str) -> list[str]:
    return [
        f"--config={ROOT / 'configs' / 'sample.yaml'}",
        f"--data.root={root}",
        f"--run={folder}",
        "--train.max_steps=2",
        "--train.val_interval=2",
        *SMALL,
        *more,
    ]


def state(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "last.ckpt")["state_dict"]


def test_weights_change_training_and_resuming_is_exact_unless_masks_change(
    sample_voc: Path, tmp_path: Path, capsys
) -> None:
    data = tmp_path / "data"
    shutil.copytree(sample_voc, data)
    masks = data / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    for path in masks.iterdir():
        ids = np.array(Image.open(path))
        Image.fromarray(np.where(ids == 7, 255, ids).astype(np.uint8)).save(path)
    stopped, by_hand, plain = tmp_path / "stopped", tmp_path / "by_hand", tmp_path / "plain"
    stop_after(1, command(data, stopped, "--train.class_weights=median"))
    printed = " ".join(capsys.readouterr().out.split())  # the terminal may wrap lines
    assert "weights median: road 0." in printed
    assert "traffic sign 0 (absent from the training masks: traffic sign)" in printed
    weights = json.loads((stopped / "origin.json").read_text())["class_weights"]
    assert weights["traffic sign"] == 0
    assert sorted(weights.values())[4] >= 1 >= sorted(weights.values())[1]  # around the median
    before = (stopped / "last.ckpt").read_bytes()
    assert read_checkpoint(stopped / "last.ckpt")["progress"]["step"] == 1

    train_list = data / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt"
    changed = masks / f"{train_list.read_text().split()[0]}.png"
    original = changed.read_bytes()
    Image.fromarray(np.zeros((96, 128), np.uint8)).save(changed)
    assert run(train, "train.py", [f"--resume={stopped}"]) == 1
    error = capsys.readouterr().err
    assert "the class weights were road 0." in error
    assert "training masks have changed" in error
    assert (stopped / "last.ckpt").read_bytes() == before
    changed.write_bytes(original)
    assert run(train, "train.py", [f"--resume={stopped}"]) == 0
    assert run(train, "train.py", [f"--resume={stopped}", "--train.class_weights=enet"]) == 1
    assert "train.class_weights: median in the run, enet now" in capsys.readouterr().err
    resumed = state(stopped)

    # An uninterrupted run with the same weights given as numbers.
    numbers = json.dumps(list(weights.values()))
    assert run(train, "train.py", command(data, by_hand, f"--train.class_weights={numbers}")) == 0
    assert "weights road 0." in " ".join(capsys.readouterr().out.split())
    assert all(torch.equal(resumed[k], v) for k, v in state(by_hand).items())

    assert run(train, "train.py", command(data, plain)) == 0
    assert json.loads((plain / "origin.json").read_text())["class_weights"] is None
    assert any(not torch.equal(resumed[k], v) for k, v in state(plain).items())


def stop_after(step: int, arguments: list[str]) -> None:
    """Train, and interrupt after a step as Ctrl-C does."""
    from segcoord.training import loop as training

    make = training.TrainingLoop._step

    def stepping(loop, batches) -> None:
        make(loop, batches)
        if loop.state.step == step:
            loop.stop_signal = signal.SIGINT

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.TrainingLoop, "_step", stepping)
        assert run(train, "train.py", arguments) == 130


def test_weights_command_prints_every_formula(sample_voc: Path, capsys) -> None:
    config = f"--config={ROOT / 'configs' / 'sample.yaml'}"
    assert main(["data", "weights", config, f"--data.root={sample_voc}"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].split() == ["class", "pixels", "%", "images", *FORMULAS]
    rows = {line.split("  ")[0]: line.split()[-3:] for line in lines[1:9]}
    data = DataConfig("voc", str(sample_voc), classes=[ClassConfig(n, [0, 0, 0]) for n in rows])
    check = check_split(find_split(data, "train"))
    for column, formula in enumerate(FORMULAS):
        printed = [float(row[column]) for row in rows.values()]
        np.testing.assert_allclose(printed, class_weights(check, formula), atol=6e-5)


def test_unknown_formula_is_rejected(sample_voc: Path, tmp_path: Path, capsys) -> None:
    arguments = command(sample_voc, tmp_path / "run", "--train.class_weights=sqrt")
    assert run(train, "train.py", arguments) == 1
    assert (
        "train.class_weights: found sqrt, expected inverse, enet or median"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("[1,2,3]", "found 3 numbers, expected 8, one for each class in the order road, sidewalk"),
        ("[1,1,1,1,1,1,1,-1]", "expected numbers from 1e-6 to 1e6 or 0"),
        ("[1,1,1,1,1,1,1,.nan]", "expected numbers from 1e-6 to 1e6 or 0"),
        ("[1,1,1,1,1,1,1,.inf]", "expected numbers from 1e-6 to 1e6 or 0"),
        ("[1,1,1,1,1,1,1,1e39]", "expected numbers from 1e-6 to 1e6 or 0"),  # inf in float32
        ("[0,0,0,0,0,0,0,1e-50]", "expected numbers from 1e-6 to 1e6 or 0"),  # 0 in float32
        ("[0,0,0,0,0,0,0,0]", "not all of them 0"),
        ("[]", "not all of them 0"),
    ],
)
def test_invalid_weights_are_rejected(
    sample_voc: Path, tmp_path: Path, capsys, numbers: str, message: str
) -> None:
    arguments = command(sample_voc, tmp_path / "run", f"--train.class_weights={numbers}")
    assert run(train, "train.py", arguments) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "train.class_weights: found" in error and message in error
