"""Decoders on encoders: any size, scripted, compiled, initialized."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
from helpers import ROOT
from torch import nn

import segcoord
from segcoord.config.decoders import STRIDES, decoder_settings
from segcoord.models.light import Light
from segcoord.models.profile import giga_macs
from segcoord.utils.errors import UserError

ENCODERS = [
    "mobilenetv2_ca_050",
    "mobilenetv2_ca_x_050",
    "mobilenetv2_ca_y_050",
    "mobilenetv2_se_050",
    "mobilenetv2_cbam_050",
    "mobilenext_050",
    "mobilenext_se_050",
    "mobilenext_ca_050",
    "efficientnet_b0_ca",
]
TINY = "test_efficientnet"  # of timm, for what depends on the decoder
SMP = {
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "unet": smp.Unet,
    "fpn": smp.FPN,
    "pan": smp.PAN,
    "light": Light,
}


def model_of(decoder: str, encoder: str = "mobilenetv2_ca_050", stride: int | None = None):
    torch.manual_seed(0)
    return segcoord.create_model(encoder, 3, stride or STRIDES[decoder][0], decoder=decoder).eval()


@pytest.mark.parametrize(
    ("decoder", "encoder"),
    [("deeplabv3", name) for name in ENCODERS] + [(name, ENCODERS[0]) for name in [*STRIDES][1:]],
)
def test_logits_have_the_size_of_any_image(decoder: str, encoder: str) -> None:
    for stride in STRIDES[decoder]:
        model = model_of(decoder, encoder, stride)
        for height, width in ((1, 1), (65, 47)):
            with torch.inference_mode():
                logits = model(torch.randn(1, 3, height, width))
            assert logits.shape == (1, 3, height, width)
            assert logits.isfinite().all()


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("decoder", "encoder"),
    [
        ("deeplabv3", "mobilenetv2_ca_050"),
        ("deeplabv3plus", "mobilenetv2_ca_x_050"),
        ("unet", "mobilenext_ca_050"),
        ("fpn", "efficientnet_b0_ca"),
        ("pan", "mobilenetv2_cbam_050"),
        ("light", "mobilenetv2_ca_y_050"),
    ],
)
def test_models_built_with_smp_run_and_script(decoder: str, encoder: str) -> None:
    torch.manual_seed(0)
    model = SMP[decoder](f"tu-{encoder}", encoder_weights=None, classes=3).eval()
    x = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        expected = model(x)
        assert expected.shape == (1, 3, 128, 128)
        torch.testing.assert_close(torch.jit.script(model)(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("decoder", STRIDES)
def test_compiles_in_one_graph(decoder: str) -> None:
    model = model_of(decoder, "mobilenetv2_ca_050" if decoder == "deeplabv3" else TINY)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(1, 3, 130, 170)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", STRIDES)
def test_decoders_are_initialized(decoder: str) -> None:
    """As in smp: Kaiming for ReLU in all convolutions, including DeepLab's."""
    model = model_of(decoder)
    for name, module in model.net.decoder.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            expected = (2 / module.weight[0].numel()) ** 0.5
            assert abs(module.weight.std().item() / expected - 1) < 0.15, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("segformer", 16, None, None), "one of deeplabv3, deeplabv3plus, pan, unet, fpn, light"),
        (("unet", 16, None, None), "found 16, expected 32 for unet"),
        (("pan", 8, None, None), "found 8, expected 16 or 32 for pan"),
        (("fpn", 32, (1, 2, 3), None), "atrous_rates: found .*fpn has no ASPP"),
        (("light", 16, None, None), "found 16, expected 32 for light"),
        (("unet", 32, None, 0.1), "aspp_dropout: found 0.1, expected null: unet has no ASPP"),
    ],
)
def test_settings_that_a_decoder_does_not_support(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decoder_settings(*arguments)


@pytest.mark.parametrize(
    "encoder", ["efficientvit_b0", "hgnetv2_b0", "swin_tiny_patch4_window7_224"]
)
def test_light_takes_encoders_without_a_feature_at_stride_2(encoder: str) -> None:
    net = Light(f"tu-{encoder}", classes=3).eval()  # older versions of timm fail on device meta
    with torch.inference_mode():
        assert net(torch.randn(1, 3, 224, 224)).shape == (1, 3, 224, 224)


def test_light_needs_features_at_four_strides() -> None:
    with pytest.raises(UserError, match=r"test_vit.*features at strides 4, 8, 16 and 32"):
        segcoord.create_model("test_vit", 3, 32, decoder="light")


def test_multiply_adds_of_light_and_deeplabv3_are_those_in_the_docs() -> None:
    for decoder, documented in (("light", "14.0"), ("deeplabv3", "29.4")):
        with torch.device("meta"):
            model = segcoord.create_model("mobilenetv2_ca_100", 19, decoder=decoder)
        assert f"{giga_macs(model, 1024, 2048):.1f}" == documented
        assert documented in (ROOT / "docs" / "models.md").read_text()
