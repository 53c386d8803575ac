"""New attention on weights without it: the network is the one without attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from helpers import IMAGENET_WEIGHTS, shaken
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn

import segcoord
from segcoord.models.encoders.identity_gates import _mean_gate, initialize_gates
from segcoord.models.encoders.initial_weights import load_pretrained, name_without_attention
from segcoord.models.encoders.weights import load_without_attention
from segcoord.training.init_from import init_from
from segcoord.utils.errors import UserError

GATES = {"se": 1, "cbam": 2, "ca": 2, "ca_x": 1, "ca_y": 1}
NAMES = [f"mobilenetv2_{a}_050" for a in GATES] + ["mobilenext_se_050", "mobilenext_ca_050"]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, drop_rate=0.0)


def started(name: str, folder: Path) -> tuple[nn.Module, nn.Module]:
    """A plain network, and one with attention that starts from its weights."""
    plain, model = shaken(network(name_without_attention(name))), network(name)
    torch.save(plain.state_dict(), folder / "plain.pth")
    report = load_pretrained(model, name, str(folder / "plain.pth"))
    attention = [n for n in model.state_dict() if ".se." in n or ".att." in n]
    assert report.identity == report.new == [n for n in attention if "num_batches" not in n]
    assert "attention blocks are new and begin as the identity" in str(report)
    assert "RANDOM" not in str(report)
    return plain, model


def images() -> Tensor:
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_network_is_the_plain_one(name: str, tmp_path: Path) -> None:
    plain, model = started(name, tmp_path)
    expected = plain.eval()(images())
    assert expected.std() > 0.01
    torch.testing.assert_close(model.eval()(images()), expected, rtol=0, atol=1e-5)

    # In training, with the same batch norm statistics. In double precision: the batch norms of
    # small random features amplify rounding.
    plain, model = plain.double().train(), model.double().train()
    x = images().double()
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=1e-4)
    own = model.state_dict()
    for tensor_name, tensor in plain.state_dict().items():
        if "running" in tensor_name:
            torch.testing.assert_close(own[tensor_name], tensor, rtol=1e-4, atol=1e-5)
    assert all(t.isfinite().all() for t in own.values())


@pytest.mark.parametrize("attention", ["se", "cbam", "ca"])
def test_the_gates_learn(attention: str, tmp_path: Path) -> None:
    _, model = started(f"mobilenetv2_{attention}_050", tmp_path)
    zeros = {n: p for n, p in model.named_parameters() if ".se." in n and "weight" in n}
    zeros = {n: p for n, p in zeros.items() if not p.any()}
    assert len(zeros) == 16 * GATES[attention]
    model.train()(images()).square().mean().backward()
    assert all(p.grad.any() for p in zeros.values())


@pytest.mark.skipif(not IMAGENET_WEIGHTS.is_file(), reason="needs ImageNet weights")
@torch.no_grad()
def test_imagenet_weights_give_the_plain_logits() -> None:
    logits = {}
    for name in ("mobilenetv2_100", *(f"mobilenetv2_{attention}_100" for attention in GATES)):
        model = network(name).eval()
        load_pretrained(model, name, str(IMAGENET_WEIGHTS))
        logits[name] = model(images())
    for name, found in logits.items():
        torch.testing.assert_close(
            found, logits["mobilenetv2_100"], rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("decoder", ["deeplabv3", "light"])
def test_a_model_without_attention_starts_one_with_it(decoder: str, tmp_path: Path) -> None:
    """Attention in the decoder, as that of light, is loaded like any other layer."""
    stride = 32 if decoder == "light" else 16
    plain = shaken(segcoord.create_model("mobilenetv2_050", 3, stride, decoder=decoder)).eval()
    segcoord.save(plain, tmp_path / "plain.ckpt")
    model = segcoord.create_model("mobilenetv2_ca_050", 3, stride, decoder=decoder)
    report = init_from(model, tmp_path / "plain.ckpt")
    assert len(report.identity) == len(report.new) == 160
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images()), plain(images()), rtol=0, atol=1e-4)


def test_gates_begin_on_the_device_of_the_network() -> None:
    model = network("mobilenetv2_ca_050").to("meta")
    attention = [name for name in model.state_dict() if ".se." in name]
    assert initialize_gates(model, attention, {})[0]


# EfficientNet: its squeeze-and-excitation is replaced


@torch.no_grad()
def test_gates_that_replace_constant_ones_are_exact() -> None:
    plain, model = shaken(network("efficientnet_b0")), network("efficientnet_b0_ca")
    for name, parameter in plain.named_parameters():
        if "conv_expand.weight" in name:
            parameter.zero_()
        if "conv_expand.bias" in name:
            parameter.normal_()
    report = load_without_attention(model, plain.state_dict())
    assert report.mean_gates == report.new
    assert report.identity == []
    assert "16 attention blocks are new and begin with constant gates" in str(report)
    expected = plain.eval()(images())
    assert expected.std() > 0.01
    torch.testing.assert_close(model.eval()(images()), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_mean_gate_is_that_of_normal_features() -> None:
    torch.manual_seed(0)
    norm = shaken(BatchNormAct2d(6, act_layer=nn.SiLU)).train()
    se = SqueezeExcite(6, rd_channels=4, act_layer=nn.SiLU)
    nn.init.normal_(se.conv_expand.weight)
    feature = norm(torch.randn(1, 6, 300, 300))
    expected = (se(feature) / feature).mean((0, 2, 3))
    assert expected.std() > 0.02
    torch.testing.assert_close(_mean_gate(se.state_dict(), norm), expected, rtol=0, atol=1e-3)


# Half of an attention


@pytest.mark.parametrize(
    ("source", "lost", "found"),
    [
        ("mobilenetv2_ca_050", "se.conv3.", "32 of its 160 .*conv3"),
        ("mobilenetv2_ca_050", "blocks.3.1.se.", r"10 of its 160 .*\(blocks\.3\.1\.se\.conv1"),
        ("mobilenetv2_ca_050", "blocks.6.0.se.bn1.bias", r"1 of its 160 .*6\.0\.se\.bn1\.bias\)"),
        ("mobilenetv2_ca_x_050", "none", "32 of its 160 .*conv3"),
        ("mobilenetv2_se_050", "blocks.3.1.se.fc1.bias", r"1 of its 64 .*3\.1\.se\.fc1\.bias\)"),
    ],
)
def test_a_part_of_an_attention_is_an_error(
    source: str, lost: str, found: str, tmp_path: Path
) -> None:
    tensors = {n: t for n, t in network(source).state_dict().items() if lost not in n}
    torch.save(tensors, tmp_path / "part.pth")
    model = network("mobilenetv2_ca_050")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(UserError, match=rf"part\.pth: found a part .*{found}.*complete file"):
        load_pretrained(model, "mobilenetv2_ca_050", str(tmp_path / "part.pth"))
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_an_attention_of_another_width_is_no_start(tmp_path: Path) -> None:
    segcoord.save(segcoord.create_model("mobilenetv2_ca_050", 3), tmp_path / "m.ckpt")
    model = segcoord.create_model("mobilenetv2_ca_050", 3, reduction=4)
    with pytest.raises(UserError, match=r"m\.ckpt: found a part .* encoder and the reduction"):
        init_from(model, tmp_path / "m.ckpt")
