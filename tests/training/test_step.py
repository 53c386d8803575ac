"""Steps of the training loop: EMA, accumulation, clipping, divergence, memory, precision."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from helpers import command, rows, start_train, weights
from lightning_fabric.plugins.precision import MixedPrecision
from toy_task import Toy

from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.schema import TrainConfig
from segcoord.data.loader import EpochShuffle
from segcoord.training.ema import Ema
from segcoord.training.optim import lr_multiplier, make_optimizer
from segcoord.utils.errors import UserError


def test_ema_follows_its_formula(tmp_path: Path) -> None:
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


def test_warmup_is_linear() -> None:
    plain, warm = TrainConfig(max_steps=100), TrainConfig(max_steps=100, warmup_steps=10)
    ratios = [lr_multiplier(step, warm) / lr_multiplier(step, plain) for step in range(12)]
    assert ratios == pytest.approx([0.1 * n for n in range(1, 11)] + [1, 1])


def test_accumulated_gradients_equal_those_of_the_whole_batch(tmp_path: Path) -> None:
    batch, parts = Toy().step(tmp_path / "1"), Toy(accumulate=2).step(tmp_path / "2")
    for key, value in batch.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-5, atol=1e-7)


def test_clipping_limits_the_norm_and_keeps_the_direction(tmp_path: Path) -> None:
    free, clipped = Toy().step(tmp_path / "1"), Toy(clip_grad_norm=0.01).step(tmp_path / "2")
    norms = [torch.cat([t.flatten() for t in d.values()]).norm().item() for d in (free, clipped)]
    assert norms[1] == pytest.approx(0.5 * 0.01, rel=1e-3)  # learning rate x norm
    for key, value in free.items():
        expected = value * norms[1] / norms[0]
        torch.testing.assert_close(clipped[key], expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_clipping_works_with_a_loss_scale(optimizer: str) -> None:
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
def test_a_diverging_loss_reports_step_rate_and_images(tmp_path: Path, value: float) -> None:
    class Diverging(Toy):
        def loss(self, batch: torch.Tensor) -> torch.Tensor:
            return super().loss(batch) * value

    with pytest.raises(UserError) as caught:
        Diverging().step(tmp_path / "run")
    message = str(caught.value)
    assert "step 1: the loss is" in message and "at learning rate 0.5" in message
    order = [index for _, index in EpochShuffle(8, 4, 0).batch(0)]
    assert message.endswith("".join(f"\n  image{index}.png" for index in order))
    assert (tmp_path / "run" / "last.ckpt").exists()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """The loss of the last step is finite, its gradient is not."""
    toy = Toy(max_steps=2)
    scale = iter((1.0, float("inf")))
    toy.module.weight.register_hook(lambda grad: grad * next(scale))
    with pytest.raises(UserError, match="step 2: the updated weights are not finite at learning"):
        toy.step(tmp_path / "run")
    assert torch.load(tmp_path / "run" / "last.ckpt")["progress"]["step"] == 0


def test_running_out_of_memory_names_the_settings(sample_voc: Path, tmp_path: Path) -> None:
    """In a process limited to 6 GB, on crops that need 20."""
    large = ("--data.crop_size=[1024,1024]", "--data.scale=[0.5,0.5]")
    arguments = command(sample_voc, tmp_path / "run", *large)
    child = start_train(arguments, tmp_path / "printed", memory=6 << 30)
    printed = child.wait()
    assert child.returncode == 1, printed
    assert "Lower train.batch_size (now 4) or data.crop_size" in printed
    assert "Traceback" not in printed


def test_gradient_checkpointing_gives_the_same_weights(sample_voc: Path, tmp_path: Path) -> None:
    runs = []
    for setting in ("true", "false"):
        folder = tmp_path / setting
        once = ("--train.max_steps=1", f"--train.gradient_checkpointing={setting}")
        assert run(train, "train.py", command(sample_voc, folder, *once)) == 0
        runs.append(weights(folder))
    trained = [k for k in runs[0] if "running" not in k and "num_batches" not in k]
    assert all(torch.allclose(runs[0][k], runs[1][k], atol=1e-6) for k in trained)
    key = "net.encoder.model.blocks.1.0.bn1.num_batches_tracked"
    assert [int(each[key]) for each in runs] == [2, 1]


def test_a_compiled_step_is_the_same(tmp_path: Path, monkeypatch) -> None:
    """Without Inductor, whose C++ compiler takes half a minute."""
    eager = Toy().step(tmp_path / "1")
    backend = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", backend)
    compiled = Toy(compile=True).step(tmp_path / "2")
    for key, value in eager.items():
        torch.testing.assert_close(compiled[key], value, rtol=1e-5, atol=1e-7)


def test_bfloat16_is_used_and_close(sample_voc: Path, tmp_path: Path, capsys) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        short = ("--train.max_steps=2", "--train.val_interval=2")
        arguments = command(sample_voc, folder, f"--train.precision={precision}", *short)
        assert run(train, "train.py", arguments) == 0
        losses += [float(row["loss"]) for row in rows(folder) if row["loss"]]
        assert all(t.dtype != torch.bfloat16 for t in weights(folder).values())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.15)
    assert (
        run(train, "train.py", command(sample_voc, tmp_path / "h", "--train.precision=fp16")) == 1
    )
    assert "train.precision: fp16 needs cuda, found cpu" in capsys.readouterr().err
