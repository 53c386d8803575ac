"""What a run writes besides checkpoints: numbers, log, curves, pictures; and a full disk."""

from __future__ import annotations

import csv
import os
import resource
import signal
import subprocess
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, SMALL
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import segcoord.utils.console
from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.schema import (
    ClassificationConfig,
    ClassifierConfig,
    ImageFolderConfig,
    OptimConfig,
)
from segcoord.training.plot import _thinned, draw_curves
from segcoord.training.progress import TrainingBar
from segcoord.training.run_dir import read_metrics, read_origin
from segcoord.training.run_writer import MetricsFile, RunWriter
from segcoord.utils.errors import UserError
from segcoord.utils.files import AppendOnlyFile
from segcoord.utils.run_log import RunLog

CONFIG = ClassificationConfig(
    ClassifierConfig(), ImageFolderConfig("nowhere"), OptimConfig(max_steps=100)
)
SCORES = ("top1", "top5")
PICTURE = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)


def record(folder: Path, step: int = 0, validated: int = -1, **more: bool) -> RunWriter:
    return RunWriter(folder, CONFIG, SCORES, step, validated, **more)


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(e.step, pytest.approx(e.value)) for e in events.Scalars(name)]


class Quota:
    """No file may grow beyond `size` bytes, as on a disk that is full."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_growing_file_is_never_left_with_half_a_piece(tmp_path: Path) -> None:
    file = AppendOnlyFile(tmp_path / "file")
    pieces = [f"{n} {'x' * 30}\n".encode() for n in range(5)]
    with Quota(80):
        file.add(pieces[0])
        file.add(pieces[1])
        for piece in pieces[2:4]:
            with pytest.raises(OSError, match="too large"):
                file.add(piece)
            assert file.path.read_bytes() == pieces[0] + pieces[1]
    file.add(pieces[4])
    assert file.path.read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("content", [bytes(range(256)), b"a,b\n1,2\n", b"step,top1,x\n1,,2,3\n"])
def test_another_file_under_the_name_of_the_metrics(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content + b"\n")
    with pytest.raises(UserError, match=r"metrics\.csv: not the table that a run writes.*Move it"):
        MetricsFile(path, SCORES, 5, -1)
    assert path.read_bytes() == content + b"\n"


def test_a_picture_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    for name in ("step_best.jpg", "step_000007.jpg", "step_000003.jpg"):
        (tmp_path / "predictions" / name).touch()
    record(tmp_path, 5, 5)
    left = {p.name for p in (tmp_path / "predictions").iterdir()}
    assert left == {"step_best.jpg", "step_000003.jpg"}


def test_metrics_drop_what_came_after_the_state(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path, SCORES, 0, -1)
    for step in (10, 20, 30):
        metrics.add({"step": step, "epoch": "0.1", "loss": 0.5, "lr": 0.1, "seconds": 1})
        metrics.add({"step": step, "epoch": "0.1", "top1": 0.3, "top5": 0.4, "seconds": 1})
    with path.open("a") as file:
        file.write("1")  # of 140,..., cut short by a power failure
    # The state of step 20 was saved before its validation, which will be done again.
    MetricsFile(path, SCORES, 20, 10).add({"step": 40, "loss": 0.25})
    told = [(row["step"], row["loss"], row["top1"]) for row in read_metrics(path)]
    assert told == [("10", "0.5", ""), ("10", "", "0.3"), ("20", "0.5", ""), ("40", "0.25", "")]


def test_tensorboard_reads_the_events(tmp_path: Path) -> None:
    with record(tmp_path) as first:
        for step in (10, 20, 30):
            first.add(step, 0.1, 1.0, {"loss": 1 / step, "lr": 0.1})
        first.add_examples(30, lambda: PICTURE)
    assert scalars(tmp_path, "loss") == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (shown,) = events.Images("predictions")
    assert (shown.step, shown.height, shown.width) == (30, 30, 40)
    jpeg = (tmp_path / "predictions" / "step_000030.jpg").read_bytes()
    assert shown.encoded_image_string == jpeg

    with record(tmp_path, step=20) as second:  # goes on from a state before the last row
        second.add(30, 0.1, 1.0, {"loss": 0.5})
    assert scalars(tmp_path, "loss") == [(10, 0.1), (20, 0.05), (30, 0.5)]
    assert not (tmp_path / "predictions" / "step_000030.jpg").exists()  # not validated yet


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with record(tmp_path, enabled=False) as nothing:
        nothing.add(10, 0.1, 1.0, {"loss": 0.5})
        nothing.add_examples(10, lambda: pytest.fail("was drawn"))
    assert not list(tmp_path.iterdir())


def test_the_plot_shows_what_the_metrics_hold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    losses, tops = 1 + rng.random(30), rng.random(3)
    with record(tmp_path) as made:
        for index, loss in enumerate(losses):
            made.add(10 * index + 10, 0.1, 5.0, {"loss": loss, "lr": 0.1})
        for index, top in enumerate(tops):
            made.add(100 * index + 100, 0.1, 9.0, {"top1": top, "top5": 0.9})
        assert not (tmp_path / "plot.png").exists()  # not as often as rows come
        made.next_plot = 0
        made.add(301, 0.1, 9.0, {"loss": 1.0, "lr": 0.1})
        early = (tmp_path / "plot.png").stat().st_mtime_ns
    with Image.open(tmp_path / "plot.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (900, 660))
    assert (tmp_path / "plot.png").stat().st_mtime_ns > early  # the end is in it too

    rows = read_metrics(tmp_path / "metrics.csv")
    loss, score, rate = draw_curves(rows, CONFIG, "top1", "imagenet/001").axes
    raw, smooth = loss.lines
    assert np.allclose(raw.get_ydata(), [*losses, 1.0], rtol=1e-5)
    assert np.ptp(smooth.get_ydata()) < np.ptp(raw.get_ydata())
    assert np.allclose(score.lines[0].get_ydata(), 100 * tops, rtol=1e-5)
    best = int(np.argmax(tops))
    told = f"best top-1 {100 * tops[best]:.2f} % at step {100 * best + 100}"
    assert told in [text.get_text() for text in score.texts]
    assert np.allclose(rate.lines[0].get_ydata(), 0.1)
    assert "imagenet/001" in loss.figure.get_suptitle()


@pytest.mark.parametrize("kept", ["loss", "top1"])
def test_a_plot_of_losses_or_scores_alone(tmp_path: Path, kept: str) -> None:
    with record(tmp_path) as made:
        made.add(10, 0.1, 1.0, {kept: 0.5})
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_thinning_keeps_the_mean() -> None:
    steps, values = np.arange(10_007.0), np.random.default_rng(0).random(10_007)
    fewer_steps, fewer = _thinned(steps, values)
    assert len(fewer) == len(fewer_steps) == 2000
    assert fewer.mean() == pytest.approx(values.mean(), abs=1e-3)
    assert (np.diff(fewer_steps) > 0).all()


def test_the_log_is_what_was_printed(tmp_path: Path, monkeypatch) -> None:
    shown = Console(file=StringIO(), force_terminal=True, width=60, soft_wrap=True, markup=False)
    monkeypatch.setattr(segcoord.console, "console", shown)
    with pytest.raises(UserError), RunLog() as log:
        shown.print("said before there was a folder", style="bold red")
        segcoord.console.show_pairs("", [("model", "word " * 15), ("size", "3 M")])
        log.write_to(tmp_path / "log.txt")
        with TrainingBar(100, 0, 5, "miou", -1.0) as bar:
            bar.step(1, 0.7, 0.1)
            bar.advance_validation()
            bar.progress.refresh()
            bar.validated(1, {"miou": 0.4, "pixel_accuracy": 0.5}, 0.4)
        raise UserError("the loss is nan")
    with RunLog() as log:
        log.write_to(tmp_path / "log.txt")
        shown.print("[goes] on")
    shown.print("not part of the run")
    assert "\x1b" in shown.file.getvalue()  # there was a bar
    first, *lines = (tmp_path / "log.txt").read_text().splitlines()
    assert first.startswith("# 20")  # the date, and the command
    assert lines[:1] == ["said before there was a folder"]
    assert ("model  " + "word " * 15).rstrip() in lines  # not cut to the terminal's width
    assert "step 1: mIoU 0.4000  (best), pixel accuracy 0.5000" in lines
    assert "error: the loss is nan" in lines
    assert lines[-1] == "[goes] on"
    assert not any(sign in "".join(lines) for sign in "\x1b━⠋")
    assert not any("loss 0.700" in line for line in lines)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_ends_nothing(tmp_path: Path, capsys) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    filler = disk / "filler"
    try:
        with RunLog() as log, record(disk) as made:
            log.write_to(disk / "log.txt")
            made.add(10, 0.1, 1.0, {"loss": 1.0, "lr": 0.1})
            with pytest.raises(OSError, match="No space"), filler.open("wb", 0) as file:
                while True:
                    file.write(bytes(4096))
            for step in range(20, 2020, 10):  # more than what is left of the files' last pages
                made.next_plot = 0 if step == 1000 else made.next_plot
                made.add(step, 0.1, 1.0, {"loss": 1.0, "lr": 0.1})
                made.add_examples(step, lambda: PICTURE)
                segcoord.console.console.print(f"line {step:0100}")
            filler.unlink()
            made.add(2020, 0.1, 1.0, {"loss": 1.0, "lr": 0.1})
            segcoord.console.console.print("the end")
        steps = list(range(10, 2030, 10))
        assert [int(row["step"]) for row in read_metrics(disk / "metrics.csv")] == steps
        assert [step for step, _ in scalars(disk, "loss")] == steps
        logged = (disk / "log.txt").read_text().splitlines()
        assert [line for line in logged if line.startswith("line")] == [
            f"line {step:0100}" for step in range(20, 2020, 10)
        ]
        assert logged[-1] == "the end"
        assert (disk / "plot.png").stat().st_size > 1000
        assert not list(disk.glob(".*.part"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    told = capsys.readouterr().out
    for name in ("metrics.csv", "tensorboard", "plot.png", "predictions", "log.txt"):
        assert told.count(f"{name}: not written") == 1


def test_a_training_goes_on_where_nothing_can_be_written(
    sample_voc: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """Stopped at step 2 of 4, and then its folder has other things under every name."""
    folder = tmp_path / "run"
    options = [f"--data.root={sample_voc}", f"--run={folder}", "--train.val_interval=2", *SMALL]
    options += [f"--config={ROOT / 'configs' / 'sample.yaml'}", "--train.max_steps=4"]

    def interrupt(self, step: int, loss: float, lr: float) -> None:
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBar, "step", interrupt)
        assert run(train, "train.py", options) == 130
    stopped = (folder / "log.txt").read_text()
    assert f"--resume {folder}" in stopped
    assert (folder / "plot.png").exists()
    for name in ("log.txt", "plot.png"):
        (folder / name).unlink()
        (folder / name).mkdir()
    (folder / "predictions").write_text("")
    capsys.readouterr()
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    told = capsys.readouterr().out
    for name in ("plot.png", "predictions", "log.txt"):
        assert told.count(f"{name}: not written") == 1
    steps = [row["step"] for row in csv.DictReader((folder / "metrics.csv").open()) if row["miou"]]
    assert steps == ["2", "4"]
    origin = read_origin(folder)
    assert [session["threads"] for session in origin["resumed"]] == [origin["threads"]]


def test_a_run_leaves_its_log_and_pictures(tiny_run: Path) -> None:
    log = (tiny_run / "log.txt").read_text()
    for told in ("parameters", "train: 16 images", "step 3: mIoU", "step 6: mIoU", "The best"):
        assert told in log
    pictures = sorted((tiny_run / "predictions").iterdir())
    assert [path.name for path in pictures] == ["step_000003.jpg", "step_000006.jpg"]
    with Image.open(pictures[0]) as picture:
        assert picture.width == 3 * 320 + 4 * 8
        assert picture.height > 4 * 240  # four scenes of 4:3, and the legend
