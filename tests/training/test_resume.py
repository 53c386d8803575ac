"""Interruption, resume, full disks and damaged states."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import command, interrupt_at, rows, start_train, wait_for, weights
from lightning_fabric import Fabric
from toy_task import Toy

from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.models.checkpoint import read_checkpoint
from segcoord.models.segmentation import ImageModel
from segcoord.training.loop import LOG_INTERVAL, TrainingLoop
from segcoord.training.progress import TrainingBar
from segcoord.training.resume import keep_previous, read_state, require_same_inputs
from segcoord.utils.errors import UserError


def state(folder: Path, name: str = "last.ckpt") -> dict:
    return read_checkpoint(folder / name)


def same(mine: Path, theirs: Path) -> bool:
    for name in ("last.ckpt", "best.ckpt"):
        a, b = weights(mine, name), weights(theirs, name)
        if not all(torch.equal(a[key], b[key]) for key in b):
            return False
    return rows(mine) == rows(theirs)


# Every setting that has a state or draws random numbers.
FULL = (
    *("--train.ema_decay=0.9", "--train.accumulate=2", "--train.warmup_steps=3"),
    *("--train.clip_grad_norm=1.0", "--train.patience=9", "--train.aux_weight=0.4"),
    "--data.rare_class_sampling=0.5",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, sample_voc: Path) -> Path:
    """An uninterrupted run with every setting that has a state."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(train, "train.py", command(sample_voc, folder, *FULL)) == 0
    return folder


