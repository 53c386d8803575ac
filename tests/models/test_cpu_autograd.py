"""The backward passes for training on a CPU give PyTorch's outputs and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcoord import create_model
from segcoord.config.schema import TrainConfig
from segcoord.models.cpu_autograd import (
    DilatedDepthwiseConv2d,
    LeanReLU6,
    matmul_upsample,
    use_fast_cpu_backward,
    use_matmul_upsample,
)
from segcoord.training.ema import Ema
from segcoord.training.segmentation import SegmentationLoss

FORMATS = [torch.contiguous_format, torch.channels_last]


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, then the gradients of the input and of the parameters for a weighted sum."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x * 1)  # the layer may work in place
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).sin()
    (y * weight).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]


def fast_copy(layer: nn.Module) -> nn.Module:
    """A copy with the fast backward pass, inside a container whose child it replaces."""
    container = nn.Sequential(copy.deepcopy(layer))
    use_fast_cpu_backward(container)
    return container


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dilation", [2, 3, 6, 7, 18])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (13, 21)])
def test_dilated_depthwise_convolution(memory_format, dilation: int, size) -> None:
    torch.manual_seed(dilation)
    plain = nn.Conv2d(6, 6, 3, padding=dilation, dilation=dilation, groups=6, bias=False).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    fast = fast_copy(plain)
    assert type(fast[0]) is DilatedDepthwiseConv2d
    for found, expected in zip(gradients(fast, x), gradients(plain, x)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(6, 12, 3, padding=2, dilation=2, groups=6, bias=False),
        nn.Conv2d(6, 6, 3, padding=1, dilation=2, groups=6, bias=False),
        nn.Conv2d(6, 6, 3, stride=2, padding=2, dilation=2, groups=6, bias=False),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, bias=False, padding_mode="circular"),
        nn.Conv2d(6, 6, 5, padding=2, dilation=2, groups=6, bias=False),
    ],
)
def test_other_convolutions_are_kept(conv: nn.Conv2d) -> None:
    assert type(fast_copy(conv)[0]) is nn.Conv2d


@pytest.mark.parametrize("inplace", [True, False])
def test_relu6_and_its_gradient_at_the_limits(inplace: bool) -> None:
    x = torch.tensor([-torch.inf, -1, -0.0, 0, 1e-45, 3, 6, 6.5, torch.inf, torch.nan])
    plain = nn.ReLU6(inplace)
    fast = fast_copy(plain)
    assert type(fast[0]) is LeanReLU6
    for found, expected in zip(gradients(fast, x), gradients(plain, x)):
        assert torch.equal(found.nan_to_num(99), expected.nan_to_num(99))


def test_an_in_place_relu6_saves_no_copy_of_its_input() -> None:
    saved = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.untyped_storage().data_ptr())
        return tensor

    x = torch.randn(5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = LeanReLU6(inplace=True)(x + 1)
    assert saved == [y.untyped_storage().data_ptr()]


def test_replaced_modules_share_parameters_and_keep_names_hooks_and_order() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False)
    hooked = nn.ReLU6()
    hooked.register_forward_hook(lambda *_: None)
    model = nn.Sequential(conv, nn.BatchNorm2d(4), hooked, conv).eval()
    before = dict(model.state_dict(keep_vars=True))
    use_fast_cpu_backward(model)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is tensor for name, tensor in before.items())
    assert model[0] is model[3] and type(model[0]) is DilatedDepthwiseConv2d
    assert model[2] is hooked
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(("h", "w", "stride"), [(1, 1, 16), (3, 5, 16), (21, 21, 16), (7, 4, 8)])
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_bilinear_upsampling(h: int, w: int, stride: int, cut: int) -> None:
    padded = (h * stride, w * stride)
    size = (padded[0] - cut, padded[1] - cut // 2)
    torch.manual_seed(0)
    x = torch.randn(2, 3, h, w, dtype=torch.float64)

    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.interpolate(x, size=padded, mode="bilinear", align_corners=False)
            return x[..., : size[0], : size[1]]

    class Ours(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return matmul_upsample(x, padded, size)

    for found, expected in zip(gradients(Ours(), x), gradients(Plain(), x)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decoder", ["deeplabv3", "deeplabv3plus"])
def test_gradients_of_a_training_step_and_logits_of_an_evaluation(decoder: str) -> None:
    """Gradients of every parameter are equal up to rounding, evaluation logits bit for bit."""
    torch.manual_seed(0)
    model = create_model("mobilenetv2_ca_050", 5, decoder=decoder, aspp_dropout=0.0)
    config = TrainConfig(max_steps=1, batch_size=2)
    plain = SegmentationLoss(model, config).double().to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    use_fast_cpu_backward(ours)
    assert sum(type(m) is DilatedDepthwiseConv2d for m in ours.modules()) >= 4
    assert list(ours.state_dict()) == list(plain.state_dict())
    images = torch.randint(0, 256, (2, 65, 70, 3), dtype=torch.uint8)
    batch = {"image": images, "mask": torch.randint(0, 5, (2, 65, 70), dtype=torch.uint8)}
    ours(batch).backward()
    x = plain.model.normalize(images)
    coarse = plain.model.logits_at_stride(x)
    padded = plain.model.padded_size(65, 70)
    up = F.interpolate(coarse, size=padded, mode="bilinear")[..., :65, :70]
    F.cross_entropy(
        up.float(), batch["mask"].long()
    ).backward()  # in float32, as in SegmentationLoss
    for (name, a), b in zip(ours.named_parameters(), plain.parameters()):
        assert (a.grad - b.grad).norm() <= 1e-5 * b.grad.norm() + 1e-9, name
    average = Ema(ours.model, 0.9).model  # a deep copy
    average.load_state_dict(ours.model.state_dict())
    with torch.no_grad():
        expected = plain.eval().model(x)
        assert torch.equal(ours.eval().model(x), expected)
        torch.testing.assert_close(average(x), expected)


def test_replaced_modules_compile_in_one_graph() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False)
    model = nn.Sequential(conv, nn.ReLU6(inplace=True))
    use_fast_cpu_backward(model)
    compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
    x = torch.randn(1, 4, 9, 9)
    for found, expected in zip(gradients(compiled, x), gradients(model, x)):
        torch.testing.assert_close(found, expected)


def test_default_autograd_without_gradients_and_under_autocast() -> None:
    logits = torch.zeros(1, 2, 3, 3, requires_grad=True)
    assert use_matmul_upsample(logits) and not use_matmul_upsample(logits.detach())
    with torch.no_grad():
        assert not use_matmul_upsample(logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert not use_matmul_upsample(logits)
        conv = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False)
        out = DilatedDepthwiseConv2d(conv)(torch.randn(1, 4, 6, 6, requires_grad=True))
        assert out.dtype == torch.bfloat16
        out.sum().backward()
        assert conv.weight.grad.dtype == torch.float32
