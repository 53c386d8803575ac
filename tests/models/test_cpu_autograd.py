"""What is quicker in training on a CPU gives PyTorch's own results and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcoord import create_model
from segcoord.config.schema import TrainConfig
from segcoord.models.cpu_autograd import upsample, use_fast_cpu_backward, use_matmul_upsample
from segcoord.training.segmentation import SegmentationLoss

FORMATS = [torch.contiguous_format, torch.channels_last]


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, and the gradients of a weighted sum of it: of the input, then of the weights."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x * 1)  # the layer may work in place
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).sin()
    (y * weight).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dilation", [2, 3, 4, 6, 7, 12, 18])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 9), (13, 21)])
def test_a_dilated_depthwise_convolution(memory_format, dilation: int, size) -> None:
    torch.manual_seed(dilation)
    plain = nn.Conv2d(6, 6, 3, padding=dilation, dilation=dilation, groups=6, bias=False).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    ours = copy.deepcopy(plain)
    use_fast_cpu_backward(ours)
    assert type(ours) is not nn.Conv2d
    for found, expected in zip(gradients(ours, x), gradients(plain, x)):
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
def test_another_convolution_stays(conv: nn.Conv2d) -> None:
    use_fast_cpu_backward(conv)
    assert type(conv) is nn.Conv2d


@pytest.mark.parametrize("inplace", [True, False])
def test_relu6_at_its_edges_too(inplace: bool) -> None:
    x = torch.tensor([-torch.inf, -1, -0.0, 0, 1e-45, 3, 6, 6.5, torch.inf, torch.nan])
    plain, ours = nn.ReLU6(inplace), nn.ReLU6(inplace)
    use_fast_cpu_backward(ours)
    for found, expected in zip(gradients(ours, x), gradients(plain, x)):
        assert torch.equal(found.nan_to_num(99), expected.nan_to_num(99))


@pytest.mark.parametrize(("h", "w", "stride"), [(1, 1, 16), (3, 5, 16), (21, 21, 16), (7, 4, 8)])
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_upsampling(h: int, w: int, stride: int, cut: int) -> None:
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
            return upsample(x, padded, size)

    for found, expected in zip(gradients(Ours(), x), gradients(Plain(), x)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decoder", ["deeplabv3", "deeplabv3plus"])
def test_a_whole_step_and_a_whole_evaluation(decoder: str) -> None:
    """Equal loss and gradients of every parameter; logits of an evaluation to the bit."""
    torch.manual_seed(0)
    model = create_model("mobilenetv2_ca_050", 5, decoder=decoder, aspp_dropout=0.0)
    config = TrainConfig(max_steps=1, batch_size=2)
    plain = SegmentationLoss(model, config).double().to(memory_format=torch.channels_last)
    ours = copy.deepcopy(plain)
    use_fast_cpu_backward(ours)
    assert sum(type(m).__name__ == "_DilatedDepthwise" for m in ours.modules()) >= 4
    assert ours.state_dict().keys() == plain.state_dict().keys()
    images = torch.randint(0, 256, (2, 65, 70, 3), dtype=torch.uint8)
    batch = {"image": images, "mask": torch.randint(0, 5, (2, 65, 70), dtype=torch.uint8)}
    ours(batch).backward()
    x = plain.model.normalize(images)
    coarse = plain.model.logits_at_stride(x)
    padded = plain.model.padded_size(65, 70)
    up = F.interpolate(coarse, size=padded, mode="bilinear")[..., :65, :70]
    F.cross_entropy(up.float(), batch["mask"].long()).backward()  # the loss is float32 in ours too
    for (name, a), b in zip(ours.named_parameters(), plain.parameters()):
        assert (a.grad - b.grad).norm() <= 1e-5 * b.grad.norm() + 1e-9, name
    with torch.no_grad():
        assert torch.equal(ours.eval().model(x), plain.eval().model(x))


def test_what_pytorch_does_by_itself() -> None:
    logits = torch.zeros(1, 2, 3, 3, requires_grad=True)
    assert use_matmul_upsample(logits) and not use_matmul_upsample(logits.detach())
    with torch.no_grad():
        assert not use_matmul_upsample(logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert not use_matmul_upsample(logits)
        conv = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False)
        use_fast_cpu_backward(conv)
        out = conv(torch.randn(1, 4, 6, 6, requires_grad=True))
        assert out.dtype == torch.bfloat16
        out.sum().backward()
        assert conv.weight.grad.dtype == torch.float32
