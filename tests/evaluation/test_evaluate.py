"""Scores, exports and what they say about each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, SMALL, mean_iou
from PIL import Image

import segcoord
from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.data.labels import CITYSCAPES


@pytest.fixture(scope="module")
def cityscapes_run(tmp_path_factory: pytest.TempPathFactory, sample_cityscapes: Path) -> Path:
    folder = tmp_path_factory.mktemp("cityscapes") / "run"
    arguments = [
        f"--config={ROOT / 'configs' / 'cityscapes_os8.yaml'}",
        f"--data.root={sample_cityscapes}",
        f"--run={folder}",
        "--train.max_steps=3",
        "--model.encoder_weights=null",
        *SMALL,
    ]
    assert run(train, "train.py", arguments) == 0
    return folder


def test_exported_voc_masks_score_what_was_reported(
    tiny_run: Path, sample_voc: Path, tmp_path: Path, capsys
) -> None:
    arguments = [
        f"--checkpoint={tiny_run / 'best.ckpt'}",
        f"--masks={tmp_path / 'masks'}",
        f"--overlays={tmp_path / 'overlays'}",
        f"--sheet={tmp_path / 'sheet.png'}",
        f"--json={tmp_path / 'score.json'}",
    ]
    assert run(evaluate, "evaluate.py", arguments) == 0
    result = json.loads((tmp_path / "score.json").read_text())
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


def test_the_score_in_the_checkpoint_is_what_evaluation_finds(tiny_run, tmp_path) -> None:
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", f"--json={tmp_path / 's.json'}"]
    assert run(evaluate, "evaluate.py", arguments) == 0
    stored = torch.load(tiny_run / "best.ckpt", weights_only=True)["progress"]["best"]
    assert json.loads((tmp_path / "s.json").read_text())["miou"] == stored


def test_exported_cityscapes_masks_are_label_ids(
    cityscapes_run: Path, sample_cityscapes: Path, tmp_path: Path, capsys
) -> None:
    arguments = [
        f"--checkpoint={cityscapes_run / 'best.ckpt'}",
        f"--masks={tmp_path / 'masks'}",
        f"--json={tmp_path / 'score.json'}",
    ]
    assert run(evaluate, "evaluate.py", arguments) == 0
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
    assert result["classes_counted"] < 19  # the sample has 8; what is neither there nor predicted
    absent = [c for c in result["classes"] if c["iou"] is None]
    assert len(absent) == 19 - result["classes_counted"]
    assert "absent and left out" in capsys.readouterr().out


def test_a_split_without_labels_is_predicted_and_not_scored(
    cityscapes_run: Path, tmp_path: Path, capsys
) -> None:
    test = [f"--checkpoint={cityscapes_run / 'best.ckpt'}", "--split=test"]
    assert run(evaluate, "evaluate.py", [*test, f"--masks={tmp_path / 'masks'}"]) == 0
    assert "mIoU" not in capsys.readouterr().out
    assert list((tmp_path / "masks").glob("*_leftImg8bit.png"))
    assert run(evaluate, "evaluate.py", test) == 1
    assert "nothing to score" in capsys.readouterr().err
    json_too = [*test, f"--masks={tmp_path / 'm'}", f"--json={tmp_path / 's.json'}"]
    assert run(evaluate, "evaluate.py", json_too) == 1
    assert not (tmp_path / "s.json").exists()


def test_dummy_labels_are_not_scored(
    cityscapes_run: Path, sample_cityscapes: Path, tmp_path: Path, capsys
) -> None:
    """The official test split has masks, but every pixel of them is void."""
    for image in (sample_cityscapes / "leftImg8bit" / "test").glob("*/*.png"):
        frame = image.name.removesuffix("_leftImg8bit.png")
        here = tmp_path / "leftImg8bit" / "test" / image.parent.name / image.name
        mask = tmp_path / f"gtFine/test/{image.parent.name}/{frame}_gtFine_labelIds.png"
        here.parent.mkdir(parents=True, exist_ok=True)
        mask.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(image)
        Image.fromarray(np.zeros((96, 128), np.uint8)).save(mask)
    arguments = [
        f"--checkpoint={cityscapes_run / 'best.ckpt'}",
        "--split=test",
        f"--data.root={tmp_path}",
    ]
    assert run(evaluate, "evaluate.py", arguments) == 1
    assert "dummies" in capsys.readouterr().err
    assert run(evaluate, "evaluate.py", [*arguments, f"--masks={tmp_path / 'masks'}"]) == 0
    assert "mIoU" not in capsys.readouterr().out
    assert len(list((tmp_path / "masks").iterdir())) == 8


@pytest.mark.parametrize("split", ["val", "unlabelled"])
@pytest.mark.parametrize("linked", [False, True])
def test_exports_never_lie_among_the_files_of_the_dataset(
    split: str, linked: bool, tiny_run: Path, sample_voc: Path, tmp_path: Path, capsys
) -> None:
    """Predictions beside the masks would be the truth of a split that has none: mIoU 100 %."""
    shutil.copytree(sample_voc, tmp_path / "own")
    root = tmp_path / "own" / "VOCdevkit" / "VOC2012"
    stem = (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[0]
    shutil.copy(root / "JPEGImages" / f"{stem}.jpg", root / "JPEGImages" / "new.jpg")
    (root / "ImageSets" / "Segmentation" / "unlabelled.txt").write_text("new\n")
    if linked:  # as where one tree is made of another's files
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
def test_places_that_can_not_be_written_are_told_before_an_image_is_read(
    options: list[str], message: str, tiny_run: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("segcoord.evaluation.run.find_split", None)
    before = (tiny_run / "best.ckpt").read_bytes()
    words = [word.format(run=tiny_run, new=tmp_path / "new") for word in options]
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", *words]
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


def test_another_datasets_classes_are_an_error(tiny_run, sample_cityscapes, capsys) -> None:
    arguments = [
        f"--checkpoint={tiny_run / 'best.ckpt'}",
        "--data.layout=cityscapes",
        "--data.classes=null",
        f"--data.root={sample_cityscapes}",
    ]
    assert run(evaluate, "evaluate.py", arguments) == 1
    assert "19 classes" in capsys.readouterr().err


def test_evaluation_does_not_depend_on_the_number_of_workers(tiny_run: Path, tmp_path) -> None:
    scores = []
    for workers in (0, 2):
        path = tmp_path / f"{workers}.json"
        arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", f"--json={path}"]
        assert run(evaluate, "evaluate.py", [*arguments, f"--data.workers={workers}"]) == 0
        scores.append(json.loads(path.read_text())["classes"])
    assert scores[0] == scores[1]


def test_python_use(tiny_run: Path, sample_voc: Path) -> None:
    model = segcoord.load(tiny_run / "best.ckpt")
    assert model.labels.names[6] == "car"
    image = next((sample_voc / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir())
    mask = segcoord.predict(model, image)
    assert mask.shape == (96, 128)
