"""Training and evaluation on CamVid, if available (SEGCOORD_CAMVID names the folder)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import CAMVID, ROOT, mean_iou
from PIL import Image

from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import main, run
from segcoord.cli.train import train

pytestmark = pytest.mark.camvid
CONFIG = f"--config={ROOT / 'configs' / 'camvid_os16.yaml'}"


def test_check_reports_the_published_counts(capsys) -> None:
    assert main(["data", "check", CONFIG, f"--data.root={CAMVID}"]) == 0
    printed = capsys.readouterr().out
    assert "train: 367 images" in printed
    assert "val: 101 images" in printed
    assert "No errors" in printed


@pytest.fixture
def short_lists(tmp_path: Path) -> Path:
    """CamVid with 8 training and 25 validation images."""
    source, base = CAMVID / "VOCdevkit" / "VOC2012", tmp_path / "camvid" / "VOCdevkit" / "VOC2012"
    lists = Path("ImageSets") / "Segmentation"
    (base / lists).mkdir(parents=True)
    for folder in ("JPEGImages", "SegmentationClass"):
        (base / folder).symlink_to(source / folder)
    for name, count in (("train", 8), ("val", 25)):
        names = (source / lists / f"{name}.txt").read_text().split()[:count]
        (base / lists / f"{name}.txt").write_text("\n".join(names))
    return tmp_path / "camvid"


def test_written_masks_have_the_reported_miou(short_lists: Path, tmp_path: Path) -> None:
    small = ["--train.max_steps=2", "--train.batch_size=2", "--data.crop_size=[64,64]"]
    small += ["--model.encoder=mobilenetv2_ca_050"]
    arguments = [CONFIG, f"--data.root={short_lists}", f"--run={tmp_path / 'run'}", *small]
    assert run(train, "train.py", arguments) == 0
    score = tmp_path / "score.json"
    arguments = [f"--checkpoint={tmp_path / 'run' / 'best.ckpt'}", f"--json={score}"]
    assert run(evaluate, "evaluate.py", [*arguments, f"--masks={tmp_path / 'masks'}"]) == 0
    truth = CAMVID / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    pairs = [
        (np.array(Image.open(truth / path.name)), np.array(Image.open(path)))
        for path in (tmp_path / "masks").iterdir()
    ]
    assert len(pairs) == 25
    reported = json.loads(score.read_text())["miou"]
    assert reported == pytest.approx(mean_iou(pairs, list(range(11))), abs=1e-12)
