"""Two processes on one CPU train as one does, and stop together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, command, instances_of, rows
from jsonargparse import Namespace
from PIL import Image

import segcoord
from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.data.labels import CITYSCAPES
from segcoord.evaluation.outputs import FILES, FOLDERS, SINGLE_PROCESS, check_options
from segcoord.models.checkpoint import read_checkpoint
from segcoord.utils.devices import is_main_process
from segcoord.utils.errors import UserError

# At random weights batch norm makes ten per cent of a gradient of what sums in another order differ
# by, so these runs begin with some training, and with the encoder's statistics at rest, and are
# without the pooled branch of an ASPP; test_sync.py compares that in double precision.
MODEL = (
    *("--model.encoder=mobilenetv2_ca_050", "--model.decoder=unet", "--model.output_stride=32"),
    *("--data.crop_size=[96,96]", "--train.optimizer=sgd", "--train.momentum=0.9"),
    *("--train.lr=0.01", "--train.class_weights=enet", "--train.ema_decay=0.9"),
)


def launch(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, sample_voc: Path) -> Path:
    folder = tmp_path_factory.mktemp("start") / "run"
    assert run(train, "train.py", command(sample_voc, folder, *MODEL)) == 0
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def settings(start: Path) -> list[str]:
    return [*MODEL, "--train.freeze_batch_norm=true", f"--init-from={start}"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, sample_voc: Path, settings: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("one") / "run"
    assert run(train, "train.py", command(sample_voc, folder, *settings)) == 0
    return folder


def check_same_training(two: Path, one: Path) -> None:
    """Losses to 0.2 %, mIoU to 0.005: sums in another order."""
    mine, theirs = rows(two), rows(one)
    assert [row["step"] for row in mine] == [row["step"] for row in theirs]
    for a, b in zip(mine, theirs):
        if a["loss"]:
            assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=0.002)
        else:
            assert float(a["miou"]) == pytest.approx(float(b["miou"]), abs=0.005)


def test_two_processes_of_fabric(
    one: Path, sample_voc: Path, tmp_path: Path, settings: list[str]
) -> None:
    folder = tmp_path / "run"
    arguments = command(sample_voc, folder, *settings, "--train.devices=2")
    process = launch(str(ROOT / "train.py"), *arguments)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    assert "2 x cpu" in printed
    assert printed.count("run        ") == 1  # the first process alone prints
    check_same_training(folder, one)


def test_torchrun(one: Path, sample_voc: Path, tmp_path: Path, settings: list[str]) -> None:
    folder = tmp_path / "run"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--")
    process = launch(*torchrun, str(ROOT / "train.py"), *command(sample_voc, folder, *settings))
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 0, printed
    check_same_training(folder, one)


def test_sigterm_stops_both_and_a_run_can_go_on_with_one(
    one: Path, sample_voc: Path, tmp_path: Path, settings: list[str]
) -> None:
    folder = tmp_path / "run"
    arguments = command(sample_voc, folder, *settings, "--train.devices=2")
    process = launch(str(ROOT / "train.py"), *arguments)
    deadline = time.monotonic() + 120
    while not (folder / "best.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 75, printed
    assert printed.count("Stopped and saved") == 1
    assert 3 <= read_checkpoint(folder / "last.ckpt")["progress"]["step"] < 8
    assert run(train, "train.py", [f"--resume={folder}", "--train.devices=1"]) == 0
    check_same_training(folder, one)


def test_a_mistake_ends_both(sample_voc: Path, tmp_path: Path) -> None:
    """A loss that explodes, which every process sees."""
    arguments = command(sample_voc, tmp_path / "r", "--train.devices=2", "--train.lr=1e30")
    process = launch(str(ROOT / "train.py"), *arguments)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 1, printed
    assert "Lower train.lr (now 1e+30)" in printed
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--train.devices=3"], "4 images of a step can't be shared among 3 devices"),
        (["--train.devices=4", "--train.sync_bn=false"], "leaves each device one image"),
    ],
)
def test_a_batch_that_devices_cannot_share(sample_voc, tmp_path, capsys, settings, message) -> None:
    assert run(train, "train.py", command(sample_voc, tmp_path / "r", *settings)) == 1
    assert message in capsys.readouterr().err


def test_one_process_of_all_nodes_is_the_first(monkeypatch) -> None:
    assert is_main_process()
    monkeypatch.setenv("NODE_RANK", "1")  # as Lightning's environment has it, on the second node
    assert not is_main_process()


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory, sample_cityscapes: Path) -> Path:
    """The Cityscapes sample with instances, and a checkpoint for it at random weights."""
    root = tmp_path_factory.mktemp("frames") / "data"
    shutil.copytree(sample_cityscapes, root)
    for path in (root / "gtFine" / "val").glob("*/*_labelIds.png"):
        with Image.open(path) as ids:
            instances = instances_of(np.array(ids))
        Image.fromarray(instances).save(path.with_name(path.name.replace("label", "instance")))
    torch.manual_seed(0)
    model = segcoord.create_model("mobilenetv2_ca_050", 19, labels=CITYSCAPES)
    segcoord.save(model, root.parent / "c.ckpt")
    return root


def test_an_evaluation_counts_every_image_once(frames: Path, tmp_path: Path, capfd) -> None:
    """Four images over three processes: scores, iIoU and masks as of one; the first one prints."""
    found = []
    for name in ("one", "three"):
        words = [
            f"--checkpoint={frames.parent / 'c.ckpt'}",
            *("--data.layout=cityscapes", f"--data.root={frames}", "--data.workers=0", "--flip"),
            *(f"--json={tmp_path / name}.json", f"--masks={tmp_path / name}"),
        ]
        if name == "one":
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # as the others have
            assert run(evaluate, "evaluate.py", words) == 0
            torch.set_num_threads(threads)
            printed = capfd.readouterr().out
        else:
            torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", "--")
            process = launch(*torchrun, str(ROOT / "evaluate.py"), *words)
            printed = process.communicate(timeout=120)[0]
            assert process.returncode == 0, printed
        assert printed.count("category mIoU") == printed.count("val: read from") == 1
        result = json.loads((tmp_path / f"{name}.json").read_text())
        masks = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        found.append((result, masks))
    (one, masks), (three, same_masks) = found
    assert masks == same_masks
    assert len(masks) == 4
    one_made, three_made = one.pop("protocol"), three.pop("protocol")
    assert (one_made["processes"], three_made["processes"]) == (1, 3)
    for key in ("images", "heights", "widths", "scales", "flip", "versions"):
        assert one_made[key] == three_made[key]
    ours, theirs = one["cityscapes"].pop("classes"), three["cityscapes"].pop("classes")
    assert any(c["iiou"] for c in ours)
    for a, b in zip(ours, theirs):  # sums of real numbers, in another order
        assert b["iiou"] == (a["iiou"] and pytest.approx(a["iiou"], rel=1e-12))
    for key in ("iiou", "category_iiou"):
        assert three["cityscapes"].pop(key) == pytest.approx(one["cityscapes"].pop(key), rel=1e-12)
    one["cityscapes"].pop("categories"), three["cityscapes"].pop("categories")
    assert one == three


@pytest.mark.parametrize("option", ["sheet", "export"])
def test_what_needs_all_images_takes_one_process(option: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = dict.fromkeys((*SINGLE_PROCESS, *FILES, *FOLDERS, "overlap", "tile", "against"))
    given["checkpoint"] = "c.ckpt"
    given |= {"sheet": "s.png"} if option == "sheet" else {"export": "voc-server", "out": "a.tar"}
    check_options(Namespace(**given), 1)
    with pytest.raises(UserError, match=f"--{option}: needs a single process"):
        check_options(Namespace(**given), 2)
