"""Binary segmentation: one class, 0/255 masks, IoU and Dice coefficient of the foreground."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL
from PIL import Image

import segcoord
from segcoord.cli.main import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """4 training and 2 validation images with a bright rectangle, and 0/255 masks."""
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((64, 80), np.uint8)
            mask[10 + number : 50, 20:60] = 255
            image = np.dstack([mask // 2 + 10 * number + (split == "val")] * 3)
            Image.fromarray(image).save(tmp_path / "images" / split / f"{number}.png")
            Image.fromarray(mask).save(tmp_path / "masks" / split / f"{number}.png")
    return tmp_path


def test_one_class_trains_scores_and_writes_0_255_masks(root: Path, capsys) -> None:
    data = ["--data.layout=folder", f"--data.root={root}", "--data.classes=[crack]"]
    run = root / "run"
    assert main(["train", *data, *SMALL, f"--run={run}", "--train.max_steps=2"]) == 0
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert 0 <= float(rows[-1]["foreground_iou"]) <= float(rows[-1]["foreground_dice"]) <= 1
    capsys.readouterr()

    masks, score = root / "out", root / "score.json"
    options = [f"--checkpoint={run / 'best.ckpt'}", f"--masks={masks}", f"--json={score}"]
    assert main(["evaluate", *options]) == 0
    result = json.loads(score.read_text())
    assert [c["name"] for c in result["classes"]] == ["background", "crack"]
    both = either = total = 0
    for path in sorted((root / "masks" / "val").iterdir()):
        written = Image.open(masks / path.name)
        assert written.mode == "L" and {*np.unique(written)} <= {0, 255}
        predicted, truth = np.array(written) == 255, np.array(Image.open(path)) == 255
        both += (predicted & truth).sum()
        either += (predicted | truth).sum()
        total += predicted.sum() + truth.sum()
    assert result["foreground_iou"] == pytest.approx(both / either)
    assert result["foreground_dice"] == pytest.approx(2 * both / total)
    assert result["classes"][1]["dice"] == result["foreground_dice"]
    percent = (
        f"foreground (crack): IoU {100 * both / either:.2f} %, Dice {200 * both / total:.2f} %"
    )
    assert percent in capsys.readouterr().out

    model = segcoord.load(run / "best.ckpt")
    assert model.labels.binary and model.labels.to_value[:2].tolist() == [0, 255]


def test_a_single_class_with_an_id_is_an_error(root: Path, capsys) -> None:
    """A model of one class scores 100 % and learns nothing."""
    classes = "--data.classes=[{name: crack, id: 255}]"
    data = ["--data.layout=folder", f"--data.root={root}", classes, "--data.void_ids=[0]"]
    run = root / "run"
    assert main(["train", *data, *SMALL, f"--run={run}", "--train.max_steps=2"]) == 1
    message = capsys.readouterr().err
    assert "without a background class" in message and "{name: background, id: 0}" in message
    assert not run.exists()
