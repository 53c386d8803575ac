"""The segmentation task: loss, auxiliary head, frozen batch norms, and whole runs."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import segcoord
from segcoord.cli.main import run
from segcoord.cli.train import train
from segcoord.config.decoders import STRIDES
from segcoord.config.schema import (
    ClassConfig,
    DataConfig,
    ModelConfig,
    SegmentationConfig,
    TrainConfig,
)
from segcoord.data.layouts import find_split
from segcoord.data.synthetic.dataset import write_sample
from segcoord.models.auxiliary_head import AuxiliaryHead
from segcoord.models.checkpoint import read_checkpoint
from segcoord.training.losses import cross_entropy, dice_loss, lovasz_loss
from segcoord.training.optim import make_optimizer
from segcoord.training.segmentation import SegmentationLoss, SegmentationTask
from segcoord.utils.errors import UserError

SETTINGS = TrainConfig(max_steps=5)
K = 4
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0])
EVERYTHING = {
    "label_smoothing": 0.1,
    "ohem_threshold": 0.7,
    "ohem_min_kept": 0.25,
    "dice_weight": 0.5,
    "lovasz_weight": 0.25,
    "aux_weight": 0.4,
}


def module_of(weights: Tensor | None = None, stride: int = 16, **changes) -> SegmentationLoss:
    """Without dropout, so that a second forward pass gives the same."""
    encoder = changes.pop("encoder", "mobilenetv2_ca_050")
    decoder = changes.pop("decoder", "deeplabv3")
    torch.manual_seed(0)
    model = segcoord.create_model(encoder, K, stride, decoder=decoder)
    module = SegmentationLoss(model, replace(SETTINGS, **changes), weights)
    for dropout in (m for m in module.modules() if isinstance(m, (nn.Dropout, nn.Dropout2d))):
        dropout.p = 0.0
    return module


def batch_of(height: int = 48, width: int = 40, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (2, height, width, 3), generator=generator, dtype=torch.uint8)
    mask = torch.randint(0, K, (2, height, width), generator=generator, dtype=torch.uint8)
    mask[:, ::3] = 255
    return {"image": image, "mask": mask}


# -- the loss


def test_the_default_loss_is_cross_entropy() -> None:
    module, batch = module_of(), batch_of()
    logits = module.model(module.model.normalize(batch["image"]))
    expected = F.cross_entropy(logits, batch["mask"].long(), ignore_index=255)
    torch.testing.assert_close(module(batch), expected)
    assert {n.split(".")[0] for n in module.state_dict()} == {"model"}


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    module, batch = module_of(WEIGHTS, **EVERYTHING), batch_of()
    logits, features = module.model.logits_and_features(module.model.normalize(batch["image"]))
    aux_logits = F.interpolate(module.auxiliary(features[-2]), (48, 48), mode="bilinear")[..., :40]
    options = {"weights": WEIGHTS, "label_smoothing": 0.1, "ohem": (0.7, 0.25)}
    target = batch["mask"]
    parts = [
        (1.0, cross_entropy(logits, target, **options)),
        (0.5, dice_loss(logits, target)),
        (0.25, lovasz_loss(logits, target)),
        (0.4, cross_entropy(aux_logits, target, **options)),
    ]
    expected = sum(weight * part for weight, part in parts)
    torch.testing.assert_close(module(batch), expected)
    assert all(part > 0.1 for _, part in parts)
    module.settings = replace(module.settings, ohem_min_kept=None)
    assert module.settings.ohem == (0.7, 1 / 16)


@pytest.fixture(scope="module")
def all_terms() -> SegmentationLoss:
    """With every term; changed settings switch some of them off."""
    return module_of(WEIGHTS, **EVERYTHING)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    off=st.sets(st.sampled_from([k for k in EVERYTHING if k != "ohem_min_kept"])),
    weighted=st.booleans(),
    labeled=st.integers(0, 3),
)
def test_without_labeled_pixels_every_combination_is_0(all_terms, off, weighted, labeled) -> None:
    empty = {k: None if k == "ohem_threshold" else 0.0 for k in off}
    all_terms.settings = replace(SETTINGS, **EVERYTHING | empty)
    all_terms.class_weights = WEIGHTS if weighted else None
    batch = batch_of(16, 16)
    batch["mask"][:] = 255
    batch["mask"].view(-1)[:labeled] = 2
    all_terms.zero_grad()
    loss = all_terms(batch)
    loss.backward()
    gradients = [p.grad for p in all_terms.parameters() if p.grad is not None]
    assert loss.isfinite() and all(g.isfinite().all() for g in gradients)
    if not labeled:
        assert loss == 0
        assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_loss_is_computed_in_float32(dtype: torch.dtype) -> None:
    module, batch, seen = module_of(**EVERYTHING), batch_of(), []
    keep = module.model.upsample
    module.model.upsample = lambda *a: seen.append(keep(*a)) or seen[-1]
    with torch.autocast("cpu", dtype=dtype):
        loss = module(batch)
    loss.backward()
    assert loss.dtype == torch.float32
    logits, aux_logits = seen
    expected = module._loss(logits.float(), batch["mask"])
    expected = expected + 0.4 * module._cross_entropy(aux_logits.float(), batch["mask"])
    assert torch.equal(loss, expected)
    assert all(p.grad.isfinite().all() for p in module.parameters())


# -- the auxiliary head


@pytest.mark.parametrize(
    ("decoder", "stride"), [("deeplabv3", 8), *((name, s[0]) for name, s in STRIDES.items())]
)
def test_the_auxiliary_head_reads_the_second_last_stage(decoder: str, stride: int) -> None:
    """The logits beside it are those of the model."""
    module = module_of(decoder=decoder, stride=stride, aux_weight=0.4).eval()
    x = torch.randn(1, 3, 70, 50)
    with torch.inference_mode():
        logits, features = module.model.logits_and_features(x)
        assert torch.equal(logits, module.model(x))
        height, width = module.model.padded_size(70, 50)
        step = 8 if stride == 8 else 16
        assert features[-2].shape[2:] == (height // step, width // step)
        assert module.auxiliary(features[-2]).shape[1] == K
    assert module(batch_of(70, 50)).isfinite()


def test_the_auxiliary_head_is_pspnets() -> None:
    head = AuxiliaryHead(96, 21)
    assert [type(m).__name__ for m in head] == [
        "Conv2d",
        "BatchNorm2d",
        "ReLU",
        "Dropout2d",
        "Conv2d",
    ]
    assert head(torch.randn(2, 96, 5, 7)).shape == (2, 21, 5, 7)
    assert (head[0].out_channels, head[0].kernel_size, head[3].p) == (96, (3, 3), 0.1)
    assert AuxiliaryHead(1024, 21)[0].out_channels == 256


def test_the_encoder_runs_once_for_both_heads() -> None:
    module, calls = module_of(aux_weight=0.4), []
    module.model.net.encoder.register_forward_hook(lambda *_: calls.append(1))
    module(batch_of()).backward()
    assert len(calls) == 1
    assert all(p.grad is not None and p.grad.any() for p in module.auxiliary.parameters())


def task_of(root: Path, **changes) -> SegmentationTask:
    classes = [ClassConfig(str(n), [n, n, n]) for n in range(8)]
    data = DataConfig("voc", str(root), classes=classes)
    model = segcoord.create_model("mobilenetv2_ca_050", 8)
    config = SegmentationConfig(
        ModelConfig("mobilenetv2_ca_050"), data, replace(SETTINGS, **changes)
    )
    return SegmentationTask(config, model, (find_split(data, "train"), find_split(data, "val")))


def test_encoder_lr_factor_applies_to_the_encoder_alone(sample_voc: Path) -> None:
    task = task_of(sample_voc, aux_weight=0.4, encoder_lr_factor=0.1)
    encoder, rest = make_optimizer(task.parameter_groups(), task.config.train).param_groups
    assert all(g["momentum"] == 0.9 and g["weight_decay"] == 4e-5 for g in (encoder, rest))
    assert (encoder["factor"], rest["factor"]) == (0.1, 1.0)
    ids = [{id(p) for p in group["params"]} for group in (encoder, rest)]
    assert ids[0] == {id(p) for p in task.model.net.encoder.parameters()}
    assert ids[1] >= {id(p) for p in task.module.auxiliary.parameters()}
    assert ids[0] | ids[1] == {id(p) for p in task.module.parameters()}
    assert len(encoder["params"]) + len(rest["params"]) == len(ids[0] | ids[1])


# -- frozen batch norms


def norms_of(module: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)}


def make_frozen(encoder: str = "mobilenetv2_ca_050", **changes) -> SegmentationLoss:
    """A module with running statistics and a frozen encoder."""
    module = module_of(encoder=encoder, **{"aux_weight": 0.4} | changes).train()
    for seed in range(3):
        module(batch_of(seed=seed))
    module.settings = replace(module.settings, freeze_batch_norm=True)
    return module


@pytest.fixture
def frozen_module() -> SegmentationLoss:
    return make_frozen()


def check_frozen(module: SegmentationLoss, wrapped: nn.Module) -> Tensor:
    before = {n: m.running_mean.clone() for n, m in norms_of(module).items()}
    module.eval()  # as a validation does
    wrapped.train()
    loss = wrapped(batch_of(seed=9))
    loss.backward()
    for name, norm in norms_of(module).items():
        is_frozen = name.startswith("model.net.encoder.")
        assert norm.training is not is_frozen
        assert torch.equal(norm.running_mean, before[name]) is is_frozen, name
        assert norm.weight.grad.any() and norm.bias.grad.any(), name
    assert sum(n.startswith("model.net.encoder.") for n in before) > 15
    return loss


def test_frozen_statistics_stay_and_everything_else_trains(frozen_module: SegmentationLoss) -> None:
    check_frozen(frozen_module, frozen_module)


def test_the_compiled_module_is_the_same() -> None:
    """In one graph, with every term except Lovasz, which is never compiled."""
    module = make_frozen("mobilenetv2_050", **EVERYTHING | {"lovasz_weight": 0.0})
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(check_frozen(module, compiled), module(batch_of(seed=9)))


def test_frozen_norms_use_their_statistics(frozen_module: SegmentationLoss) -> None:
    """The encoder computes the same as in eval mode."""
    x = torch.randn(2, 3, 48, 48)
    learning = frozen_module.train().model.net.encoder(x)[-1]
    encoder = frozen_module.model.net.encoder.eval()
    torch.testing.assert_close(learning, encoder(x)[-1])
    encoder.train()
    assert not torch.allclose(learning, encoder(x)[-1], rtol=1e-2)


def test_norms_without_statistics_cant_be_frozen(frozen_module: SegmentationLoss) -> None:
    message = (
        r"freeze_batch_norm: found true, but (\d+) of the encoder's (\d+) batch norms are newly"
    )
    with pytest.raises(UserError, match=message):
        module_of(freeze_batch_norm=True).train()
    first = next(iter(norms_of(frozen_module.model.net.encoder).values()))
    first.reset_running_stats()  # as for a block missing from the weights
    with pytest.raises(UserError, match="but 1 of the encoder's"):
        frozen_module.train()
    module_of(freeze_batch_norm=True).eval()  # eval mode freezes nothing


def test_an_encoder_without_batch_norm_cant_be_frozen() -> None:
    model = segcoord.create_model("convnext_atto", K)
    with pytest.raises(UserError, match="convnext_atto has no batch norm"):
        SegmentationLoss(model, replace(SETTINGS, freeze_batch_norm=True))


# -- settings


def test_lovasz_needs_two_classes() -> None:
    model = segcoord.create_model("mobilenetv2_ca_050", 1)
    with pytest.raises(UserError, match=r"train.lovasz_weight: found 1.0 with a single class"):
        SegmentationLoss(model, replace(SETTINGS, lovasz_weight=1.0))


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("label_smoothing", {"label_smoothing": -0.1}),
        ("label_smoothing", {"label_smoothing": 1.0}),
        ("ohem_threshold", {"ohem_threshold": -0.1}),
        ("ohem_threshold", {"ohem_threshold": 1.0}),
        ("ohem_threshold", {"ohem_threshold": float("nan")}),
        ("ohem_min_kept", {"ohem_min_kept": 0.5}),
        ("ohem_min_kept", {"ohem_threshold": 0.7, "ohem_min_kept": 0.0}),
        ("ohem_min_kept", {"ohem_threshold": 0.7, "ohem_min_kept": 100000}),
        ("dice_weight", {"dice_weight": -1.0}),
        ("lovasz_weight", {"lovasz_weight": float("inf")}),
        ("aux_weight", {"aux_weight": float("nan")}),
        ("teacher", {"teacher": ""}),
        ("teacher_weight", {"teacher_weight": 1.0}),
        ("teacher_weight", {"teacher": "a.ckpt", "teacher_weight": 0.0}),
        ("teacher_temperature", {"teacher": "a.ckpt", "teacher_temperature": 101.0}),
        ("teacher_temperature", {"teacher": "a.ckpt", "teacher_temperature": 0.09}),
        ("teacher_scales", {"teacher_scales": [1.0]}),
        ("teacher_scales", {"teacher": "a.ckpt", "teacher_scales": []}),
        ("teacher_scales", {"teacher": "a.ckpt", "teacher_scales": [1.0, 0.24]}),
    ],
)
def test_impossible_values_name_their_key(key: str, changes: dict) -> None:
    with pytest.raises(UserError, match=f"^train.{key}: found .*, expected "):
        replace(SETTINGS, **changes).check()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        EVERYTHING,
        {"ohem_threshold": 0.0, "ohem_min_kept": 1.0, "freeze_batch_norm": True},
        {"label_smoothing": 0.0, "dice_weight": 3.0},
        {"teacher": "a.ckpt", "teacher_temperature": 0.1, "teacher_scales": [0.25, 4.0]},
    ],
)
def test_values_at_the_limits_pass(changes: dict) -> None:
    replace(SETTINGS, **changes).check()


# -- whole runs


def command(config: str, root: Path, folder: Path, *more: str) -> list[str]:
    return [
        f"--config={ROOT / 'configs' / config}.yaml",
        f"--data.root={root}",
        f"--run={folder}",
        "--train.accelerator=cpu",
        *more,
    ]


def test_a_run_with_every_term_saves_a_plain_model(sample_voc: Path, tmp_path: Path) -> None:
    """The tiny preset, then a run from its weights with every term and frozen norms."""
    short = ["--train.max_steps=3", "--data.crop_size=[64,64]", "--data.workers=0"]
    options = [f"--train.{k}={v}" for k, v in EVERYTHING.items()]
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(train, "train.py", command("debug_tiny", sample_voc, first, *short)) == 0
    source = first / "best.ckpt"
    more = [*short, *options, "--train.class_weights=enet", "--train.freeze_batch_norm=true"]
    more += [f"--init-from={source}"]
    assert run(train, "train.py", command("debug_tiny", sample_voc, second, *more)) == 0
    before, after = (read_checkpoint(f / "best.ckpt")["state_dict"] for f in (first, second))
    assert before.keys() == after.keys()
    encoder = [n for n in before if n.startswith("net.encoder.") and "running" in n]
    assert encoder and all(torch.equal(before[n], after[n]) for n in encoder)
    assert any(not torch.equal(before[n], after[n]) for n in before if "running" in n)
    model = segcoord.load(second / "best.ckpt")
    assert segcoord.predict(model, next(sample_voc.rglob("*.jpg"))).shape == (96, 128)


def test_freezing_random_norms_is_refused(sample_voc: Path, tmp_path: Path, capsys) -> None:
    arguments = command("debug_tiny", sample_voc, tmp_path / "run", "--data.workers=0")
    assert run(train, "train.py", [*arguments, "--train.freeze_batch_norm=true"]) == 1
    assert "expected weights for all of them, from model.encoder_weights" in capsys.readouterr().err


def test_a_model_overfits_a_single_batch(tmp_path: Path) -> None:
    """The overfit preset on smaller images; a failure means that something is wired wrongly."""
    data, folder = tmp_path / "four", tmp_path / "run"
    write_sample(data, "voc", train=4, val=1, width=128, height=96)
    small = ["--data.crop_size=[96,128]", "--model.encoder=mobilenetv2_ca_050"]
    steps = ["--train.max_steps=60", "--train.val_interval=60"]
    assert run(train, "train.py", command("debug_overfit", data, folder, *small, *steps)) == 0
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert losses[0] > 0.5
    assert losses[-1] < 0.12
    assert float(rows[-1]["miou"]) > 0.85
