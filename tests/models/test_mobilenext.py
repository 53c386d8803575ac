"""MobileNeXt: outputs and gradients, strides, the interfaces of timm and smp."""

from __future__ import annotations

import inspect
from itertools import chain

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from segcoord import CoordAtt
from segcoord.models.encoders.mobilenext import MobileNeXt

# Depthwise convolutions of the blocks of each stage: (b)oth, the (s)econd, (n)one.
DEPTHWISE = ["bb", "sbb", "sbbnbbb", "sbbbnbbb"]

# Per stage: stride and dilation of the first block, dilation of the others. A block whose stride is
# replaced keeps the previous dilation.
STRIDES = {
    32: [(2, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)],
    16: [(2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)],
    8: [(2, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)],
}

# Width 1.0 block by block: input, hidden and output width, stride, depthwise convolutions.
BLOCKS = [
    (32, 16, 96, 2, "b"), (96, 32, 144, 1, "b"),
    (144, 32, 192, 2, "s"), (192, 32, 192, 1, "b"), (192, 32, 192, 1, "b"),
    (192, 48, 288, 2, "s"), (288, 48, 288, 1, "b"), (288, 48, 288, 1, "b"),
    (288, 64, 384, 1, "n"), *3 * [(384, 64, 384, 1, "b")],
    (384, 96, 576, 2, "s"), *3 * [(576, 96, 576, 1, "b")],
    (576, 160, 960, 1, "n"), (960, 160, 960, 1, "b"), (960, 160, 960, 1, "b"),
    (960, 208, 1280, 1, "b"),
]  # fmt: skip


class PlainCoordAtt(nn.Module):
    """Coordinate attention by the equations of its paper."""

    def __init__(self, channels: int, mid: int) -> None:
        super().__init__()
        self.f1 = nn.Sequential(nn.Conv2d(channels, mid, 1), nn.BatchNorm2d(mid), nn.Hardswish())
        self.f_h = nn.Conv2d(mid, channels, 1)
        self.f_w = nn.Conv2d(mid, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        pools = [nn.functional.adaptive_avg_pool2d(x, size) for size in ((h, 1), (1, w))]
        strip = self.f1(torch.cat([pools[0], pools[1].mT], 2))
        g_h, g_w = self.f_h(strip[:, :, :h]), self.f_w(strip[:, :, h:]).mT
        return x * g_h.sigmoid() * g_w.sigmoid()


class PlainSandglass(nn.Sequential):
    """The block as a plain sequence of layers."""

    def __init__(self, i: int, hidden: int, o: int, stride: int, depthwise: str, ca: bool) -> None:
        layers = []
        if depthwise == "b":
            dw1 = nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False)
            layers += [dw1, nn.BatchNorm2d(i), nn.ReLU6()]
            layers += [PlainCoordAtt(i, max(8, i // 24))] if ca else []
        layers += [nn.Conv2d(i, hidden, 1, bias=False), nn.BatchNorm2d(hidden)]
        layers += [nn.Conv2d(hidden, o, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU6()]
        if depthwise != "n":
            dw2 = nn.Conv2d(o, o, 3, stride, padding=1, groups=o, bias=False)
            layers += [dw2, nn.BatchNorm2d(o)]
        super().__init__(*layers)
        self.same = i == o

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x) if self.same else super().forward(x)


def plain_network(ca: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU6(),
        *(PlainSandglass(*block, ca) for block in BLOCKS),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1280, 5),
    )


def calibrated(name: str, **kwargs) -> nn.Module:
    """An encoder in eval mode with batch norm statistics of one batch."""
    torch.manual_seed(0)
    model = timm.create_model(name, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    model(torch.randn(2, 3, 64, 64))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model.eval()


def blocks_by_stage(model: nn.Module) -> list[list[nn.Module]]:
    """features_only and smp's encoders flatten the names of stages."""
    found: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        if hasattr(module, "conv_pw1"):
            found.setdefault(name.rpartition(".")[0], []).append(module)
    return list(found.values())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "ca"), [("mobilenext_100", False), ("mobilenext_ca_100", True)])
def test_outputs_and_gradients_equal_those_of_a_plain_sequence(
    name: str, ca: bool, training: bool
) -> None:
    ours = calibrated(name, num_classes=5, drop_rate=0.0)
    theirs = plain_network(ca)
    tensors = ours.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors, strict=True)))
    # Double precision makes rounding negligible.
    ours, theirs = ours.double().train(training), theirs.double().train(training)
    mine = torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    other = mine.detach().clone().requires_grad_()
    y, expected = ours(mine), theirs(other)
    assert expected.std() > 1e-3
    torch.testing.assert_close(y, expected, rtol=1e-8, atol=1e-10)
    weight = torch.randn_like(expected)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    assert other.grad.std() > 1e-6
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-7, atol=1e-9)
    for tensor, expected in zip(ours.buffers(), theirs.buffers()):
        torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize("name", ["mobilenext_100", "mobilenext_se_100", "mobilenext_ca_100"])
