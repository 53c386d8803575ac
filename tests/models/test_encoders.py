"""The backbones: counts, strides, dilations, and that timm and smp find them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from helpers import ROOT
from timm.layers import SEModule
from timm.layers.cbam import CbamModule

import segcoord
from segcoord.models.attention import CoordAtt, CoordAttX, CoordAttY
from segcoord.models.create_attention import REDUCTION
from segcoord.models.profile import count_encoder, encoder_names, giga_macs

WIDTHS = ("100", "075", "050")
NAMES = [f"mobilenetv2_{name}_{width}" for name in REDUCTION for width in WIDTHS]

# Parameters with a classifier of 1000 classes; the paper has 3.89 M for se, cbam, ca_x and ca_y,
# 3.95 M for ca (table 1 and the authors' README), each at the reduction that is the default here.
PARAMETERS = {
    "mobilenetv2_100": 3_504_872,
    "mobilenetv2_se_100": 3_890_136,
    "mobilenetv2_cbam_100": 3_891_736,
    "mobilenetv2_ca_100": 3_950_648,
    "mobilenetv2_ca_x_100": 3_890_744,
    "mobilenetv2_ca_y_100": 3_890_744,
    "mobilenetv2_ca_075": 2_891_631,
    "mobilenetv2_ca_050": 2_095_568,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b0_ca": 5_381_804,
}
MODULES = {
    "se": SEModule,
    "cbam": CbamModule,
    "ca": CoordAtt,
    "ca_x": CoordAttX,
    "ca_y": CoordAttY,
}

# (stride, dilation) of the depthwise convolution of every block, by output stride. The block that
# loses its stride (3.0 at stride 8, 5.0 at both) keeps the dilation from before it.
DEPTHWISE = {
    16: [(1, 1)] + [(2, 1), (1, 1)] + [(2, 1), (1, 1), (1, 1)] + [(2, 1)] + 3 * [(1, 1)]
    + 3 * [(1, 1)] + [(1, 1), (1, 2), (1, 2)] + [(1, 2)],
    8: [(1, 1)] + [(2, 1), (1, 1)] + [(2, 1), (1, 1), (1, 1)] + [(1, 1)] + 3 * [(1, 2)]
    + 3 * [(1, 2)] + [(1, 2), (1, 4), (1, 4)] + [(1, 4)],
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name: str) -> None:
    model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "mega"),
    [("mobilenetv2_100", 300), ("mobilenetv2_se_100", 300), ("mobilenetv2_ca_100", 310)],
)
def test_multiply_adds_are_the_published_ones(name: str, mega: int) -> None:
    """As the authors round them, to tens of millions."""
    assert round(giga_macs(timm.create_model(name), 224, 224) * 100) * 10 == mega


def test_state_tensors_are_the_authors() -> None:
    assert len(timm.create_model("mobilenetv2_ca_100").state_dict()) == 490


@pytest.mark.parametrize("name", [*NAMES, "efficientnet_b0_ca"])
def test_attention_stands_after_the_depthwise_convolution(name: str) -> None:
    """Of every block that expands, and in EfficientNet of the first one too."""
    model = timm.create_model(name)
    attention = "ca" if name == "efficientnet_b0_ca" else name.split("_", 1)[1].rpartition("_")[0]
    blocks = [block for stage in model.blocks for block in stage]
    first = 0 if name.startswith("efficientnet") else 1
    assert len(blocks) == 16 + first
    assert not any(isinstance(m, MODULES[attention]) for b in blocks[:first] for m in b.modules())
    for block in blocks[first:]:
        order = [child for child, _ in block.named_children()]
        norm, project = ("bn2", "conv_pwl") if "conv_pwl" in order else ("bn1", "conv_pw")
        assert order.index("conv_dw") < order.index(norm) < order.index("se")
        assert order.index("se") < order.index(project)
        assert type(block.se) is MODULES[attention]
        x = torch.zeros(1, block.conv_dw.out_channels, 4, 5)
        assert block.se.eval()(x).shape == x.shape


@pytest.mark.parametrize("name", ["se", "cbam", "ca", "ca_x", "ca_y"])
def test_reduction_is_a_keyword(name: str) -> None:
    def width(model) -> int:
        block = model.blocks[6][0].se
        first = {"se": "fc1", "cbam": "channel.fc1"}.get(name, "conv1")
        return block.get_submodule(first).out_channels

    for reduction in (16, 24, 32):
        model = timm.create_model(f"mobilenetv2_{name}_100", reduction=reduction)
        assert width(model) == 960 // reduction
        narrow = segcoord.create_model(f"mobilenetv2_{name}_050", 3, reduction=reduction)
        assert narrow.spec["reduction"] == reduction
    assert width(timm.create_model(f"mobilenetv2_{name}_100")) == 960 // REDUCTION[name]


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


@pytest.mark.parametrize("name", [*NAMES, "efficientnet_b0_ca"])
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


def test_the_list_is_whole_and_its_patterns_work() -> None:
    assert len(encoder_names()) == 4 + 15 + 9 + 1
    assert encoder_names("*_ca_*_050") == ["mobilenetv2_ca_x_050", "mobilenetv2_ca_y_050"]
    with pytest.raises(segcoord.UserError, match="no encoder matches 'resnet'"):
        encoder_names("resnet")
    counts = count_encoder("mobilenetv2_ca_100", 8)
    assert (counts.weights, counts.parameters) == ("authors", 3_950_648)
    assert counts.segmentation_parameters == 3_602_213


def test_the_table_of_the_docs_is_of_these_counts() -> None:
    """Parameters exactly, multiply-adds as printed."""
    rows = {}
    for line in (ROOT / "docs" / "models.md").read_text().splitlines():
        if line.startswith("| `") and line.count("|") == 9:
            cells = [cell.strip(" `") for cell in line.split("|")[1:-1]]
            rows[cells[0]] = cells
    assert list(rows) == encoder_names()
    for name, cells in rows.items():
        model = timm.create_model(name)
        assert cells[1] == f"{sum(p.numel() for p in model.parameters()):,}"
        assert cells[3] == f"{1000 * giga_macs(model, 224, 224):.1f}"
