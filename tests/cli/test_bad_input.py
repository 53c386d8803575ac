"""User errors end a command before training starts, with a message that says what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import Tree, train_on, truncate
from PIL import Image

from segcoord.cli.main import main


def test_a_wrong_value_of_an_option_with_a_dash_is_named(capsys) -> None:
    assert main(["predict", "--allow-pixels", "abc"]) == 1
    assert "--allow-pixels: found abc, expected an integer" in capsys.readouterr().err


@pytest.fixture
def tree(sample_voc: Path, tmp_path: Path) -> Tree:
    shutil.copytree(sample_voc, tmp_path / "data")
    return Tree(tmp_path / "data")


BREAK: dict[str, tuple[Callable[[Tree], object], str]] = {
    "no root": (
        lambda t: shutil.rmtree(t.base.parents[1]),
        "Give the folder of the dataset with --data.root",
    ),
    "no split": (lambda t: t.train.unlink(), "available splits: trainval, val"),
    "empty split": (lambda t: t.train.write_text("\n \r\n"), "is empty"),
    "no images": (lambda t: shutil.rmtree(t.images), "no such folder"),
    "no image": (lambda t: t.image.unlink(), "no image "),
    "no mask": (lambda t: t.mask.unlink(), "1 of 16 images in split 'train' have no mask"),
    "no masks at all": (lambda t: shutil.rmtree(t.masks), "has no masks; training"),
    "mask of another size": (lambda t: t.write_ids(t.ids()[:-1]), "the mask is 128x95"),
    "mask turned": (lambda t: t.write_ids(t.ids().T), "rotated by its EXIF tag"),
    "only void": (lambda t: t.every_mask(lambda ids: ids * 0 + 255), "has only void in its masks"),
    "RGB mask": (
        lambda t: Image.fromarray(np.dstack([t.ids() + 1] * 3)).save(t.mask),
        "belongs to no class",
    ),
    "raw Cityscapes ids": (
        lambda t: t.write_ids(t.ids() * 0 + 26),
        "mask values 26 (12288 pixels)",
    ),
    "binary 0/255": (lambda t: t.write_ids((t.ids() > 3) * 200), "0/200 binary"),
    "from 1": (
        lambda t: t.every_mask(lambda ids: np.where(ids < 8, ids + 1, ids)),
        "ids start at 1",
    ),
    "gray photograph": (
        lambda t: Image.open(t.image).convert("L").save(t.mask),
        "suggest a gray photograph",
    ),
    "truncated JPEG": (lambda t: truncate(t.image, 0.6), "truncated or damaged"),
    "truncated PNG": (lambda t: truncate(t.mask, 0.6), "truncated or damaged"),
    "not an image": (lambda t: t.image.write_text("hello"), "can't be read as an image"),
    "an image too small to scale": (
        lambda t: (
            Image.new("RGB", (1, 1)).save(t.image),
            t.write_ids(np.ones((1, 1))),
            t.train.write_text("\n".join(t.stems[3:7])),
        ),
        "1x1 pixels can't be scaled by",
    ),
    "16-bit image": (
        lambda t: (
            t.image.unlink(),
            cv2.imwrite(str(t.image.with_suffix(".png")), np.zeros((96, 128, 3), np.uint16)),
        ),
        "more than 8 bits per channel",
    ),
    "16-bit mask": (
        lambda t: cv2.imwrite(str(t.mask), t.ids().astype(np.uint16) + 1000),
        "mask values 1000, ",
    ),
    "duplicate stem in the list": (
        lambda t: t.train.write_text("\n".join([*t.stems, t.stems[2]])),
        "is already listed in line 3",
    ),
    "duplicate stem in the folder": (
        lambda t: Image.new("RGB", (128, 96)).save(t.image.with_suffix(".png")),
        "has the same stem as",
    ),
    "a name that leaves the root": (
        lambda t: t.train.write_text("../../../etc/passwd"),
        "could leave the dataset's folder",
    ),
}


@pytest.mark.parametrize("case", BREAK)
def test_broken_data_is_reported_before_training(case: str, tree: Tree, capsys) -> None:
    damage, message = BREAK[case]
    damage(tree)
    assert train_on(tree) == 1
    output = capsys.readouterr()
    assert message in output.err
    assert "Traceback" not in output.err + output.out
    # Only the data loader finds that an image is too small for the scale.
    assert (tree.base.parents[2] / "run").exists() == (case == "an image too small to scale")


def test_unusual_but_valid_data_trains(tree: Tree) -> None:
    """Windows line ends, blank lines, gray and CMYK images, upper-case suffixes."""
    tree.train.write_bytes("\r\n\r\n".join(tree.stems).encode() + b"\r\n\r\n")
    first, second, third = (tree.images / f"{s}.jpg" for s in tree.stems[:3])
    Image.open(first).convert("L").save(first)
    Image.open(second).convert("CMYK").save(second)
    third.rename(third.with_suffix(".JPG"))
    assert train_on(tree, "--train.max_steps=4") == 0  # one epoch


SETTINGS = {
    "--train.batch_size=1": "a multiple of train.accumulate, 1, and at least twice that",
    "--data.crop_size=[8,64]": "at least the output stride, 16",
    "--model.encoder=mobilenetv2_ca": "the nearest are mobilenetv2_ca_",
    "--model.output_stride=32": "found 32, expected 16 or 8",
    "--data.train_spilt=x": "did you mean --data.train_split?",
    "--train.seed=99999999999999999999": "below 2**63",
    "--train.lr=fast": "train.lr: found fast, expected a number",
    "--init-from=none.ckpt": "none.ckpt: no such file, expected a weight file",
    "--resume=none": "not a run: found no config.yaml in it",
    "--train.accelerator=mps": "can't be used here",
}


@pytest.mark.parametrize("argument", SETTINGS)
def test_wrong_setting_is_reported_before_training(argument: str, tree: Tree, capsys) -> None:
    assert train_on(tree, argument) == 1
    output = capsys.readouterr()
    assert SETTINGS[argument] in output.err
    assert "Traceback" not in output.err + output.out
    assert not (tree.base.parents[2] / "run").exists()


def test_file_damaged_during_training_is_named(tree: Tree, capsys, monkeypatch) -> None:
    """Also in a worker process of the loader, whose traceback must not be printed."""
    from segcoord.data.checks.split import check_split

    def check_then_break(*arguments):
        result = check_split(*arguments)
        for path in tree.images.iterdir():
            truncate(path, 0.5)
        return result

    monkeypatch.setattr("segcoord.data.checks.run.check_split", check_then_break)
    assert train_on(tree, "--data.workers=2") == 1
    error = capsys.readouterr().err
    assert "truncated or damaged" in error
    assert ".jpg" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 0, "usage: segcoord COMMAND"),
        (["--help"], 0, "data sample"),
        (["tarin"], 2, "unknown command 'tarin'; did you mean train?"),
        (["data", "smaple"], 2, "unknown command 'data smaple'"),
        (["--version"], 0, "segcoord 0."),
        (["evaluate"], 1, "--checkpoint: missing"),
        (["data", "sample", "--out=x", "--size=big"], 1, "expected WIDTHxHEIGHT"),
        (["data", "sample", "--out=x", "--layout=coco"], 1, "coco"),
    ],
)
def test_console_command(words: list[str], code: int, message: str, capsys) -> None:
    assert main(words) == code
    output = capsys.readouterr()
    assert message in output.out + output.err