@pytest.mark.parametrize(("stop_at", "workers"), [(1, 2), (3, 0)])  # 3: within a validation
def test_an_interrupted_run_resumes_bit_for_bit(
    whole: Path, sample_voc: Path, tmp_path: Path, monkeypatch, capsys, stop_at: int, workers: int
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(stop_at, patch)
        assert run(train, "train.py", command(sample_voc, folder, *FULL)) == 130
    printed = " ".join(capsys.readouterr().out.split())
    assert "rare classes 50% of the crops are drawn for a class: " in printed
    assert f"--resume {folder}" in printed
    assert state(folder)["progress"]["step"] == stop_at
    torch.rand(stop_at)  # the random state of the process must not matter
    assert run(train, "train.py", [f"--resume={folder}", f"--data.workers={workers}"]) == 0
    assert same(folder, whole)


def test_sigterm_saves_and_exits_with_75(whole: Path, sample_voc: Path, tmp_path: Path) -> None:
    """With DataLoader workers, which a cluster's SIGTERM reaches too."""
    folder = tmp_path / "run"
    arguments = command(sample_voc, folder, *FULL, "--data.workers=2")
    child = start_train(arguments, tmp_path / "printed")
    wait_for(folder / "best.ckpt", child)
    os.killpg(child.pid, signal.SIGTERM)
    printed = child.wait()
    assert child.returncode == 75, printed
    assert f"--resume {folder}" in printed
    assert run(train, "train.py", [f"--resume={folder}", "--data.workers=0"]) == 0
    assert same(folder, whole)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, sample_voc: Path) -> Path:
    """The same run, stopped at step 5; the state before is that of the validation at step 3."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(5, patch)
        assert run(train, "train.py", command(sample_voc, folder, *FULL)) == 130
    return folder


def test_a_damaged_state_costs_the_steps_since_the_previous_one(
    whole: Path, stopped: Path, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    last = folder / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    printed = capsys.readouterr().out
    assert "last.ckpt: damaged" in printed
    assert "previous.ckpt, step 3" in printed
    assert same(folder, whole)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "an empty file"), (b"cut short", "damaged"), (None, "no such")],
)
def test_the_previous_state_replaces_an_unusable_one_and_stays(
    stopped: Path, tmp_path: Path, capsys, content: bytes | None, message: str
) -> None:
    """Other processes of the run may read either file later."""
    shutil.copy(stopped / "previous.ckpt", tmp_path)
    if content == b"cut short":
        content = (stopped / "last.ckpt").read_bytes()[:5000]
    if content is not None:
        (tmp_path / "last.ckpt").write_bytes(content)
    assert read_state(tmp_path)["progress"]["step"] == 3
    printed = capsys.readouterr().out
    assert f"last.ckpt: {message}" in printed and "previous.ckpt, step 3" in printed
    assert (tmp_path / "previous.ckpt").exists()
    assert read_state(tmp_path)["progress"]["step"] == 3
    assert capsys.readouterr().out == ""
    keep_previous(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_an_unusable_run_gives_the_reason(whole: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "origin.json", "metrics.csv"):
        shutil.copy(whole / name, folder)
    assert run(train, "train.py", [f"--resume={folder}"]) == 1
    assert "ended before its first step" in capsys.readouterr().err
    old = state(whole)
    del old["training"], old["precision"]
    torch.save(old, folder / "last.ckpt")
    assert run(train, "train.py", [f"--resume={folder}"]) == 1
    printed = capsys.readouterr()
    assert "a state of another version, without precision, training" in printed.err
    assert printed.out == ""  # before the data is checked
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes((whole / name).read_bytes()[:5000])
    assert run(train, "train.py", [f"--resume={folder}"]) == 1
    printed = capsys.readouterr().err
    assert "last.ckpt: damaged" in printed and "previous.ckpt: damaged" in printed


def test_resuming_a_complete_run_trains_nothing_and_removes_partial_files(
    whole: Path, tmp_path: Path, capsys
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / ".last.ckpt.abc.part").write_bytes(b"half")
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert [path.name for path in folder.glob(".*")] == [".lock"]
    assert (folder / "last.ckpt").read_bytes() == (whole / "last.ckpt").read_bytes()


def test_other_training_images_or_masks_are_refused(whole: Path, tmp_path: Path, capsys) -> None:
    """Samples are drawn by index: with one image more a run would resume with other samples."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    origin = json.loads((folder / "origin.json").read_text())
    images = origin["train_images"]
    count = images["count"]

    def change(**values: object) -> None:
        changed = origin | {"train_images": images | values}
        (folder / "origin.json").write_text(json.dumps(changed))

    (folder / "origin.json").write_text(json.dumps(origin | {"rare_classes_sha256": "0"}))
    assert run(train, "train.py", [f"--resume={folder}"]) == 1
    assert "the training masks have changed" in " ".join(capsys.readouterr().err.split())
    change(count=count + 1)
    assert run(train, "train.py", [f"--resume={folder}"]) == 1
    assert f"had {count + 1} images, now {count}" in " ".join(capsys.readouterr().err.split())
    toy = Toy()
    change(count=len(toy), names_sha256="0")
    with pytest.raises(UserError, match="their names or their order changed"):
        require_same_inputs(folder, toy)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 100 MB for a test to fill."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs can't be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("strict", [False, True])
def test_a_full_disk_keeps_the_old_state_and_training_continues(
    uninterrupted: Path, sample_voc: Path, small_disk: Path, monkeypatch, capsys, strict: bool
) -> None:
    """Nothing can be written from step 2 to 7, which includes the validations at 3 and 6."""
    filler = small_disk / "filler"

    def fill_up(self, step: int, loss: float, lr: float) -> None:
        if step == 2:
            with filler.open("wb") as file:
                try:
                    while True:
                        file.write(bytes(1 << 16))
                        file.flush()
                except OSError:
                    pass
        if step == 7:
            assert state(folder)["progress"]["step"] == 0
            filler.unlink()

    folder = small_disk / "run"
    monkeypatch.setattr(TrainingBar, "step", fill_up)
    arguments = command(sample_voc, folder, f"--train.stop_if_unsaved={str(strict).lower()}")
    code = run(train, "train.py", arguments)
    printed = capsys.readouterr()
    if strict:
        assert code == 1
        assert "last.ckpt: could not be written" in printed.err
        assert state(folder)["progress"]["step"] == 0
    else:
        assert code == 0, printed.err
        assert "last.ckpt: could not be written" in printed.out
        assert "Training continues." in printed.out
        assert not list(folder.glob("*.part"))
        mine, theirs = weights(folder), weights(uninterrupted)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_full_disk_without_hard_links_is_a_warning(tmp_path: Path, monkeypatch, capsys) -> None:
    full = True

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    def copy(source: Path, to: Path) -> None:
        if full:
            to.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        to.write_bytes(source.read_bytes())

    class Freed(Toy):
        def validate(self, model: ImageModel, on_image) -> dict[str, float]:
            nonlocal full
            full = False
            assert {p.name for p in folder.glob("*.ckpt")} == {"last.ckpt"}
            assert not list(folder.glob(".*"))
            return super().validate(model, on_image)

    folder = tmp_path / "run"
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", copy)
    Freed().step(folder)
    assert "previous.ckpt: could not be written (No space left" in capsys.readouterr().out
    last, previous = (torch.load(folder / f"{name}.ckpt") for name in ("last", "previous"))
    assert last["progress"]["validated"] == 1
    assert previous["progress"]["step"] == 0