def test_attention_follows_the_first_depthwise_convolution(name: str) -> None:
    kind = {"se": timm.layers.SEModule, "ca": CoordAtt}.get(name.split("_")[1])
    with torch.device("meta"):
        stages = blocks_by_stage(timm.create_model(name))
    assert [len(stage) for stage in stages] == [len(stage) for stage in DEPTHWISE]
    for depthwise, block in zip("".join(DEPTHWISE), chain(*stages)):
        order = [n for n, m in block.named_children() if not isinstance(m, nn.Identity)]
        first = ["conv_dw1", "bn1", *(["att"] if kind else [])] if depthwise == "b" else []
        second = ["conv_dw2", "bn4"] if depthwise != "n" else []
        assert order == [*first, "conv_pw1", "bn2", "conv_pw2", "bn3", *second]
        if kind and first:
            assert isinstance(block.att, kind)
            squeeze = block.att.fc1 if name == "mobilenext_se_100" else block.att.conv1
            assert squeeze.in_channels == block.conv_dw1.out_channels
            assert squeeze.out_channels == max(8, squeeze.in_channels // 24)


def test_encoders_with_attention_have_a_reduction() -> None:
    model = timm.create_model("mobilenext_ca_050", reduction=12)
    assert model.blocks[3][-1].att.conv1.out_channels == 480 // 12
    model = timm.models.model_entrypoint("mobilenext_ca_050")(reduction=None)
    assert model.blocks[3][-1].att.conv1.out_channels == 480 // 24  # as without it
    for name in timm.list_models("mobilenext_*"):
        parameters = inspect.signature(timm.models.model_entrypoint(name)).parameters
        assert ("reduction" in parameters) == ("se" in name or "ca" in name)


@pytest.mark.parametrize("output_stride", STRIDES)
@pytest.mark.parametrize("name", ["mobilenext_100", "mobilenext_se_075", "mobilenext_ca_050"])
def test_strides_dilations_and_features(name: str, output_stride: int) -> None:
    encoder = smp.encoders.get_encoder(f"tu-{name}", weights=None, output_stride=output_stride)
    for stage, (stride, first, rest) in zip(blocks_by_stage(encoder), STRIDES[output_stride]):
        for index, block in enumerate(stage):
            dilation = rest if index else first
            for conv, step in ((block.conv_dw1, 1), (block.conv_dw2, 1 if index else stride)):
                if isinstance(conv, nn.Conv2d):
                    assert conv.stride == (step, step)
                    assert conv.dilation == conv.padding == (dilation, dilation)
    features = encoder.eval()(torch.zeros(1, 3, 64, 96))
    strides = [64 // f.shape[2] for f in features]
    assert strides == [1, 2, 4, 8, min(16, output_stride), min(32, output_stride)]
    assert strides[1:] == encoder.model.feature_info.reduction()
    assert [f.shape[1] for f in features] == list(encoder.out_channels)
    assert (
        encoder.out_channels
        == {
            "mobilenext_100": [3, 32, 144, 192, 384, 1280],
            "mobilenext_se_075": [3, 24, 112, 144, 288, 1280],
            "mobilenext_ca_050": [3, 16, 72, 96, 192, 1280],
        }[name]
    )


def test_an_unsupported_output_stride_is_an_error() -> None:
    with pytest.raises(ValueError, match="output_stride: found 4, expected 8, 16 or 32"):
        timm.create_model("mobilenext_050", output_stride=4)


@pytest.mark.parametrize("name", ["mobilenext_100", "mobilenext_se_075", "mobilenext_ca_050"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # The bias of a convolution before a batch norm has no effect and a gradient of almost 0.
    assert [n for n in without if not n.endswith("att.conv1.bias")] == []


def test_initial_weights() -> None:
    """Kaiming normal with fan out over all groups; batch norms 1 and 0; a small classifier."""
    torch.manual_seed(0)
    model = timm.create_model("mobilenext_ca_100")
    block = model.blocks[3][-1]  # 960 -> 1280
    for conv, fan_out in ((block.conv_dw1, 9 * 960), (block.conv_pw2, 1280)):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert model.head.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.weight.eq(1).all() and m.bias.eq(0).all() for m in norms)
    assert model.head.fc.bias.eq(0).all() and block.att.conv1.bias.eq(0).all()


def test_timm_interface() -> None:
    model = timm.create_model(
        "mobilenext_se_050", num_classes=7, in_chans=4, drop_rate=0.5, global_pool="max"
    ).eval()
    assert isinstance(model, MobileNeXt)
    x = torch.randn(2, 4, 65, 33)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 3, 2) == (2, 1280, 3, 2)
    assert model.forward_head(features, pre_logits=True).equal(features.amax((2, 3)))
    assert model.forward_head(features).equal(model(x))
    assert model(x).shape == (2, 7)
    assert model.get_classifier().out_features == 7
    groups = timm.models.group_parameters(model, model.group_matcher(coarse=True))
    assert len(groups) == 6  # the stem, four stages, the classifier
    assert not model.train().forward_head(features).equal(model.forward_head(features))  # dropout
    model.reset_classifier(3, "avg")
    assert model.eval()(x).shape == (2, 3)
    model.reset_classifier(0)
    assert model.num_classes == 0 and model(x).shape == (2, 1280)
    assert model.default_cfg["classifier"] == "head.fc"
    assert model.default_cfg["first_conv"] == "conv_stem"
    assert model.default_cfg["mean"] == timm.data.IMAGENET_DEFAULT_MEAN


def test_features_only_with_any_indices() -> None:
    x = torch.randn(1, 3, 64, 64)
    whole = calibrated("mobilenext_ca_050", features_only=True)
    features = whole(x)
    assert len(features) == 5
    some = timm.create_model("mobilenext_ca_050", features_only=True, out_indices=(1, -2)).eval()
    some.load_state_dict(whole.state_dict(), strict=False)
    assert some.feature_info.channels() == [72, 192]
    for feature, expected in zip(some(x), (features[1], features[3]), strict=True):
        torch.testing.assert_close(feature, expected)


def test_channels_last_is_kept() -> None:
    model = calibrated("mobilenext_ca_050").double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = model.forward_features(x)
    features = model.to(memory_format=torch.channels_last).forward_features(
        x.to(memory_format=torch.channels_last)
    )
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(features, expected)


def test_gradient_checkpointing_keeps_gradients() -> None:
    model = calibrated("mobilenext_ca_050", num_classes=2)
    x, gradients = torch.randn(2, 3, 64, 64), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_exports_at_other_sizes() -> None:
    # Up to stride 16 there is every kind of block; the whole network takes three times as long.
    model = calibrated("mobilenext_ca_050", features_only=True, out_indices=(1, 3), output_stride=8)
    size = {2: torch.export.Dim("h", min=32, max=256), 3: torch.export.Dim("w", min=32, max=256)}
    exported = torch.export.export(model, (torch.randn(1, 3, 64, 96),), dynamic_shapes=(size,))
    exported = exported.module()
    for height, width in ((97, 64), (128, 160)):
        x = torch.randn(1, 3, height, width)
        torch.testing.assert_close(exported(x), model(x), rtol=1e-3, atol=1e-4)


def test_pretrained_weights_do_not_exist() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist for mobilenext_ca_100"):
        timm.create_model("mobilenext_ca_100", pretrained=True)
