"""Coordinate attention: a gate for each channel that knows the row and the column.

Paper: Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
section 3.2 and figure 2; the authors' code: houqb/CoordAttention, mbv2_ca.py.

Shapes: N batch, C channels, M reduced channels, H and W at the block's own resolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def squeezed_width(channels: int, reduction: int) -> int:
    """max(8, C // reduction), the authors' rule; ValueError for what can't be."""
    if channels < 1 or reduction < 1:
        raise ValueError(f"channels={channels}, reduction={reduction}: both must be at least 1")
    return max(8, channels // reduction)


class CoordAtt(nn.Module):
    """`x * a_h * a_w`, with gates in (0, 1) pooled along each row (a_h) and each column (a_w).

    Parameters bear the authors' names (conv1, bn1, conv2, conv3) in the authors' order, so that
    their checkpoints load. The pools are means, not adaptive pooling: a pool whose kernel was
    frozen at the traced size exports silently wrong.

    Args:
        channels: C of the input.
        reduction: the squeezed width is max(8, C // reduction).
    """

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        mid = squeezed_width(channels, reduction)
        self.conv1 = nn.Conv2d(channels, mid, 1)
        self.bn1 = nn.BatchNorm2d(mid)
        self.act = nn.Hardswish()
        self.conv2 = nn.Conv2d(mid, channels, 1)
        self.conv3 = nn.Conv2d(mid, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gates `x`, (N, C, H, W) of any float dtype, and keeps its shape and memory format."""
        if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            return self._forward_channels_first(x)
        return self._forward_channels_last(x)

    def _forward_channels_first(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        rows = x.mean(3, keepdim=True)  # (N, C, H, 1)
        columns = x.mean(2, keepdim=True).transpose(2, 3)  # (N, C, W, 1)
        strip = self.act(self.bn1(self.conv1(torch.cat([rows, columns], 2))))  # (N, M, H+W, 1)
        rows, columns = strip.split([h, w], 2)
        a_h = self.conv2(rows).sigmoid()  # (N, C, H, 1)
        a_w = self.conv3(columns).sigmoid().transpose(2, 3)  # (N, C, 1, W)
        return x * a_w * a_h

    def _forward_channels_last(self, x: Tensor) -> Tensor:
        # The same sums over the tensor as it lies in memory, (N, H, W, C): a mean over dim 2 or 3
        # of the (N, C, H, W) view, and a gate in the other format, are several times slower.
        h, w = x.shape[-2:]
        x = x.permute(0, 2, 3, 1)
        strip = torch.cat([x.mean(2), x.mean(1)], 1)  # (N, H+W, C)
        strip = F.linear(strip, self.conv1.weight.flatten(1), self.conv1.bias)  # (N, H+W, M)
        strip = self.act(self.bn1(strip.transpose(1, 2).unsqueeze(3)))  # (N, M, H+W, 1)
        rows, columns = strip.squeeze(3).transpose(1, 2).split([h, w], 1)
        a_h = F.linear(rows, self.conv2.weight.flatten(1), self.conv2.bias).sigmoid()  # (N, H, C)
        a_w = F.linear(columns, self.conv3.weight.flatten(1), self.conv3.bias).sigmoid()
        x = x * a_w.unsqueeze(1) * a_h.unsqueeze(2)  # (N, H, W, C)
        return x.permute(0, 3, 1, 2)


class _AxisAtt(nn.Module):
    """Coordinate attention along one axis: one of the two pools, and so one of the two gates."""

    def __init__(self, channels: int, reduction: int = 24) -> None:
        super().__init__()
        mid = squeezed_width(channels, reduction)
        self.conv1 = nn.Conv2d(channels, mid, 1)
        self.bn1 = nn.BatchNorm2d(mid)
        self.act = nn.Hardswish()
        self.conv2 = nn.Conv2d(mid, channels, 1)

    def _gate(self, x: Tensor, pooled: int) -> Tensor:
        # As in CoordAtt: the mean over the tensor as it lies in memory, whatever its format.
        if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            strip = x.mean(pooled, keepdim=True)
        else:
            strip = x.permute(0, 2, 3, 1).mean(pooled - 1, keepdim=True).permute(0, 3, 1, 2)
        return self.conv2(self.act(self.bn1(self.conv1(strip)))).sigmoid()


class CoordAttX(_AxisAtt):
    """`x * a_h`: the paper's "X attention", with the horizontal pool alone (table 1, figure 2c).

    Args:
        channels: C of the input.
        reduction: the squeezed width is max(8, C // reduction).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Gates `x`, (N, C, H, W), by (N, C, H, 1)."""
        return x * self._gate(x, 3)


class CoordAttY(_AxisAtt):
    """`x * a_w`: the paper's "Y attention", with the vertical pool alone (table 1, figure 2c).

    Args:
        channels: C of the input.
        reduction: the squeezed width is max(8, C // reduction).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Gates `x`, (N, C, H, W), by (N, C, 1, W)."""
        return x * self._gate(x, 2)
