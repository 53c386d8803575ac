"""CoordAtt against the authors' form of the block, written out here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from segcoord.attention import CoordAtt, CoordAttX, CoordAttY

FORMATS = [torch.contiguous_format, torch.channels_last]


class AuthorsCoordAtt(nn.Module):
    """houqb/CoordAttention, mbv2_ca.py: adaptive pools, 1x1 convolutions, h-swish by ReLU6."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        mid = max(8, channels // reduction)
        self.pool_h = nn.AdaptiveAvgPool2d((None, 1))
        self.pool_w = nn.AdaptiveAvgPool2d((1, None))
        self.conv1 = nn.Conv2d(channels, mid, 1)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, channels, 1)
        self.conv3 = nn.Conv2d(mid, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        y = torch.cat([self.pool_h(x), self.pool_w(x).permute(0, 1, 3, 2)], 2)
        y = self.bn1(self.conv1(y))
        y = y * (nn.functional.relu6(y + 3) / 6)
        rows, columns = torch.split(y, [h, w], 2)
        a_h = self.conv2(rows).sigmoid()
        a_w = self.conv3(columns.permute(0, 1, 3, 2)).sigmoid()
        return x * a_w * a_h


class OneDirection(nn.Module):
    """The same block with one of its two pools: X keeps the rows, Y the columns."""

    def __init__(self, channels: int, reduction: int, pool: tuple) -> None:
        super().__init__()
        mid = max(8, channels // reduction)
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.conv1 = nn.Conv2d(channels, mid, 1)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(self.pool(x)))
        y = y * (nn.functional.relu6(y + 3) / 6)
        return x * self.conv2(y).sigmoid()


FORMS = {
    "ca": (CoordAtt, AuthorsCoordAtt),
    "ca_x": (CoordAttX, lambda c, r: OneDirection(c, r, (None, 1))),
    "ca_y": (CoordAttY, lambda c, r: OneDirection(c, r, (1, None))),
}


def pair(form: str, channels: int, reduction: int, training: bool) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    mine, written_out = FORMS[form]
    theirs = written_out(channels, reduction)
    nn.init.normal_(theirs.bn1.running_mean)
    nn.init.uniform_(theirs.bn1.running_var, 0.5, 2)
    ours = mine(channels, reduction)
    ours.load_state_dict(theirs.state_dict())
    # In double precision, so that only the arithmetic differs and not its rounding.
    return ours.double().train(training), theirs.double().train(training)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("channels", "reduction", "size"),
    [(16, 32, (7, 11)), (96, 32, (5, 5)), (576, 32, (9, 4)), (64, 16, (1, 13)), (64, 24, (6, 1))],
)
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_authors_form_forward_and_backward(
    form: str, channels: int, reduction: int, size: tuple[int, int], training: bool, memory_format
) -> None:
    ours, theirs = pair(form, channels, reduction, training)
    x = torch.randn(3, channels, *size, dtype=torch.float64)
    mine = x.clone(memory_format=memory_format).requires_grad_()
    other = x.clone().requires_grad_()
    y, expected = ours(mine), theirs(other)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-10)
    weight = torch.randn_like(expected)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-10)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-10, msg=name)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, theirs.get_buffer(name))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_keeps_shape_and_memory_format(memory_format, form: str) -> None:
    block = FORMS[form][0](32).eval()
    for size in ((1, 1), (1, 9), (8, 8), (33, 17)):
        x = torch.randn(2, 32, *size).contiguous(memory_format=memory_format)
        y = block(x)
        assert y.shape == x.shape
        assert y.is_contiguous(memory_format=memory_format)


def test_names_and_width_are_the_authors() -> None:
    names = list(CoordAtt(96).state_dict())
    assert names == list(AuthorsCoordAtt(96, 32).state_dict())
    assert CoordAtt(96).conv1.out_channels == 8  # the floor
    assert CoordAtt(960).conv1.out_channels == 30
    assert CoordAtt(960, reduction=16).conv1.out_channels == 60


def test_gate_knows_the_place() -> None:
    """Unlike a channel gate, it differs between rows and between columns."""
    block = CoordAtt(16).eval()
    x = torch.rand(1, 16, 6, 8) + 0.5
    x[:, :, 2] += 4
    gate = block(x) / x
    assert gate.std(2).mean() > 1e-3
    x = torch.rand(1, 16, 6, 8) + 0.5
    x[:, :, :, 5] += 4
    assert (block(x) / x).std(3).mean() > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_pools_export_at_other_sizes(form: str) -> None:
    """A pool frozen at the traced size is right there and wrong everywhere else."""
    block = FORMS[form][0](16).eval()
    size = {2: torch.export.Dim("h", min=2, max=64), 3: torch.export.Dim("w", min=2, max=64)}
    exported = torch.export.export(block, (torch.randn(1, 16, 24, 40),), dynamic_shapes=(size,))
    for height, width in ((25, 41), (31, 17), (48, 60)):
        x = torch.randn(1, 16, height, width)
        torch.testing.assert_close(exported.module()(x), block(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("channels", "reduction"), [(0, 32), (16, 0)])
def test_refuses_nonsense(channels: int, reduction: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        CoordAtt(channels, reduction)
