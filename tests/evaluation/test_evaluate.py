"""The evaluate command: scores, exported files, and errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import mean_iou
from PIL import Image

from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import run
from segcoord.data.labels import CITYSCAPES


@pytest.fixture
def cityscapes(cityscapes_checkpoint: Path, sample_cityscapes: Path) -> list[str]:
    """Arguments that evaluate an untrained model on the Cityscapes sample."""
    return [
        f"--checkpoint={cityscapes_checkpoint}",
        "--data.layout=cityscapes",
        f"--data.root={sample_cityscapes}",
        "--data.workers=0",
    ]


def test_exported_voc_masks_have_the_reported_score(
    tiny_run: Path, sample_voc: Path, tmp_path: Path, capsys
) -> None:
    arguments = [
        f"--checkpoint={tiny_run / 'best.ckpt'}",
        f"--masks={tmp_path / 'masks'}",
        f"--overlays={tmp_path / 'overlays'}",
        f"--sheet={tmp_path / 'sheet.png'}",
        f"--json={tmp_path / 'score.json'}",
        "--data.workers=2",  # the validation during training used none
    ]
    assert run(evaluate, "evaluate.py", arguments) == 0
    result = json.loads((tmp_path / "score.json").read_text())
    stored = torch.load(tiny_run / "best.ckpt", weights_only=True)["progress"]["best"]
    assert result["miou"] == stored
    folder = sample_voc / "VOCdevkit" / "VOC2012"
    stems = (folder / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    masks = sorted((tmp_path / "masks").iterdir())
    assert [p.stem for p in masks] == sorted(stems)
    pairs = []
    for path in masks:
        picture, truth = Image.open(path), Image.open(folder / "SegmentationClass" / path.name)
        assert picture.mode == "P"
        assert picture.size == truth.size
        assert picture.getpalette()[:6] == [128, 64, 128, 244, 35, 232]  # road, sidewalk
        pairs.append((np.array(truth), np.array(picture)))
    assert result["miou"] == pytest.approx(mean_iou(pairs, list(range(8))), abs=1e-12)
    assert result["images"] == len(stems) == result["protocol"]["images"]
    assert [c["name"] for c in result["classes"]][:2] == ["road", "sidewalk"]
    assert result["protocol"]["split"] == "val"
    assert result["protocol"]["size"] == "original"
    printed = capsys.readouterr().out
    assert f"mIoU {100 * result['miou']:.2f} %" in printed
    assert "traffic sign" in printed
    for path in (tmp_path / "overlays").iterdir():
        assert Image.open(path).size[0] == 128
    assert Image.open(tmp_path / "sheet.png").size[0] > 3 * 300


def test_exported_cityscapes_masks_are_label_ids(
    cityscapes: list[str], sample_cityscapes: Path, tmp_path: Path, capsys
) -> None:
    outputs = [f"--masks={tmp_path / 'masks'}", f"--json={tmp_path / 'score.json'}"]
    assert run(evaluate, "evaluate.py", [*cityscapes, *outputs]) == 0
    ids = [c.id for c in CITYSCAPES.classes]
    pairs = []
    for path in sorted((tmp_path / "masks").iterdir()):
        frame = path.stem.removesuffix("_leftImg8bit")
        city = frame.split("_")[0]
        truth = sample_cityscapes / "gtFine" / "val" / city / f"{frame}_gtFine_labelIds.png"
        prediction = Image.open(path)
        assert prediction.mode == "L"
        pairs.append((np.array(Image.open(truth)), np.array(prediction)))
        assert set(np.unique(pairs[-1][1])) <= set(ids)
    assert len(pairs) == 4
    result = json.loads((tmp_path / "score.json").read_text())
    assert result["miou"] == pytest.approx(mean_iou(pairs, ids), abs=1e-12)
    assert result["classes_counted"] < 19  # the sample has 8
    absent = [c for c in result["classes"] if c["iou"] is None]
    assert len(absent) == 19 - result["classes_counted"]
    assert "absent and left out" in capsys.readouterr().out


def test_a_split_without_masks_is_predicted_but_not_scored(
    cityscapes: list[str], tmp_path: Path, capsys
) -> None:
    test = [*cityscapes, "--split=test"]
    assert run(evaluate, "evaluate.py", [*test, f"--masks={tmp_path / 'masks'}"]) == 0
    assert "mIoU" not in capsys.readouterr().out
    assert list((tmp_path / "masks").glob("*_leftImg8bit.png"))
    assert run(evaluate, "evaluate.py", test) == 1
    assert "has no masks, so it can't be scored" in capsys.readouterr().err
    json_too = [*test, f"--masks={tmp_path / 'm'}", f"--json={tmp_path / 's.json'}"]
    assert run(evaluate, "evaluate.py", json_too) == 1
    assert not (tmp_path / "s.json").exists()


def test_dummy_masks_are_not_scored(
    cityscapes: list[str], sample_cityscapes: Path, tmp_path: Path, capsys
) -> None:
    """The masks of the official test split are all void."""
    for image in (sample_cityscapes / "leftImg8bit" / "test").glob("*/*.png"):
        frame = image.name.removesuffix("_leftImg8bit.png")
        here = tmp_path / "leftImg8bit" / "test" / image.parent.name / image.name
        mask = tmp_path / f"gtFine/test/{image.parent.name}/{frame}_gtFine_labelIds.png"
        here.parent.mkdir(parents=True, exist_ok=True)
        mask.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(image)
        Image.fromarray(np.zeros((96, 128), np.uint8)).save(mask)
    arguments = [*cityscapes, "--split=test", f"--data.root={tmp_path}"]
    assert run(evaluate, "evaluate.py", arguments) == 1
    assert "dummy masks" in capsys.readouterr().err
    assert run(evaluate, "evaluate.py", [*arguments, f"--masks={tmp_path / 'masks'}"]) == 0
    assert "mIoU" not in capsys.readouterr().out
    assert len(list((tmp_path / "masks").iterdir())) == 8


@pytest.mark.parametrize(("split", "linked"), [("val", True), ("unlabelled", False)])
def test_predictions_are_never_written_into_the_dataset(
    split: str, linked: bool, tiny_run: Path, sample_voc: Path, tmp_path: Path, capsys
) -> None:
    """Predictions among the masks would become the truth of an unlabeled split: mIoU 100 %."""
    shutil.copytree(sample_voc, tmp_path / "own")
    root = tmp_path / "own" / "VOCdevkit" / "VOC2012"
    stem = (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[0]
    shutil.copy(root / "JPEGImages" / f"{stem}.jpg", root / "JPEGImages" / "new.jpg")
    (root / "ImageSets" / "Segmentation" / "unlabelled.txt").write_text("new\n")
    if linked:  # masks that are symlinks to files elsewhere
        for path in [*(root / "SegmentationClass").iterdir()]:
            path.rename(tmp_path / path.name)
            path.symlink_to(tmp_path / path.name)
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", f"--data.root={tmp_path / 'own'}"]
    arguments += [f"--split={split}", "--data.workers=0"]
    for folder in (root / "SegmentationClass", root / "JPEGImages"):
        assert run(evaluate, "evaluate.py", [*arguments, f"--masks={folder}"]) == 1
        assert "is in a folder of the dataset" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before
    assert not (root / "SegmentationClass" / "new.png").exists()
    assert run(evaluate, "evaluate.py", [*arguments, f"--masks={root / 'results'}"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--masks={new}", "--overlays={new}"], "--masks and --overlays: both are"),
        (["--json={new}", "--report={new}"], "expected two files"),
        (["--json={run}/best.ckpt"], "--checkpoint and --json: both are"),
        (["--report={new}", "--against={run}", "--json={run}/best.ckpt"], "--against and --json"),
        (["--json={run}"], "is a folder, expected a file"),
        (["--json={run}/config.yaml/score.json"], "config.yaml is not a folder"),
        (["--masks={run}/config.yaml"], "config.yaml is not a folder"),
    ],
)
def test_unwritable_outputs_are_refused_before_an_image_is_read(
    options: list[str], message: str, tiny_run: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("segcoord.evaluation.run.find_split", None)
    before = (tiny_run / "best.ckpt").read_bytes()
    options = [option.format(run=tiny_run, new=tmp_path / "new") for option in options]
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", *options]
    assert run(evaluate, "evaluate.py", arguments) == 1
    assert message in capsys.readouterr().err
    assert (tiny_run / "best.ckpt").read_bytes() == before
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["missing.ckpt", "foreign.ckpt", "text.ckpt"])
def test_a_missing_or_foreign_checkpoint_is_an_error(name: str, tmp_path: Path, capsys) -> None:
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    (tmp_path / "text.ckpt").write_text("weights")
    assert run(evaluate, "evaluate.py", [f"--checkpoint={tmp_path / name}"]) == 1
    error = capsys.readouterr().err
    assert name in error
    assert "Traceback" not in error


def test_a_dataset_with_other_classes_is_an_error(tiny_run, sample_cityscapes, capsys) -> None:
    arguments = [
        f"--checkpoint={tiny_run / 'best.ckpt'}",
        "--data.layout=cityscapes",
        "--data.classes=null",
        f"--data.root={sample_cityscapes}",
    ]
    assert run(evaluate, "evaluate.py", arguments) == 1
    assert "19 classes" in capsys.readouterr().err
