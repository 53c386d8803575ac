"""What a run survives, and what its settings do: processes, signals, full disks, damage."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT, command, rows, weights
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision

from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.schema import Config, DataConfig, ModelConfig, TrainConfig
from segcoord.data.loader import EpochShuffle
from segcoord.models.checkpoint import read_checkpoint
from segcoord.models.segmentation import ImageModel
from segcoord.training.ema import Ema
from segcoord.training.fabric import training_fabric
from segcoord.training.loop import LOG_INTERVAL, TrainingLoop
from segcoord.training.loop import train as train_task
from segcoord.training.optim import lr_factor, make_optimizer
from segcoord.training.progress import TrainingBar
from segcoord.training.resume import keep_previous, read_state
from segcoord.utils.errors import UserError


def start(arguments: list[str], **settings: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **settings,
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists(), process.communicate()[0]


def state(folder: Path, name: str = "last.ckpt") -> dict:
    return read_checkpoint(folder / name)


def same(mine: Path, theirs: Path) -> bool:
    for name in ("last.ckpt", "best.ckpt"):
        a, b = weights(mine, name), weights(theirs, name)
        if not all(torch.equal(a[key], b[key]) for key in b):
            return False
    return rows(mine) == rows(theirs)


# Every setting that has a state, or draws anything, at once.
FULL = (
    *("--train.ema_decay=0.9", "--train.accumulate=2", "--train.warmup_steps=3"),
    *("--train.clip_grad_norm=1.0", "--train.patience=9", "--train.aux_weight=0.4"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, sample_voc: Path) -> Path:
    """A run that nothing happened to, with all settings that have a state."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(train, "train.py", command(sample_voc, folder, *FULL)) == 0
    return folder


@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_run_with_every_setting_goes_on_exactly(
    whole: Path, sample_voc: Path, tmp_path: Path, monkeypatch, stop_at: int
) -> None:
    def interrupt(self, step: int, loss: float, lr: float) -> None:
        if step == stop_at:
            signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingBar, "step", interrupt)
        assert run(train, "train.py", command(sample_voc, folder, *FULL)) == 130
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    assert same(folder, whole)


