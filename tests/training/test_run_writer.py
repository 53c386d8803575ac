"""What a run writes besides checkpoints: metrics, log, curves, images; and a full disk."""

from __future__ import annotations

import csv
import os
import resource
import subprocess
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, SMALL, interrupt_at
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import segcoord.training.progress
import segcoord.utils.console
import segcoord.utils.run_log
from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.schema import (
    ClassificationConfig,
    ClassifierConfig,
    ImageFolderConfig,
    OptimConfig,
)
from segcoord.training.plot import _downsample, draw_curves
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
IMAGE = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)


def open_writer(folder: Path, step: int = 0, validated: int = -1, **more: bool) -> RunWriter:
    return RunWriter(folder, CONFIG, SCORES, step, validated, **more)


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(e.step, pytest.approx(e.value)) for e in events.Scalars(name)]


class Quota:
    """No file may grow beyond `size` bytes, as on a full disk."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_an_append_only_file_never_has_a_partial_write(tmp_path: Path) -> None:
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
def test_another_file_named_metrics_csv_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content + b"\n")
    with pytest.raises(UserError, match=r"metrics\.csv: not the metrics of a run.*Move it"):
        MetricsFile(path, SCORES, 5, -1)
    assert path.read_bytes() == content + b"\n"


def test_only_later_prediction_images_are_removed(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    for name in ("step_best.jpg", "step_000007.jpg", "step_000003.jpg"):
        (tmp_path / "predictions" / name).touch()
    open_writer(tmp_path, 5, 5)
    left = {p.name for p in (tmp_path / "predictions").iterdir()}
    assert left == {"step_best.jpg", "step_000003.jpg"}


def test_metrics_drop_the_rows_after_the_state(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    metrics = MetricsFile(path, SCORES, 0, -1)
    for step in (10, 20, 30):
        metrics.add({"step": step, "epoch": "0.1", "loss": 0.5, "lr": 0.1, "seconds": 1})
        metrics.add({"step": step, "epoch": "0.1", "top1": 0.3, "top5": 0.4, "seconds": 1})
    with path.open("a") as file:
        file.write("1")  # a row cut short by a power failure
    # The state of step 20 was saved before its validation, which is repeated.
    MetricsFile(path, SCORES, 20, 10).add({"step": 40, "loss": 0.25})
    rows = [(row["step"], row["loss"], row["top1"]) for row in read_metrics(path)]
    assert rows == [("10", "0.5", ""), ("10", "", "0.3"), ("20", "0.5", ""), ("40", "0.25", "")]


def test_tensorboard_shows_each_step_of_a_resumed_run_once(tmp_path: Path) -> None:
    with open_writer(tmp_path) as first:
        for step in (10, 20, 30):
            first.add(step, 0.1, 1.0, {"loss": 1 / step, "lr": 0.1})
        first.add_examples(30, lambda: IMAGE)
    assert scalars(tmp_path, "loss") == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (shown,) = events.Images("predictions")
    assert (shown.step, shown.height, shown.width) == (30, 30, 40)
    jpeg = (tmp_path / "predictions" / "step_000030.jpg").read_bytes()
    assert shown.encoded_image_string == jpeg

    with open_writer(tmp_path, step=20) as second:  # resumed before the last row
        second.add(30, 0.1, 1.0, {"loss": 0.5})
    assert scalars(tmp_path, "loss") == [(10, 0.1), (20, 0.05), (30, 0.5)]
    assert not (tmp_path / "predictions" / "step_000030.jpg").exists()  # not validated yet


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    with open_writer(tmp_path, enabled=False) as nothing:
        nothing.add(10, 0.1, 1.0, {"loss": 0.5})
        nothing.add_examples(10, lambda: pytest.fail("was drawn"))
    assert not list(tmp_path.iterdir())


def test_the_plot_shows_the_metrics(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    losses, tops = 1 + rng.random(30), rng.random(3)
    with open_writer(tmp_path) as writer:
        for index, loss in enumerate(losses):
            writer.add(10 * index + 10, 0.1, 5.0, {"loss": loss, "lr": 0.1})
        for index, top in enumerate(tops):
            writer.add(100 * index + 100, 0.1, 9.0, {"top1": top, "top5": 0.9})
        assert not (tmp_path / "plot.png").exists()  # not for every row
        writer.next_plot = 0
        writer.add(301, 0.1, 9.0, {"loss": 1.0, "lr": 0.1})
        early = (tmp_path / "plot.png").stat().st_mtime_ns
    with Image.open(tmp_path / "plot.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (900, 660))
    assert (tmp_path / "plot.png").stat().st_mtime_ns > early  # drawn again at the end

    rows = read_metrics(tmp_path / "metrics.csv")
    loss, score, rate = draw_curves(rows, CONFIG, "top1", "imagenet/001").axes
    raw, smooth = loss.lines
    assert np.allclose(raw.get_ydata(), [*losses, 1.0], rtol=1e-5)
    assert np.ptp(smooth.get_ydata()) < np.ptp(raw.get_ydata())
    assert np.allclose(score.lines[0].get_ydata(), 100 * tops, rtol=1e-5)
    best = int(np.argmax(tops))
    label = f"best top-1 {100 * tops[best]:.2f} % at step {100 * best + 100}"
    assert label in [text.get_text() for text in score.texts]
    assert np.allclose(rate.lines[0].get_ydata(), 0.1)
    assert "imagenet/001" in loss.figure.get_suptitle()


@pytest.mark.parametrize("kept", ["loss", "top1"])
def test_a_plot_of_only_losses_or_only_scores(tmp_path: Path, kept: str) -> None:
    with open_writer(tmp_path) as writer:
        writer.add(10, 0.1, 1.0, {kept: 0.5})
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_downsampling_keeps_the_mean() -> None:
    steps, values = np.arange(10_007.0), np.random.default_rng(0).random(10_007)
    fewer_steps, fewer = _downsample(steps, values)
    assert len(fewer) == len(fewer_steps) == 2000
    assert fewer.mean() == pytest.approx(values.mean(), abs=1e-3)
    assert (np.diff(fewer_steps) > 0).all()


def test_the_log_is_the_console_output(tmp_path: Path, monkeypatch) -> None:
    shown = Console(file=StringIO(), force_terminal=True, width=60, soft_wrap=True, markup=False)
    for module in (segcoord.utils.console, segcoord.utils.run_log, segcoord.training.progress):
        monkeypatch.setattr(module, "console", shown)
    with pytest.raises(UserError), RunLog() as log:
        shown.print("said before there was a folder", style="bold red")
        segcoord.utils.console.print_pairs("", [("model", "word " * 15), ("size", "3 M")])
        log.write_to(tmp_path / "log.txt")
        with TrainingBar(100, 0, 5, "miou", -1.0) as bar:
            bar.step(1, 0.7, 0.1)
            bar.advance_validation()
            bar.progress.refresh()
            for step, miou in ((1, 0.4), (2, 0.4), (3, 0.3), (4, 0.5)):
                bar.validated(step, {"miou": miou, "pixel_accuracy": 0.5}, max(miou, 0.4))
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
    marks = {1: "0.4000  (best)", 2: "0.4000  (ties the best)", 3: "0.3000", 4: "0.5000  (best)"}
    for step, shown_score in marks.items():
        assert f"step {step}: mIoU {shown_score}, pixel accuracy 0.5000" in lines
    assert "error: the loss is nan" in lines
    assert lines[-1] == "[goes] on"
    assert not any(sign in "".join(lines) for sign in "\x1b━⠋")
    assert not any("loss 0.700" in line for line in lines)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_does_not_stop_a_run(tmp_path: Path, capsys) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    filler = disk / "filler"
    try:
        with RunLog() as log, open_writer(disk) as writer:
            log.write_to(disk / "log.txt")
            writer.add(10, 0.1, 1.0, {"loss": 1.0, "lr": 0.1})
            with pytest.raises(OSError, match="No space"), filler.open("wb", 0) as file:
                while True:
                    file.write(bytes(4096))
            for step in range(20, 2020, 10):  # more than fits into the files' last pages
                writer.next_plot = 0 if step == 1000 else writer.next_plot
                writer.add(step, 0.1, 1.0, {"loss": 1.0, "lr": 0.1})
                writer.add_examples(step, lambda: IMAGE)
                segcoord.utils.console.console.print(f"line {step:0100}")
            filler.unlink()
            writer.add(2020, 0.1, 1.0, {"loss": 1.0, "lr": 0.1})
            segcoord.utils.console.console.print("the end")
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
    printed = capsys.readouterr().out
    for name in ("metrics.csv", "tensorboard", "plot.png", "predictions", "log.txt"):
        assert printed.count(f"{name}: can't be written, continuing") == 1


def test_training_continues_if_its_files_cant_be_written(
    sample_voc: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """Stopped at step 2 of 4; then other files and folders take the names."""
    folder = tmp_path / "run"
    options = [f"--data.root={sample_voc}", f"--run={folder}", "--train.val_interval=2", *SMALL]
    options += [f"--config={ROOT / 'configs' / 'sample.yaml'}", "--train.max_steps=4"]

    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
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
    printed = capsys.readouterr().out
    for name in ("plot.png", "predictions", "log.txt"):
        assert printed.count(f"{name}: can't be written, continuing") == 1
    steps = [row["step"] for row in csv.DictReader((folder / "metrics.csv").open()) if row["miou"]]
    assert steps == ["2", "4"]
    origin = read_origin(folder)
    assert [session["threads"] for session in origin["resumed"]] == [origin["threads"]]


def test_a_run_writes_its_log_and_images(tiny_run: Path) -> None:
    log = (tiny_run / "log.txt").read_text()
    for text in ("parameters", "train: 16 images", "step 3: mIoU", "step 6: mIoU", "The best"):
        assert text in log
    images = sorted((tiny_run / "predictions").iterdir())
    assert [path.name for path in images] == ["step_000003.jpg", "step_000006.jpg"]
    with Image.open(images[0]) as image:
        assert image.width == 3 * 320 + 4 * 8
        assert image.height > 4 * 240  # four scenes of 4:3, and the legend
