"""No command shows a warning of a library; `helpers.COMMAND_TESTS` names the other tests of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import COMMAND_TESTS, ROOT, SMALL, images_of, packed

from segcoord.cli.main import COMMANDS, main

Arguments = Callable[[Path, Path], list[str]]
"""(folder with the sample, its packs and a run, folder for outputs) -> arguments of a command."""


@pytest.fixture(scope="module")
def world(sample_voc: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(shutil.copytree(sample_voc, tmp_path_factory.mktemp("world") / "voc"))
    for split in ("train", "val"):
        packed(root, split)
    shutil.copytree(tiny_run, root.parent / "run")
    return root.parent


def config(world: Path) -> list[str]:
    return [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={world / 'voc'}"]


def training(world: Path, out: Path) -> list[str]:
    """On a pack, whose arrays are read-only, with more loading processes than cores."""
    options = ["--train.max_steps=1", "--data.workers=3", f"--run={out}"]
    return [*config(world), *SMALL, *options]


def color_masks(world: Path, out: Path) -> list[str]:
    masks = world / "voc" / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    return [*config(world), f"--masks={masks}", f"--out={out}", "--void=224,224,192"]


def checking(world: Path, out: Path) -> list[str]:
    """The splits made by a fraction, without the packs."""
    options = ["--data.val_fraction=0.5", "--data.exif=turn", "--data.pack=off"]
    return [*config(world), *options, f"--write-lists={out}"]


def attention(world: Path, out: Path) -> list[str]:
    photo = next(images_of(world / "voc").iterdir())
    return [str(world / "run" / "best.ckpt"), str(photo), f"--out={out}.png"]


CASES: dict[str, Arguments] = {
    "train": training,
    "models": lambda *_: ["mobilenetv2_ca_050"],
    "runs": lambda world, _: [str(world)],
    "attend": attention,
    "data sample": lambda _, out: [f"--out={out}", "--train=1", "--val=1", "--size=128x96"],
    "data check": checking,
    "data ids": color_masks,
    "data show": lambda world, out: [*config(world), f"--out={out}.html"],
    "data split": lambda world, out: [*config(world), f"--out={out}", "--fractions=0.5,0.5"],
    "data weights": lambda world, _: [*config(world), "--data.skip_bad=true"],
    "data pack": lambda world, out: [*config(world), f"--out={out}", "--workers=1"],
}


@pytest.mark.parametrize("name", CASES)
def test_no_warning_reaches_the_user(name: str, world: Path, tmp_path: Path, capfd) -> None:
    assert main([*name.split(), *CASES[name](world, tmp_path / "out")]) == 0
    printed = "".join(capfd.readouterr())
    assert "Warning" not in printed and "warn(" not in printed


def test_every_command_is_tested_with_warnings_as_errors() -> None:
    assert COMMANDS.keys() == CASES.keys() | COMMAND_TESTS.keys()
