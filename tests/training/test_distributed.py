"""Several processes on one CPU: training equals that of one process, evaluation too."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, command, instances_of, rows, start_ranks, start_train, wait_for
from jsonargparse import Namespace
from PIL import Image

import segcoord
from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.data.labels import CITYSCAPES
from segcoord.evaluation.output_options import FILES, FOLDERS, SINGLE_PROCESS, check_options
from segcoord.models.checkpoint import read_checkpoint
from segcoord.utils.devices import is_main_process
from segcoord.utils.errors import UserError

# With random weights batch norm turns rounding differences of sums into ten per cent of a gradient.
# So these runs start from trained weights, freeze the encoder's statistics and use a decoder
# without the pooling branch of an ASPP; test_sync_batchnorm.py has that in double precision.
MODEL = (
    *("--model.encoder=mobilenetv2_ca_050", "--model.decoder=unet", "--model.output_stride=32"),
    *("--data.crop_size=[96,96]", "--train.optimizer=sgd", "--train.momentum=0.9"),
    *("--train.lr=0.01", "--train.class_weights=enet", "--train.ema_decay=0.9"),
    "--data.rare_class_sampling=0.5",
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
    """Losses to 0.2 %, mIoU to 0.005, because the order of sums differs."""
    mine, theirs = rows(two), rows(one)
    assert [row["step"] for row in mine] == [row["step"] for row in theirs]
    for a, b in zip(mine, theirs):
        if a["loss"]:
            assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=0.002)
        else:
            assert float(a["miou"]) == pytest.approx(float(b["miou"]), abs=0.005)


def test_train_py_on_two_devices(
    one: Path, sample_voc: Path, tmp_path: Path, settings: list[str]
) -> None:
    folder = tmp_path / "run"
    arguments = command(sample_voc, folder, *settings, "--train.devices=2")
    child = start_train(arguments, tmp_path / "printed", threads=1)
    printed = child.wait()
    assert child.returncode == 0, printed
    assert "2 x cpu" in printed
    assert printed.count("run        ") == 1  # only the main process prints
    check_same_training(folder, one)


def test_torchrun(one: Path, sample_voc: Path, tmp_path: Path, settings: list[str]) -> None:
    folder = tmp_path / "run"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--")
    process = subprocess.run(
        [sys.executable, *torchrun, ROOT / "train.py", *command(sample_voc, folder, *settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert process.returncode == 0, process.stdout
    check_same_training(folder, one)


def test_sigterm_to_one_process_stops_both_and_one_device_resumes(
    one: Path, sample_voc: Path, tmp_path: Path, settings: list[str]
) -> None:
    folder = tmp_path / "run"
    main, other = start_ranks(2, command(sample_voc, folder, *settings), tmp_path)
    wait_for(folder / "best.ckpt", main)
    os.kill(other.pid, signal.SIGTERM)
    printed = main.wait() + other.wait()
    assert (main.returncode, other.returncode) == (75, 0), printed
    assert printed.count("Stopped and saved") == 1
    assert 3 <= read_checkpoint(folder / "last.ckpt")["progress"]["step"] < 8
    assert run(train, "train.py", [f"--resume={folder}", "--train.devices=1"]) == 0
    check_same_training(folder, one)


def test_an_error_ends_both(sample_voc: Path, tmp_path: Path) -> None:
    """A diverging loss, in a process that Fabric started another one from."""
    arguments = command(sample_voc, tmp_path / "r", "--train.devices=2", "--train.lr=1e30")
    child = start_train(arguments, tmp_path / "printed", threads=1)
    printed = child.wait()
    assert child.returncode == 1, printed
    assert "Lower train.lr (now 1e+30)" in printed
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--train.devices=3"], "4 images of a step can't be divided among 3 devices"),
        (["--train.devices=4", "--train.sync_bn=false"], "leaves one image per device"),
    ],
)
def test_a_batch_must_divide_among_the_devices(
    sample_voc, tmp_path, capsys, settings, message
) -> None:
    assert run(train, "train.py", command(sample_voc, tmp_path / "r", *settings)) == 1
    assert message in capsys.readouterr().err


def test_only_the_first_node_has_the_main_process(monkeypatch) -> None:
    assert is_main_process()
    monkeypatch.setenv("NODE_RANK", "1")  # Lightning's variable, on the second node
    assert not is_main_process()


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory, sample_cityscapes: Path) -> Path:
    """Three images of the Cityscapes sample with instances, and a checkpoint of random weights."""
    root = tmp_path_factory.mktemp("frames") / "data"
    shutil.copytree(sample_cityscapes, root)
    *_, last = sorted((root / "gtFine" / "val").glob("*/*_labelIds.png"))
    for path in root.rglob(f"{last.name.removesuffix('_gtFine_labelIds.png')}*"):
        path.unlink()
    for path in (root / "gtFine" / "val").glob("*/*_labelIds.png"):
        with Image.open(path) as ids:
            instances = instances_of(np.array(ids))
        Image.fromarray(instances).save(path.with_name(path.name.replace("label", "instance")))
    torch.manual_seed(0)
    model = segcoord.create_model("mobilenetv2_ca_050", 19, labels=CITYSCAPES)
    segcoord.save(model, root.parent / "c.ckpt")
    return root


def test_evaluation_counts_every_image_once(frames: Path, tmp_path: Path, capfd) -> None:
    """Three images on two processes: scores, iIoU and masks of one; the main process prints."""
    results = []
    for name in ("one", "two"):
        arguments = [
            f"--checkpoint={frames.parent / 'c.ckpt'}",
            *("--data.layout=cityscapes", f"--data.root={frames}", "--data.workers=0", "--flip"),
            *(f"--json={tmp_path / name}.json", f"--masks={tmp_path / name}"),
        ]
        if name == "one":
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # as the others have
            assert run(evaluate, "evaluate.py", arguments) == 0
            torch.set_num_threads(threads)
            printed = capfd.readouterr().out
        else:
            ranks = start_ranks(2, arguments, tmp_path, evaluate)
            printed = "".join(rank.wait() for rank in ranks)
            assert [rank.returncode for rank in ranks] == [0, 0], printed
        assert printed.count("category mIoU") == printed.count("val: read from") == 1
        result = json.loads((tmp_path / f"{name}.json").read_text())
        masks = {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        results.append((result, masks))
    (one, masks), (two, same_masks) = results
    assert masks == same_masks
    assert len(masks) == 3
    one_protocol, two_protocol = one.pop("protocol"), two.pop("protocol")
    assert (one_protocol["processes"], two_protocol["processes"]) == (1, 2)
    for key in ("images", "heights", "widths", "scales", "flip", "versions"):
        assert one_protocol[key] == two_protocol[key]
    one_classes, two_classes = (each["cityscapes"].pop("classes") for each in (one, two))
    assert any(c["iiou"] for c in one_classes)
    for a, b in zip(one_classes, two_classes):  # the order of floating-point sums differs
        assert b["iiou"] == (a["iiou"] and pytest.approx(a["iiou"], rel=1e-12))
    for key in ("iiou", "category_iiou"):
        assert two["cityscapes"].pop(key) == pytest.approx(one["cityscapes"].pop(key), rel=1e-12)
    one["cityscapes"].pop("categories"), two["cityscapes"].pop("categories")
    assert one == two


@pytest.mark.parametrize("option", ["sheet", "export"])
def test_outputs_of_all_images_need_a_single_process(option: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = dict.fromkeys((*SINGLE_PROCESS, *FILES, *FOLDERS, "overlap", "tile", "against"))
    given["checkpoint"] = "c.ckpt"
    given |= {"sheet": "s.png"} if option == "sheet" else {"export": "voc-server", "out": "a.tar"}
    check_options(Namespace(**given), 1)
    with pytest.raises(UserError, match=f"--{option}: needs a single process"):
        check_options(Namespace(**given), 2)
