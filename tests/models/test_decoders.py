"""Every decoder on our encoders: any size, scripted, compiled, exported, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

import segcoord
from segcoord.config.decoders import STRIDES, decoder_settings
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
SMP = {
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "unet": smp.Unet,
    "fpn": smp.FPN,
    "pan": smp.PAN,
}


def model_of(decoder: str, encoder: str = "mobilenetv2_ca_050", stride: int | None = None):
    torch.manual_seed(0)
    return segcoord.create_model(encoder, 3, stride or STRIDES[decoder][0], decoder=decoder).eval()


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("decoder", STRIDES)
def test_any_size_in_the_same_size_out(decoder: str, encoder: str) -> None:
    for stride in STRIDES[decoder]:
        model = model_of(decoder, encoder, stride)
        for height, width in ((1, 1), (65, 47)):
            with torch.inference_mode():
                logits = model(torch.randn(1, 3, height, width))
            assert logits.shape == (1, 3, height, width)
            assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("decoder", "encoder"),
    [(decoder, ENCODERS[0]) for decoder in STRIDES] + [("unet", name) for name in ENCODERS[1:]],
)
def test_smp_itself_takes_them(decoder: str, encoder: str) -> None:
    """As its users build it, and as a script, which smp says its timm encoders can be."""
    torch.manual_seed(0)
    model = SMP[decoder](f"tu-{encoder}", encoder_weights=None, classes=3).eval()
    x = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        expected = model(x)
        assert expected.shape == (1, 3, 128, 128)
        torch.testing.assert_close(torch.jit.script(model)(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("decoder", ["deeplabv3plus", "pan"])
def test_exported_at_one_size_it_runs_at_others(decoder: str) -> None:
    model = model_of(decoder).net
    step = STRIDES[decoder][0]
    least = 256 // step  # below, PAN's last pool is of one cell, and another graph
    size = {
        2: step * torch.export.Dim("h", min=least, max=40),
        3: step * torch.export.Dim("w", min=least, max=40),
    }
    exported = torch.export.export(
        model, (torch.randn(1, 3, 288, 352),), dynamic_shapes=(size,)
    ).module()
    x = torch.randn(1, 3, 320, 256)
    with torch.inference_mode():
        torch.testing.assert_close(exported(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("decoder", STRIDES)
def test_compiles_in_one_graph(decoder: str) -> None:
    """Traced whole, without a break; what the traced graph computes is the model's."""
    model = model_of(decoder)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(1, 3, 130, 170)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", STRIDES)
def test_a_saved_model_rebuilds_itself(decoder: str, tmp_path: Path) -> None:
    model = model_of(decoder)
    segcoord.save(model, tmp_path / "model.ckpt")
    again = segcoord.load(tmp_path / "model.ckpt")
    x = torch.randn(1, 3, 50, 70)
    with torch.inference_mode():
        torch.testing.assert_close(again(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", STRIDES)
def test_every_decoder_is_initialised(decoder: str) -> None:
    """smp's rule, Kaiming for ReLU, in all convolutions of the decoder, DeepLab's too."""
    model = model_of(decoder)
    for name, module in model.net.decoder.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            spread = module.weight.std().item() / (2 / module.weight[0].numel()) ** 0.5
            assert abs(spread - 1) < 0.15, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("segformer", 16, None, None), "one of deeplabv3, deeplabv3plus, pan, unet, fpn"),
        (("unet", 16, None, None), "found 16, expected 32 for unet"),
        (("pan", 8, None, None), "found 8, expected 16 or 32 for pan"),
        (("fpn", 32, (1, 2, 3), None), "fpn has no ASPP"),
        (("unet", 32, None, 0.1), "unet has no ASPP"),
    ],
)
def test_settings_that_a_decoder_does_not_take(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decoder_settings(*arguments)
