"""Two processes on one CPU train as one does, and stop together."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, command, rows

from segcoord.checkpoints import read_checkpoint
from segcoord.cli import run, train

# At random weights batch norm makes ten per cent of a gradient of what sums in another order
# differ by.
# So these runs begin with some training, and with the encoder's statistics at rest, and are without
# the pooled branch of an ASPP; test_sync.py compares that in double precision.
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


def test_an_evaluation_counts_every_image_once(uninterrupted: Path, tmp_path: Path) -> None:
    """Six images over 1 and 4 processes, more than some have: the same confusion matrix."""
    script = (
        "import sys, json, torch.distributed as dist\n"
        "import segcoord\n"
        "from segcoord.checkpoints import read_checkpoint\n"
        "from segcoord.config import ClassConfig, DataConfig\n"
        "from segcoord.data.layouts import find_split\n"
        "from segcoord.evaluation import evaluate\n"
        "if len(sys.argv) > 2: dist.init_process_group('gloo')\n"
        "plain = dict(read_checkpoint(sys.argv[1])['config']['data'], workers=0)\n"
        "plain['classes'] = [ClassConfig(**c) for c in plain['classes']]\n"
        "split = find_split(DataConfig(**plain), 'val')\n"
        "scores = evaluate(segcoord.load(sys.argv[1]), split, 0)\n"
        "print('COUNTS' + json.dumps(scores.confusion.tolist()), flush=True)\n"
    )
    path = tmp_path / "score.py"
    path.write_text(script)
    checkpoint = str(uninterrupted / "best.ckpt")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4", "--")
    alone = launch(str(path), checkpoint).communicate(timeout=60)[0]
    several = launch(*torchrun, str(path), checkpoint, "several").communicate(timeout=120)[0]
    found, expected = (
        [json.loads(counts) for counts in re.findall(r"COUNTS(\[\[.*?\]\])", printed)]
        for printed in (several, alone)
    )
    assert len(expected) == 1, alone
    assert found == expected * 4, several