def test_sigterm_saves_and_says_so_by_its_code(whole: Path, sample_voc: Path, tmp_path) -> None:
    """With loaders, which a cluster's SIGTERM reaches too."""
    folder = tmp_path / "run"
    process = start(command(sample_voc, folder, *FULL, "--data.workers=2"), start_new_session=True)
    wait_for(folder / "best.ckpt", process)
    os.killpg(process.pid, signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 75, printed
    assert f"--resume {folder}" in printed
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    assert same(folder, whole)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, sample_voc: Path) -> Path:
    """The same run, stopped at step 5, whose state before is that of its validation at step 3."""

    def interrupt(self, step: int, loss: float, lr: float) -> None:
        if step == 5:
            signal.raise_signal(signal.SIGINT)

    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingBar, "step", interrupt)
        assert run(train, "train.py", command(sample_voc, folder, *FULL)) == 130
    return folder


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "gone"])
def test_a_damaged_state_costs_the_steps_since_the_one_before(
    whole: Path, stopped: Path, tmp_path: Path, capsys, damage: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    last = folder / "last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "a flipped bit":
        content[len(content) // 2] ^= 1
        last.write_bytes(content)
    elif damage == "cut short":
        last.write_bytes(content[: len(content) // 2])
    else:
        last.unlink()
    capsys.readouterr()
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    printed = capsys.readouterr().out
    assert "last.ckpt: no such" in printed if damage == "gone" else "last.ckpt: damaged" in printed
    assert "previous.ckpt, step 3" in printed
    assert same(folder, whole)


def test_a_damaged_state_is_replaced_for_processes_that_read_it_later(
    whole: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"")
    shutil.copy(whole / "previous.ckpt", tmp_path)
    step = read_state(tmp_path)["progress"]["step"]
    assert "goes on from" in capsys.readouterr().out
    assert (tmp_path / "previous.ckpt").exists()
    assert read_state(tmp_path)["progress"]["step"] == step
    assert capsys.readouterr().out == ""
    keep_previous(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_what_cannot_be_gone_on_with_says_why(whole: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(whole / "config.yaml", folder)
    assert run(train, "train.py", [f"--resume={folder}"]) == 1
    assert "ended before its first step" in capsys.readouterr().err
    old = state(whole)
    del old["training"], old["precision"]
    torch.save(old, folder / "last.ckpt")
    assert run(train, "train.py", [f"--resume={folder}"]) == 1
    told = capsys.readouterr()
    assert "a state of another version, without precision, training" in told.err
    assert told.out == ""  # before the data is checked


def test_what_a_kill_left_half_written_is_cleared_away(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / ".last.ckpt.abc.part").write_bytes(b"half")
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    assert [path.name for path in folder.glob(".*")] == [".lock"]


def test_other_training_images_are_noticed(whole: Path, tmp_path: Path, capsys) -> None:
    """Which the draws count by their places: a run with one more would go on with other samples."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    origin = json.loads((folder / "origin.json").read_text())
    images = origin["train_images"]
    for other, told in [
        (
            {"count": images["count"] + 1},
            f"had {images['count'] + 1} images, now {images['count']}",
        ),
        ({"names_sha256": "0"}, "of which some now have other names or another order"),
    ]:
        changed = origin | {"train_images": images | other}
        (folder / "origin.json").write_text(json.dumps(changed))
        assert run(train, "train.py", [f"--resume={folder}"]) == 1
        assert told in " ".join(capsys.readouterr().err.split())


def test_both_states_damaged_is_told(whole: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "origin.json", "metrics.csv"):
        (folder / name).write_bytes((whole / name).read_bytes())
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes((whole / name).read_bytes()[:5000])
    assert run(train, "train.py", [f"--resume={folder}"]) == 1
    told = capsys.readouterr().err
    assert "last.ckpt: damaged" in told and "previous.ckpt: damaged" in told


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 100 MB, of which a test takes what it likes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs can't be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("strict", [False, True])
def test_a_full_disk_leaves_the_old_state_and_the_run_goes_on(
    uninterrupted: Path, sample_voc: Path, small_disk: Path, monkeypatch, capsys, strict: bool
) -> None:
    """From step 2 to 7 nothing can be written: neither at the validation of step 3 nor of 6."""
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
    told = capsys.readouterr()
    if strict:
        assert code == 1
        assert "last.ckpt: could not be written" in told.err
        assert state(folder)["progress"]["step"] == 0
    else:
        assert code == 0, told.err
        assert "last.ckpt: could not be written" in told.out
        assert "The run goes on." in told.out
        assert not list(folder.glob("*.part"))
        mine, theirs = weights(folder), weights(uninterrupted)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_full_disk_without_hard_links_is_a_warning_too(
    tmp_path: Path, monkeypatch, capsys
) -> None:
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


def test_only_the_first_process_knows_whether_the_best_is_saved(
    tmp_path: Path, monkeypatch
) -> None:
    """All follow it, or patience would end one of them before the others."""
    monkeypatch.setattr(Fabric, "broadcast", lambda self, saved, src=0: False)
    Toy().step(tmp_path / "run")
    progress = torch.load(tmp_path / "run" / "last.ckpt")["progress"]
    assert (progress["best"], progress["since_best"]) == (-1, 1)


def test_the_clock_of_one_process_makes_no_other_wait(tmp_path: Path, monkeypatch) -> None:
    """Losses are read, by all processes together, at steps that all of them agree on."""
    read = []

    def as_on_a_gpu(loop: TrainingLoop, values: torch.Tensor) -> torch.Tensor:
        read.append(len(values))
        return values

    def set_up(loop: TrainingLoop, *args: object) -> None:
        before(loop, *args)
        loop.read_interval = LOG_INTERVAL

    before = TrainingLoop.__init__
    monkeypatch.setattr(TrainingLoop, "__init__", set_up)
    monkeypatch.setattr(TrainingLoop, "_mean_over_processes", as_on_a_gpu)
    monkeypatch.setattr("segcoord.training.loop.SAVE_INTERVAL", -1.0)
    Toy(max_steps=25, lr=0.01).step(tmp_path / "run")
    assert read == [10, 10, 5]


def test_patience_ends_a_run_and_stays_at_its_end(sample_voc: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    still = ("--train.lr=1e-12", "--train.weight_decay=0", "--train.ema_decay=0.999999")
    arguments = command(sample_voc, folder, *still, "--train.val_interval=1", "--train.patience=2")
    assert run(train, "train.py", arguments) == 0
    steps = state(folder)["progress"]["step"]
    assert 3 <= steps < 8
    scores = [float(row["miou"]) for row in rows(folder) if row["miou"]]
    assert max(scores) == scores[-3] and state(folder)["progress"]["since_best"] == 2
    capsys.readouterr()
    assert run(train, "train.py", [f"--resume={folder}"]) == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert state(folder)["progress"]["step"] == steps


def test_the_result_is_the_average(whole: Path) -> None:
    """best.ckpt holds the average; the weights that train on are in last.ckpt beside it."""
    last = state(whole)
    trained = {k.removeprefix("model."): v for k, v in last["training"].items()}
    differ = [k for k, v in last["state_dict"].items() if not torch.equal(v, trained[k])]
    assert len(differ) > 300
    assert "training" not in state(whole, "best.ckpt")


def test_the_average_is_the_formula(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    ema = Ema(model, 0.8)
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    for step in range(1, 60):
        with torch.no_grad():
            for tensor in (*model.parameters(), model[1].running_mean):
                tensor.add_(torch.randn_like(tensor))
        model[1].num_batches_tracked += 1
        ema.update(model, step)
        decay = min(0.8, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            expected[key] = (
                decay * expected[key] + (1 - decay) * value if value.is_floating_point() else value
            )
    for key, value in ema.model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_warm_up_rises_in_a_line_to_the_schedule() -> None:
    plain, warm = TrainConfig(max_steps=100), TrainConfig(max_steps=100, warmup_steps=10)
    ratios = [lr_factor(step, warm) / lr_factor(step, plain) for step in range(12)]
    assert ratios == pytest.approx([0.1 * n for n in range(1, 11)] + [1, 1])


class Toy:
    """A Task without batch norm, whose steps can be worked out by hand."""

    columns = ("score",)
    val_images = 0

    def __init__(self, **settings: object) -> None:
        plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 0.5}
        plain |= {"max_steps": 1, "batch_size": 4, "accelerator": "cpu"}
        train = TrainConfig(**plain | settings)
        self.config = Config(ModelConfig(), DataConfig("voc", "nowhere", workers=0), train)
        torch.manual_seed(0)
        self.model = ImageModel(torch.nn.Conv2d(3, 2, 1), {}, [0.0] * 3, [1.0] * 3)
        self.module = self.model.net
        self.module.forward = self.loss
        self.train_set = self

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        return torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(key[1]))

    def path(self, index: int) -> Path:
        return Path(f"image{index}.png")

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        weight, bias = self.module.weight, self.module.bias
        return torch.nn.functional.conv2d(batch, weight, bias).square().mean()

    def parameter_groups(self) -> list[dict]:
        return [{"params": list(self.model.parameters()), "factor": 1.0}]

    def validate(self, model: ImageModel, on_image) -> dict[str, float]:
        return {"score": 0.5}

    def examples(self, model: ImageModel) -> None:
        """Nothing to draw."""

    def step(self, folder: Path) -> dict[str, torch.Tensor]:
        """What one step takes off the weights."""
        before = {k: v.clone() for k, v in self.model.state_dict().items()}
        folder.mkdir(parents=True)
        train_task(self, folder, training_fabric(self.config.train))
        return {k: v - self.model.state_dict()[k] for k, v in before.items()}


def test_parts_of_a_step_add_up_to_it(tmp_path: Path) -> None:
    whole, parts = Toy().step(tmp_path / "1"), Toy(accumulate=2).step(tmp_path / "2")
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-5, atol=1e-7)


def test_clipping_keeps_the_direction_and_the_norm(tmp_path: Path) -> None:
    free, clipped = Toy().step(tmp_path / "1"), Toy(clip_grad_norm=0.01).step(tmp_path / "2")
    norms = [torch.cat([t.flatten() for t in d.values()]).norm().item() for d in (free, clipped)]
    assert norms[1] == pytest.approx(0.5 * 0.01, rel=1e-3)  # learning rate x norm
    for key, value in free.items():
        expected = value * norms[1] / norms[0]
        torch.testing.assert_close(clipped[key], expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_clipping_goes_with_a_loss_scale(optimizer: str) -> None:
    momentum = 0.9 if optimizer == "sgd" else None
    settings = {"optimizer": optimizer, "momentum": momentum, "clip_grad_norm": 1.0}
    config = TrainConfig(max_steps=1, precision="fp16", **settings)
    weight = torch.nn.Parameter(torch.zeros(1))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    precision = MixedPrecision("16-mixed", "cuda", scaler)
    made = make_optimizer([{"params": [weight]}], config)
    precision.scaler.scale(3 * weight.sum()).backward()
    precision.unscale_gradients(made)  # as Fabric does before it clips
    assert weight.grad.item() == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_an_exploding_loss_names_step_rate_and_images(tmp_path: Path, value: float) -> None:
    class Exploding(Toy):
        def loss(self, batch: torch.Tensor) -> torch.Tensor:
            return super().loss(batch) * value

    with pytest.raises(UserError) as told:
        Exploding().step(tmp_path / "run")
    message = str(told.value)
    assert "step 1: the loss is" in message and "at learning rate 0.5" in message
    order = [index for _, index in EpochShuffle(8, 4, 0).batch(0)]
    assert message.endswith("".join(f"\n  image{index}.png" for index in order))
    assert (tmp_path / "run" / "last.ckpt").exists()


def test_weights_that_explode_are_not_saved(tmp_path: Path) -> None:
    """The last step's loss is fine, its gradient isn't."""
    toy = Toy(max_steps=2)
    scale = iter((1.0, float("inf")))
    toy.module.weight.register_hook(lambda grad: grad * next(scale))
    with pytest.raises(UserError, match="step 2: after it the weights are not finite at learning"):
        toy.step(tmp_path / "run")
    assert torch.load(tmp_path / "run" / "last.ckpt")["progress"]["step"] == 0


def test_too_little_memory_names_the_settings(sample_voc: Path, tmp_path: Path) -> None:
    """In a process that may have no more than 6 GB, on crops that take 20."""

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))

    large = ("--data.crop_size=[1024,1024]", "--data.scale=[0.5,0.5]")
    process = start(command(sample_voc, tmp_path / "run", *large), preexec_fn=little)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 1, printed
    assert "Lower train.batch_size (now 4) or data.crop_size" in printed
    assert "Traceback" not in printed


def test_gradients_computed_anew_are_the_same(sample_voc: Path, tmp_path: Path) -> None:
    losses = []
    for setting in ("true", "false"):
        folder = tmp_path / setting
        once = ("--train.max_steps=1", f"--train.gradient_checkpointing={setting}")
        assert run(train, "train.py", command(sample_voc, folder, *once)) == 0
        losses.append(weights(folder))
    trained = [k for k in losses[0] if "running" not in k and "num_batches" not in k]
    assert all(torch.allclose(losses[0][k], losses[1][k], atol=1e-6) for k in trained)
    key = "net.encoder.model.blocks.1.0.bn1.num_batches_tracked"
    assert [int(found[key]) for found in losses] == [2, 1]


def test_compiled_is_the_same(tmp_path: Path) -> None:
    plain, compiled = Toy().step(tmp_path / "1"), Toy(compile=True).step(tmp_path / "2")
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, rtol=1e-5, atol=1e-7)


def test_half_precision_is_used_and_close(sample_voc: Path, tmp_path: Path, capsys) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        arguments = command(sample_voc, folder, f"--train.precision={precision}")
        assert run(train, "train.py", arguments) == 0
        losses.append([float(row["loss"]) for row in rows(folder) if row["loss"]])
        assert all(t.dtype != torch.bfloat16 for t in weights(folder).values())
    assert losses[0] != losses[1]
    # The later ones drift apart: from random weights a step magnifies every rounding.
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.15)
    assert (
        run(train, "train.py", command(sample_voc, tmp_path / "h", "--train.precision=fp16")) == 1
    )
    assert "train.precision: fp16 needs cuda, found cpu" in capsys.readouterr().err
