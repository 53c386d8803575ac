"""The learning rate schedule, the files of a run, and runs that start from another one."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import torch
from helpers import command, interrupt_at, rows, start_train, wait_for, weights

from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.loading import read_yaml
from segcoord.config.schema import TrainConfig
from segcoord.models.checkpoint import read_checkpoint
from segcoord.training.optim import lr_multiplier


def test_schedules_follow_their_formulas() -> None:
    poly = TrainConfig(max_steps=100, poly_power=0.9)
    assert [lr_multiplier(step, poly) for step in (0, 50)] == [1, pytest.approx(0.5**0.9)]
    cosine = TrainConfig(max_steps=100, schedule="cosine", poly_power=None)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), T_max=100
    )
    for step in range(100):
        assert lr_multiplier(step, cosine) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        theirs.optimizer.step()
        theirs.step()


def test_a_killed_run_resumes_from_the_last_validation(
    uninterrupted: Path, sample_voc: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    child = start_train(command(sample_voc, folder), tmp_path / "printed")
    wait_for(folder / "best.ckpt", child)
    child.process.kill()
    child.wait()
    assert child.returncode == -signal.SIGKILL
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    mine, theirs = weights(folder), weights(uninterrupted)
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    assert rows(folder) == rows(uninterrupted)


def test_a_run_writes_the_documented_files(uninterrupted: Path) -> None:
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


def test_epochs_become_the_steps_of_the_run(tiny_run: Path, tmp_path: Path, capsys) -> None:
    """16 images in batches of 4; resumed with the same setting, and refused with another."""
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    assert "6 of 4 images, 1.5 epochs of 4 steps" in (folder / "log.txt").read_text()
    settings = read_yaml(folder / "config.yaml")["train"]
    assert (settings["max_steps"], settings["epochs"]) == (6, None)
    assert run(train, "train.py", [f"--resume={folder}", "--train.epochs=1.5"]) == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert run(train, "train.py", [f"--resume={folder}", "--train.epochs=2"]) == 1
    assert "train.max_steps: 6 in the run, 8 now" in capsys.readouterr().err


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
def test_a_resumed_run_refuses_other_settings(uninterrupted, capsys, arguments, message) -> None:
    assert run(train, "train.py", [f"--resume={uninterrupted}", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_new_run_needs_an_empty_folder(uninterrupted, sample_voc, capsys) -> None:
    assert run(train, "train.py", command(sample_voc, uninterrupted)) == 1
    assert "exists and is not empty" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_interrupted_run_resumes_on_a_gpu(sample_voc: Path, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "run"
    on_gpu = "--train.accelerator=cuda"
    with monkeypatch.context() as patch:
        interrupt_at(5, patch)
        assert run(train, "train.py", command(sample_voc, folder, on_gpu)) == 130
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    assert [int(r["step"]) for r in rows(folder) if r["miou"]] == [3, 6, 8]
    assert all(t.isfinite().all() for t in weights(folder).values())
