"""Classification: image folders, accuracy, resume, and weights for segmentation."""

from __future__ import annotations

import csv
import shutil
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, interrupt_at

import segcoord
from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.schema import (
    ClassificationConfig,
    ClassifierConfig,
    ImageFolderConfig,
    OptimConfig,
)
from segcoord.data.image_folder import find_folders
from segcoord.models.checkpoint import read_checkpoint
from segcoord.models.classifier import create_classifier
from segcoord.training.classification import ClassificationTask
from segcoord.training.init_from import init_from
from segcoord.utils.errors import UserError

CLASSES = [f"n{number:08d}" for number in (7, 21, 3, 11, 40, 8)]
TINY = [
    "--model.encoder=mobilenetv2_ca_050",
    "--data.crop_size=48",
    "--data.resize=56",
    "--data.workers=0",
    "--train.batch_size=6",
    "--train.max_steps=9",
    "--train.lr=0.005",
    "--train.val_interval=4",
    "--train.accelerator=cpu",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and two validation images for each of six classes, one color per class."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = rng.integers(0, 90, (60 + number, 72, 3), dtype=np.uint8)
                image[..., label % 3] += np.uint8(60 + 80 * (label // 3))
                cv2.imwrite(str(folder / f"{name}_{number}.JPEG"), image)
    return root


def command(root: Path, folder: Path) -> list[str]:
    config = ROOT / "configs" / "imagenet.yaml"
    return [f"--config={config}", f"--data.root={root}", f"--run={folder}", *TINY]


@pytest.fixture(scope="module")
def trained(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run(train, "train.py", command(folders, folder)) == 0
    return folder


def test_a_run_logs_both_accuracies(trained: Path) -> None:
    with (trained / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scored = [row for row in rows if row["top1"]]
    assert [int(row["step"]) for row in scored] == [4, 8, 9]
    assert all(0 <= float(row["top1"]) <= float(row["top5"]) <= 1 for row in scored)
    assert all(0 < float(row["loss"]) < 20 for row in rows if row["loss"])
    checkpoint = read_checkpoint(trained / "best.ckpt")
    assert checkpoint["model"]["classes"] == sorted(CLASSES)
    assert checkpoint["config"]["train"]["schedule"] == "cosine"


def test_an_interrupted_run_resumes_bit_for_bit(
    folders: Path, trained: Path, tmp_path: Path, monkeypatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(5, patch)
        assert run(train, "train.py", command(folders, folder)) == 130
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    mine, theirs = (read_checkpoint(f / "last.ckpt")["state_dict"] for f in (folder, trained))
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)


def test_accuracies_are_fractions_of_the_images(folders: Path) -> None:
    """With the same logits for every image."""
    data = ImageFolderConfig(str(folders), crop_size=32, resize=32, workers=0)
    config = ClassificationConfig(ClassifierConfig(), data, OptimConfig(max_steps=1))
    model = create_classifier("mobilenetv2_050", sorted(CLASSES))
    task = ClassificationTask(config, model, find_folders(data))
    order = torch.tensor([5.0, 4, 3, 2, 1, 0])
    model.forward = lambda x: order.expand(len(x), 6)
    seen = []
    scores = task.validate(model, lambda: seen.append(1))
    assert scores == {"top1": pytest.approx(1 / 6), "top5": pytest.approx(5 / 6)}
    assert len(seen) == 12


def test_a_classifier_initializes_an_encoder(trained: Path) -> None:
    model = segcoord.create_model("mobilenetv2_ca_050", 3)
    report = init_from(model, trained / "best.ckpt")
    theirs = read_checkpoint(trained / "best.ckpt")["state_dict"]
    own = model.net.encoder.model.state_dict()
    assert all(torch.equal(own[name], theirs[f"net.{name}"]) for name in own)
    # An encoder has neither the head nor the classifier.
    assert {name.split(".")[0] for name in report.unused} == {"conv_head", "bn2", "classifier"}
    assert report.new == []


def test_another_encoder_refuses_the_weights(trained: Path) -> None:
    model = segcoord.create_model("mobilenetv2_ca_075", 3)
    with pytest.raises(UserError, match="of mobilenetv2_ca_050, expected those of mobilenetv2_ca_"):
        init_from(model, trained / "best.ckpt")


def test_a_classifier_is_no_segmentation_model(trained: Path, capsys) -> None:
    with pytest.raises(UserError, match="--init-from"):
        segcoord.load(trained / "best.ckpt")
    assert run(evaluate, "evaluate.py", [f"--checkpoint={trained / 'best.ckpt'}"]) == 1
    assert "a classifier of 6 classes" in capsys.readouterr().err


def test_augmentation_depends_on_the_key_alone(folders: Path) -> None:
    data = ImageFolderConfig(str(folders), crop_size=32)
    config = ClassificationConfig(ClassifierConfig(), data, OptimConfig(max_steps=1))
    task = ClassificationTask(
        config, create_classifier("mobilenetv2_050", sorted(CLASSES)), find_folders(data)
    )
    one, again, other = (task.train_set[key]["image"] for key in ((0, 5), (0, 5), (1, 5)))
    assert one.shape == (32, 32, 3)
    assert one.dtype == np.uint8
    assert (one == again).all()
    assert (one != other).any()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda root: (root / "val").rename(root / "validation"), "val: no such folder; found"),
        (
            lambda root: (root / "val" / CLASSES[0]).rename(root / "val" / "x"),
            "only in one of them: ",
        ),
        (lambda root: [p.unlink() for p in (root / "train" / CLASSES[2]).iterdir()], CLASSES[2]),
    ],
)
def test_broken_folders_are_errors(folders: Path, tmp_path: Path, broken, message: str) -> None:
    root = shutil.copytree(folders, tmp_path / "copy")
    broken(root)
    with pytest.raises(UserError, match=message):
        find_folders(ImageFolderConfig(str(root)))


def test_joined_splits_have_the_images_of_both(folders: Path, tmp_path: Path) -> None:
    joined, val = find_folders(ImageFolderConfig(str(folders), train_split="val+train"))
    train, _ = find_folders(ImageFolderConfig(str(folders)))
    assert joined.name == "val+train"
    assert list(joined.samples) == [*val.samples, *train.samples]
    root = shutil.copytree(folders, tmp_path / "copy")
    (root / "val" / CLASSES[0]).rename(root / "val" / "x")
    with pytest.raises(UserError, match="train has 6 classes, val 6; only in one of them: "):
        find_folders(ImageFolderConfig(str(root), train_split="train+val"))


def test_class_folders_in_other_unicode_forms_are_the_same_classes(tmp_path: Path) -> None:
    """The decomposed form sorts before z, the composed form after it."""
    for split, form in (("train", "NFC"), ("val", "NFD")):
        for name in ("é", "z"):
            folder = tmp_path / split / unicodedata.normalize(form, name)
            folder.mkdir(parents=True)
            (folder / f"{split}.png").touch()
    train_set, val_set = find_folders(ImageFolderConfig(str(tmp_path)))
    assert train_set.classes == val_set.classes == ["z", "é"]
    for path, index in val_set.samples:
        name = unicodedata.normalize("NFC", Path(path).parent.name)
        assert val_set.classes[index] == name


def test_a_file_that_is_no_image_is_reported_before_training(
    folders: Path, tmp_path: Path, capsys
) -> None:
    root = shutil.copytree(folders, tmp_path / "copy")
    (root / "train" / CLASSES[1] / "x.JPEG").write_text("hello")
    assert run(train, "train.py", command(root, tmp_path / "run")) == 1
    assert "x.JPEG" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--model.output_stride=8", "unknown option --model.output_stride"),
        ("--data.scale=[0, 1]", "data.scale"),
        ("--data.resize=32", "data.resize: found 32, expected at least data.crop_size, 48"),
        ("--train.poly_power=0.9", "null with cosine"),
        ("--model.drop_rate=1", "model.drop_rate"),
    ],
)
def test_impossible_settings_are_refused(
    folders: Path, tmp_path: Path, capsys, option: str, message: str
) -> None:
    assert run(train, "train.py", [*command(folders, tmp_path / "run"), option]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
