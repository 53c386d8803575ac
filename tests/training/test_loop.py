"""The loss, the schedule, and that a run that was stopped ends as one that never was."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, command, rows, weights

import segcoord
from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.schema import ClassConfig, Config, DataConfig, ModelConfig, TrainConfig
from segcoord.data.layouts import find_split
from segcoord.models.checkpoint import read_checkpoint
from segcoord.training.losses import cross_entropy
from segcoord.training.optim import lr_factor, make_optimizer
from segcoord.training.segmentation import Segmentation

SAMPLE_CLASSES = [ClassConfig(str(n), [n, n, n]) for n in range(8)]


def test_loss_is_the_mean_over_pixels_that_count() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, requires_grad=True)
    target = torch.randint(0, 5, (2, 6, 7), dtype=torch.uint8)
    target[0, :3] = 255
    expected = F.cross_entropy(logits, target.long(), ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, target), expected)


def test_loss_survives_a_batch_without_a_pixel_that_counts() -> None:
    logits = torch.randn(2, 5, 6, 7, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 6, 7), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_schedules() -> None:
    poly = TrainConfig(max_steps=100, poly_power=0.9)
    assert [lr_factor(step, poly) for step in (0, 50)] == [1, pytest.approx(0.5**0.9)]
    cosine = TrainConfig(max_steps=100, schedule="cosine", poly_power=None)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), T_max=100
    )
    for step in range(100):
        assert lr_factor(step, cosine) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        theirs.optimizer.step()
        theirs.step()


def test_groups(sample_voc: Path) -> None:
    train = TrainConfig(max_steps=100, lr=0.1, encoder_lr_factor=0.5)
    data = DataConfig("voc", str(sample_voc), classes=SAMPLE_CLASSES)
    config = Config(ModelConfig("mobilenetv2_ca_050"), data, train)
    model = segcoord.create_model("mobilenetv2_ca_050", len(SAMPLE_CLASSES))
    splits = (find_split(data, "train"), find_split(data, "val"))
    optimizer = make_optimizer(Segmentation(config, model, splits).parameter_groups(), train)
    encoder, rest = optimizer.param_groups
    assert (encoder["factor"], rest["factor"]) == (0.5, 1.0)
    both = {id(p) for group in (encoder, rest) for p in group["params"]}
    assert both == {id(p) for p in model.parameters()}
    assert {id(p) for p in encoder["params"]} == {id(p) for p in model.net.encoder.parameters()}
    assert all(g["momentum"] == 0.9 and g["weight_decay"] == 4e-5 for g in (encoder, rest))


@pytest.mark.parametrize(("stop_at", "workers"), [(2, 0), (3, 2), (7, 0)])
def test_a_resumed_run_equals_one_that_never_stopped(
    uninterrupted: Path, sample_voc: Path, tmp_path: Path, monkeypatch, capsys, stop_at, workers
) -> None:
    from segcoord.training.progress import TrainingBar

    def interrupt(self, step: int, loss: float, lr: float) -> None:
        if step == stop_at:
            signal.raise_signal(signal.SIGINT)  # what Ctrl-C does

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingBar, "step", interrupt)
        assert run(train, "train.py", command(sample_voc, folder)) == 130
    assert f"--resume {folder}" in capsys.readouterr().out
    assert read_checkpoint(folder / "last.ckpt")["progress"]["step"] == stop_at
    torch.rand(stop_at)  # whatever the process drew before must not matter
    assert run(train, "train.py", [f"--resume={folder}", f"--data.workers={workers}"]) == 0
    for name in ("last.ckpt", "best.ckpt"):
        mine, theirs = weights(folder, name), weights(uninterrupted, name)
        assert all(torch.equal(mine[k], theirs[k]) for k in theirs), name
    assert rows(folder) == rows(uninterrupted)


def test_killed_while_training_it_goes_on_from_the_last_validation(
    uninterrupted: Path, sample_voc: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *command(sample_voc, folder)],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (folder / "best.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    mine, theirs = weights(folder), weights(uninterrupted)
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    assert rows(folder) == rows(uninterrupted)


def test_a_run_leaves_what_it_promises(uninterrupted: Path) -> None:
    names = {p.name for p in uninterrupted.iterdir()}
    assert names == {
        *("best.ckpt", "last.ckpt", "previous.ckpt"),
        *("config.yaml", "origin.json", "log.txt", "metrics.csv"),
        *("plot.png", "predictions", "tensorboard", ".lock"),
    }
    assert list((uninterrupted / "tensorboard").iterdir())
    validations = [r for r in rows(uninterrupted) if r["miou"]]
    assert [int(r["step"]) for r in validations] == [3, 6, 8]
    best = read_checkpoint(uninterrupted / "best.ckpt")["progress"]["best"]
    assert best == pytest.approx(max(float(r["miou"]) for r in validations), rel=1e-5)


def test_a_finished_run_says_so(uninterrupted: Path, capsys) -> None:
    before = (uninterrupted / "last.ckpt").read_bytes()
    assert run(train, "train.py", [f"--resume={uninterrupted}"]) == 0
    assert "has nothing left to do" in capsys.readouterr().out
    assert (uninterrupted / "last.ckpt").read_bytes() == before


def test_init_from_starts_from_weights(uninterrupted: Path, sample_voc: Path, tmp_path) -> None:
    source = uninterrupted / "best.ckpt"
    frozen = ["--train.lr=1e-12", "--train.weight_decay=0", "--train.max_steps=1"]
    folder = tmp_path / "run"
    arguments = command(sample_voc, folder, f"--init-from={source}", *frozen)
    assert run(train, "train.py", arguments) == 0
    mine, theirs = weights(folder), weights(uninterrupted, "best.ckpt")
    close = [k for k in theirs if "running" not in k and "num_batches" not in k]
    assert all(torch.allclose(mine[k], theirs[k], atol=1e-6) for k in close)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.lr=0.5"], "train.lr: 0.002 in the run, 0.5 now"),
        (["--model.output_stride=8"], "model.output_stride: 16 in the run, 8 now"),
        (["--run=elsewhere"], "can't be combined with --run"),
    ],
)
def test_a_resumed_run_must_stay_the_same(uninterrupted, capsys, arguments, message) -> None:
    assert run(train, "train.py", [f"--resume={uninterrupted}", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_loss_that_explodes_stops_the_run(sample_voc: Path, tmp_path: Path, capsys) -> None:
    assert run(train, "train.py", command(sample_voc, tmp_path / "r", "--train.lr=1e30")) == 1
    assert "Lower train.lr (now 1e+30)" in capsys.readouterr().err


def test_a_run_folder_that_holds_something_is_left_alone(uninterrupted, sample_voc, capsys) -> None:
    assert run(train, "train.py", command(sample_voc, uninterrupted)) == 1
    assert "exists and is not empty" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_goes_on_where_it_stopped_on_a_gpu(
    sample_voc: Path, tmp_path: Path, monkeypatch
) -> None:
    from segcoord.training.progress import TrainingBar

    def interrupt(self, step: int, loss: float, lr: float) -> None:
        if step == 5:
            signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "run"
    on_gpu = "--train.accelerator=cuda"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingBar, "step", interrupt)
        assert run(train, "train.py", command(sample_voc, folder, on_gpu)) == 130
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    assert [int(r["step"]) for r in rows(folder) if r["miou"]] == [3, 6, 8]
    assert all(t.isfinite().all() for t in weights(folder).values())
