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

SETTINGS = ["--data.layout=folder", "--data.images={name}.png", "--data.masks={name}_mask.png"]
SETTINGS += ["--data.val_fraction=0.34"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images in two subfolders, and 0/255 masks next to them; one image is transparent."""
    for number in range(6):
        mask = np.zeros((64, 80), np.uint8)
        mask[10 + number : 50, 20:60] = 255
        image = Image.fromarray(np.dstack([mask // 2 + 10 * number] * 3))
        if number == 2:
            image.putalpha(128)
        folder = tmp_path / "data" / f"scene{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"{number}_mask.png")
    return tmp_path


def test_one_class_trains_scores_and_writes_0_255_masks(root: Path, capsys) -> None:
    """The splits are made by a fraction, packed, and a mask of another size is left out."""
    bad = root / "data" / "scene0" / "4_mask.png"
    Image.open(bad).resize((40, 32)).save(bad)
    classes = ["--data.classes=[crack]", "--data.skip_bad=true"]
    data = [*SETTINGS, f"--data.root={root / 'data'}", *classes]
    assert main(["data", "pack", *data, "--workers=1"]) == 0
    run = root / "run"
    assert main(["train", *data, *SMALL, f"--run={run}", "--train.max_steps=2"]) == 0
    assert "1 of 4 samples left out" in capsys.readouterr().out
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert 0 <= float(rows[-1]["foreground_iou"]) <= float(rows[-1]["foreground_dice"]) <= 1

    masks, score = root / "out", root / "score.json"
    options = [f"--checkpoint={run / 'best.ckpt'}", f"--masks={masks}", f"--json={score}"]
    assert main(["evaluate", *options]) == 0
    result = json.loads(score.read_text())
    assert [c["name"] for c in result["classes"]] == ["background", "crack"]
    both = either = total = 0
    names = sorted(path.relative_to(masks).with_suffix("") for path in masks.glob("*/*"))
    assert len(names) == 2 and {name.parent.name for name in names} <= {"scene0", "scene1"}
    for name in names:
        written = Image.open(masks / f"{name}.png")
        assert written.mode == "L" and {*np.unique(written)} <= {0, 255}
        truth = np.array(Image.open(root / "data" / f"{name}_mask.png")) == 255
        predicted = np.array(written) == 255
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
    data = [*SETTINGS, f"--data.root={root / 'data'}", classes, "--data.void_ids=[0]"]
    run = root / "run"
    assert main(["train", *data, *SMALL, f"--run={run}", "--train.max_steps=2"]) == 1
    message = capsys.readouterr().err
    assert "without a background class" in message and "{name: background, id: 0}" in message
    assert not run.exists()