def test_all_processes_follow_whether_the_main_one_saved_the_best(
    tmp_path: Path, monkeypatch
) -> None:
    """Otherwise patience would end one of them before the others."""
    monkeypatch.setattr(Fabric, "broadcast", lambda self, saved, src=0: False)
    Toy().step(tmp_path / "run")
    progress = torch.load(tmp_path / "run" / "last.ckpt")["progress"]
    assert (progress["best"], progress["since_best"]) == (-1, 1)


def test_the_clock_of_one_process_never_blocks_the_others(tmp_path: Path, monkeypatch) -> None:
    """All processes read the losses together, at the same steps."""
    read = []

    def record_read(loop: TrainingLoop, values: torch.Tensor) -> torch.Tensor:
        read.append(len(values))
        return values

    def set_up(loop: TrainingLoop, *args: object) -> None:
        before(loop, *args)
        loop.read_interval = LOG_INTERVAL

    before = TrainingLoop.__init__
    monkeypatch.setattr(TrainingLoop, "__init__", set_up)
    monkeypatch.setattr(TrainingLoop, "_mean_over_processes", record_read)
    monkeypatch.setattr("segcoord.training.loop.SAVE_INTERVAL", -1.0)
    Toy(max_steps=25, lr=0.01).step(tmp_path / "run")
    assert read == [10, 10, 5]


def test_patience_ends_a_run_for_good(sample_voc: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    still = ("--train.lr=1e-12", "--train.weight_decay=0", "--train.ema_decay=0.999999")
    arguments = command(sample_voc, folder, *still, "--train.val_interval=1", "--train.patience=2")
    assert run(train, "train.py", arguments) == 0
    steps = state(folder)["progress"]["step"]
    assert 3 <= steps < 8
    scores = [float(row["miou"]) for row in rows(folder) if row["miou"]]
    assert max(scores) == scores[-3] and state(folder)["progress"]["since_best"] == 2
    printed = " ".join(capsys.readouterr().out.split())
    why = f"Stopped early at step {steps} of 8: no better mIoU than {max(scores):.4f} (step "
    assert f"{why}{steps - 2}) in the last 2 validations; train.patience is 2." in printed
    assert f"Scores of the last validation, at step {steps}:" in printed
    best = f"The best weights, mIoU {100 * max(scores):.2f} % at step {steps - 2}, are in {folder}"
    assert best in printed
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert why in printed and "nothing left to do" in printed
    assert state(folder)["progress"]["step"] == steps


def test_best_ckpt_holds_the_average(whole: Path) -> None:
    """last.ckpt has the trained weights as well."""
    last = state(whole)
    trained = {k.removeprefix("model."): v for k, v in last["training"].items()}
    differ = [k for k, v in last["state_dict"].items() if not torch.equal(v, trained[k])]
    assert len(differ) > 300
    assert "training" not in state(whole, "best.ckpt")
