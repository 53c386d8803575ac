"""MobileNetV2 and EfficientNet with attention: counts, layers, strides, registration in timm."""

from __future__ import annotations

import importlib
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
from segcoord.models.profile import count_encoder, count_parameters, encoder_names, giga_macs

WIDTHS = ("100", "075", "050")
ENCODERS = [f"mobilenetv2_{name}_{width}" for name in REDUCTION for width in WIDTHS]

NARROW = [name for name in ENCODERS if name.endswith("050")]

MODULES = {
    "se": SEModule,
    "cbam": CbamModule,
    "ca": CoordAtt,
    "ca_x": CoordAttX,
    "ca_y": CoordAttY,
}

# (stride, dilation) of the depthwise convolution of every block, by output stride. The block whose
# stride is replaced (3.0 at stride 8, 5.0 at both) keeps the previous dilation.
DEPTHWISE = {
    16: [(1, 1)] + [(2, 1), (1, 1)] + [(2, 1), (1, 1), (1, 1)] + [(2, 1)] + 3 * [(1, 1)]
    + 3 * [(1, 1)] + [(1, 1), (1, 2), (1, 2)] + [(1, 2)],
    8: [(1, 1)] + [(2, 1), (1, 1)] + [(2, 1), (1, 1), (1, 1)] + [(1, 1)] + 3 * [(1, 2)]
    + 3 * [(1, 2)] + [(1, 2), (1, 4), (1, 4)] + [(1, 4)],
}  # fmt: skip


def create_on_meta(name: str, **kwargs: object) -> torch.nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def test_the_state_dict_has_as_many_tensors_as_the_authors() -> None:
    assert len(create_on_meta("mobilenetv2_ca_100").state_dict()) == 490


@pytest.mark.parametrize("name", [*ENCODERS, "efficientnet_b0_ca"])
def test_attention_follows_the_depthwise_convolution(name: str) -> None:
    """In every block with an expansion, and in EfficientNet's first block too."""
    model = create_on_meta(name)
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
        x = torch.zeros(1, block.conv_dw.out_channels, 4, 5, device="meta")
        assert block.se.eval()(x).shape == x.shape


@pytest.mark.parametrize("name", ["se", "cbam", "ca", "ca_x", "ca_y"])
def test_reduction_sets_the_squeezed_width(name: str) -> None:
    def width(model) -> int:
        block = model.blocks[6][0].se
        first = {"se": "fc1", "cbam": "channel.fc1"}.get(name, "conv1")
        return block.get_submodule(first).out_channels

    for reduction in (16, 24, 32):
        assert width(create_on_meta(f"mobilenetv2_{name}_100", reduction=reduction)) == (
            960 // reduction
        )
    with torch.device("meta"):
        model = segcoord.create_model(f"mobilenetv2_{name}_050", 3, reduction=16)
    assert model.spec["reduction"] == 16
    assert width(create_on_meta(f"mobilenetv2_{name}_100")) == 960 // REDUCTION[name]


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", [*NARROW, "mobilenetv2_ca_100"])
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


@pytest.mark.parametrize("name", [*NARROW, "efficientnet_b0_ca"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # The bias of a convolution before a batch norm has no effect and a gradient of almost 0.
    assert [n for n in without if not n.endswith("se.conv1.bias")] == []


def test_importing_segcoord_after_timm_registers_the_encoders(monkeypatch) -> None:
    """The suite itself imports segcoord before timm."""
    monkeypatch.delitem(sys.modules, "segcoord.models.encoders")
    importlib.reload(segcoord)
    assert "segcoord.models.encoders" in sys.modules
    assert timm.is_model("mobilenetv2_ca_100")


def test_importing_segcoord_imports_no_torch_and_prints_nothing() -> None:
    code = (
        "import sys, segcoord, segcoord.data.labels, segcoord.config.schema, segcoord.cli.main; "
        "heavy = {'torch', 'timm', 'cv2', 'albumentations'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    assert process.stdout == process.stderr == ""


def test_encoders_are_listed_and_filtered_by_pattern() -> None:
    assert len(encoder_names()) == 4 + 15 + 9 + 1
    assert encoder_names("*_ca_*_050") == ["mobilenetv2_ca_x_050", "mobilenetv2_ca_y_050"]
    with pytest.raises(segcoord.UserError, match="no encoder matches 'resnet'"):
        encoder_names("resnet")
    counts = count_encoder("mobilenetv2_ca_100", 8)
    assert (counts.weights, counts.parameters) == ("authors", 3_950_648)
    assert counts.segmentation_parameters == 3_602_213


def test_counts_are_those_in_the_docs_and_close_to_the_published_ones() -> None:
    rows = {}
    for line in (ROOT / "docs" / "models.md").read_text().splitlines():
        if line.startswith("| `") and line.count("|") == 9:
            cells = [cell.strip(" `") for cell in line.split("|")[1:-1]]
            rows[cells[0]] = cells
    assert list(rows) == encoder_names()
    for name, (_, parameters, published, mega_macs, published_macs, *_) in rows.items():
        model = create_on_meta(name)
        count = count_parameters(model)
        assert parameters == f"{count:,}"
        if published:
            tolerance = 0.27 if name == "mobilenext_075" else 0.06  # docs/models.md explains it
            assert float(published.removesuffix(" M")) == pytest.approx(count / 1e6, abs=tolerance)
        if name.endswith(("_075", "_050")):  # the widths differ in channels alone
            continue
        macs = 1000 * giga_macs(model, 224, 224)
        assert mega_macs == f"{macs:.1f}"
        if published_macs:
            assert float(published_macs) == pytest.approx(macs, abs=13)
