"""The backbones: counts, strides, dilations, and that timm and smp find them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

import segcoord.encoders  # noqa: F401
from segcoord import CoordAtt

NAMES = ["mobilenetv2_ca_100", "mobilenetv2_ca_075", "mobilenetv2_ca_050"]

# (stride, dilation) of the depthwise convolution of every block, by output stride. The block that
# loses its stride (3.0 at stride 8, 5.0 at both) keeps the dilation from before it.
DEPTHWISE = {
    16: [(1, 1)] + [(2, 1), (1, 1)] + [(2, 1), (1, 1), (1, 1)] + [(2, 1)] + 3 * [(1, 1)]
    + 3 * [(1, 1)] + [(1, 1), (1, 2), (1, 2)] + [(1, 2)],
    8: [(1, 1)] + [(2, 1), (1, 1)] + [(2, 1), (1, 1), (1, 1)] + [(1, 1)] + 3 * [(1, 2)]
    + 3 * [(1, 2)] + [(1, 2), (1, 4), (1, 4)] + [(1, 4)],
}  # fmt: skip


def test_counts_are_the_papers() -> None:
    model = timm.create_model("mobilenetv2_ca_100")
    assert sum(p.numel() for p in model.parameters()) == 3_950_648
    assert len(model.state_dict()) == 490


def test_attention_stands_after_the_depthwise_convolution_of_every_expanding_block() -> None:
    model = timm.create_model("mobilenetv2_ca_100")
    blocks = [block for stage in model.blocks for block in stage]
    assert not any(isinstance(m, CoordAtt) for m in blocks[0].modules())
    assert len(blocks) == 17
    for block in blocks[1:]:
        order = [name for name, _ in block.named_children()]
        assert order.index("bn2") < order.index("se") < order.index("conv_pwl")
        assert isinstance(block.se, CoordAtt)
        assert block.se.conv1.in_channels == block.conv_dw.out_channels


def test_reduction_is_a_keyword() -> None:
    model = timm.create_model("mobilenetv2_ca_100", reduction=16)
    assert model.blocks[6][0].se.conv1.out_channels == 960 // 16


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", NAMES)
def test_strides_dilations_and_features(name: str, output_stride: int) -> None:
    encoder = smp.encoders.get_encoder(f"tu-{name}", weights=None, output_stride=output_stride)
    depthwise = [m for n, m in encoder.named_modules() if n.endswith("conv_dw")]
    assert [(m.stride[0], m.dilation[0]) for m in depthwise] == DEPTHWISE[output_stride]
    assert all(m.padding == m.dilation for m in depthwise)
    features = encoder.eval()(torch.zeros(1, 3, 64, 96))
    strides = [64 // f.shape[2] for f in features]
    assert strides == [1, 2, 4, 8, min(16, output_stride), min(32, output_stride)]
    assert [f.shape[1] for f in features] == list(encoder.out_channels)
    if name.endswith("100"):
        assert encoder.out_channels == [3, 16, 24, 32, 96, 320]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # The bias of a convolution before a batch norm has no effect, and so a gradient of nearly 0.
    assert [n for n in without if not n.endswith("se.conv1.bias")] == []


@pytest.mark.parametrize(
    "imports", ["import segcoord, timm", "import timm, segcoord", "import segcoord.model, timm"]
)
def test_importing_segcoord_registers_in_timm(imports: str) -> None:
    code = f"{imports}; assert timm.is_model('mobilenetv2_ca_100')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_importing_segcoord_is_quick_and_quiet() -> None:
    code = (
        "import sys, segcoord, segcoord.labels, segcoord.config, segcoord.cli; "
        "heavy = {'torch', 'timm', 'cv2', 'albumentations'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout == done.stderr == ""
