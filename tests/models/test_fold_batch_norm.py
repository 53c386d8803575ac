"""Folding removes every batch norm of our models and keeps outputs."""

from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from helpers import shaken
from timm.layers import BatchNormAct2d, ConvNormAct
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import segcoord
from segcoord.models.attention import CoordAtt, CoordAttX
from segcoord.models.fold_batch_norm import fold_batch_norm

MODELS = [
    ("mobilenetv2_ca_050", "deeplabv3", 16),
    ("mobilenetv2_ca_x_050", "deeplabv3plus", 8),
    ("mobilenetv2_se_050", "fpn", 32),
    ("mobilenext_ca_050", "deeplabv3", 8),
    ("mobilenext_050", "unet", 32),
    ("efficientnet_b0_ca", "pan", 16),
]


def norm_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]


def assert_same(folded: nn.Module, model: nn.Module, x: Tensor) -> None:
    """The largest difference is within 1e-5 of the largest value."""
    with torch.inference_mode():
        expected, found = model.eval()(x), folded(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("encoder", "decoder", "stride"), MODELS)
def test_every_batch_norm_is_folded_and_outputs_stay(
    encoder: str, decoder: str, stride: int, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    model = shaken(segcoord.create_model(encoder, 3, stride, decoder=decoder))
    model = model.to(memory_format=memory_format)
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norm(model)
    assert norm_names(model)
    assert norm_names(folded) == []
    assert model.training
    assert not any(module.training for module in folded.modules())
    assert not any(module._forward_hooks for module in folded.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    weight = folded.net.encoder.model.conv_stem.weight
    assert weight.is_contiguous(memory_format=memory_format)
    x = torch.randn(2, 3, 70, 90).contiguous(memory_format=memory_format)
    assert_same(folded, model, x)


@pytest.mark.parametrize(
    "encoder", ["seresnet18", "densenet121", "tf_mobilenetv3_small_minimal_100"]
)
def test_other_encoders_of_timm(encoder: str) -> None:
    """densenet normalizes concatenated features, which can't be folded."""
    torch.manual_seed(0)
    model = shaken(timm.create_model(encoder, num_classes=5))
    folded = fold_batch_norm(model)
    assert len(norm_names(folded)) < len(norm_names(model))
    assert bool(norm_names(folded)) == (encoder == "densenet121")
    assert_same(folded, model, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("kind", [CoordAtt, CoordAttX])
def test_an_attention_block(kind: type) -> None:
    block = shaken(kind(16))
    x = torch.randn(2, 16, 9, 7)
    folded = fold_batch_norm(block, x)
    assert norm_names(folded) == []
    assert_same(folded, block, x)
    assert_same(folded, block, x.contiguous(memory_format=torch.channels_last))


def test_the_activation_of_a_norm_is_kept() -> None:
    block = shaken(ConvNormAct(3, 4, 3, act_layer=nn.SiLU))
    folded = fold_batch_norm(block)
    assert any(isinstance(module, nn.SiLU) for module in folded.modules())
    assert_same(folded, block, torch.randn(1, 3, 8, 8))


class Shared(nn.Module):
    """One convolution before two norms, and one norm after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv(x)) + self.bn2(self.conv(x))
        return self.bn3(self.other(x)) + self.bn3(x)


class Branch(nn.Module):
    """The output of the convolution also bypasses the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), BatchNormAct2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.bn(x)


class Altered(Branch):
    """An in-place operation between convolution and norm."""

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x).relu_())


class Features(Branch):
    """The output of the convolution is an output of the model."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x)
        return self.bn(x), x


@pytest.mark.parametrize("kind", [Shared, Branch, Altered, Features])
def test_norms_that_share_their_convolution_are_kept(kind: type) -> None:
    model = shaken(kind())
    folded = fold_batch_norm(model)
    assert norm_names(folded) == norm_names(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(folded.state_dict()[name], tensor)


def test_layers_with_hooks_or_parametrizations_are_kept() -> None:
    model = shaken(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    nn.utils.parametrizations.weight_norm(model[0])
    assert_same(fold_batch_norm(model), model, torch.randn(1, 3, 8, 8))
    model = shaken(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    model[0].register_forward_hook(lambda _module, _inputs, y: y.square())
    assert_same(fold_batch_norm(model), model, torch.randn(1, 3, 8, 8))


def test_a_block_that_runs_twice_is_folded_once() -> None:
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
    model = shaken(nn.Sequential(block, block))
    folded = fold_batch_norm(model)
    assert norm_names(folded) == []
    assert_same(folded, model, torch.randn(1, 3, 8, 8))


def test_under_inference_mode_and_frozen() -> None:
    model = shaken(smp.Unet("tu-mobilenetv2_ca_050", encoder_weights=None, classes=2))
    model.requires_grad_(False)
    with torch.inference_mode():
        folded = fold_batch_norm(model)
    assert norm_names(folded) == []
    assert not any(parameter.requires_grad for parameter in folded.parameters())
