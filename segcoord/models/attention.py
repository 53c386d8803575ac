"""Coordinate attention: a gate for each channel that knows the row and the column.

Paper: Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
section 3.2 and figure 2; the authors' code: houqb/CoordAttention, mbv2_ca.py.

There is little to compute and a whole feature to read and write, so the time goes into how often,
and in which order, memory is touched. Hence three forms of the same: for an NCHW tensor, for a
channels_last one, and a plain one for what traces the graph (torch.compile, torch.export, ONNX,
TorchScript) and does its own fusing. benchmarks/attention.py compares them with the authors'.

Shapes: N batch, C channels, M reduced channels, H and W at the block's own resolution, L = H + W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx


def squeezed_width(channels: int, reduction: int) -> int:
    """max(8, C // reduction), the authors' rule; ValueError for what can't be."""
    if channels < 1 or reduction < 1:
        raise ValueError(f"channels={channels}, reduction={reduction}: both must be at least 1")
    return max(8, channels // reduction)


class _Attention(nn.Module):
    """What squeezes a strip, for one direction or two, and the choice among the forms.

    The pools are means, not adaptive pooling: a pool whose kernel was frozen at the traced size
    exports silently wrong.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        mid = squeezed_width(channels, reduction)
        self.conv1 = nn.Conv2d(channels, mid, 1)
        self.bn1 = nn.BatchNorm2d(mid)
        self.act = nn.Hardswish()
        self.conv2 = nn.Conv2d(mid, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gates `x`, (N, C, H, W) of any float dtype, and keeps its shape and memory format."""
        if torch.jit.is_scripting():
            return self._plain(x)
        return self._eager(x)

    @torch.jit.unused
    def _eager(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return self._plain(x)
        if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            return self._channels_first(x)
        # The tensor as it lies in memory, (N, H, W, C): a mean over dim 2 or 3 of the (N, C, H, W)
        # view, and a gate in the other format, are several times slower.
        return self._channels_last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _squeeze(self, strip: Tensor) -> Tensor:
        return self.act(self.bn1(self.conv1(strip)))  # (N, C, L, 1) -> (N, M, L, 1)


class CoordAtt(_Attention):
    """`x * a_h * a_w`, with gates in (0, 1) pooled along each row (a_h) and each column (a_w).

    Parameters bear the authors' names (conv1, bn1, conv2, conv3) in the authors' order, so that
    their checkpoints load.

    Args:
        channels: C of the input.
        reduction: the squeezed width is max(8, C // reduction).
        inplace: may overwrite its input where no gradient is recorded, for those who need it no
            more.
    """

    def __init__(self, channels: int, reduction: int = 32, inplace: bool = False) -> None:
        super().__init__(channels, reduction)
        self.inplace = inplace
        self.conv3 = nn.Conv2d(self.conv1.out_channels, channels, 1)

    def _plain(self, x: Tensor) -> Tensor:
        z_h, z_w = self._logits(x.mean(3, keepdim=True), x.mean(2, keepdim=True))
        return x * z_w.sigmoid() * z_h.sigmoid()

    def _logits(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Means, (N, C, H, 1) and (N, C, 1, W) -> the gates' logits, of the same shapes."""
        if self.bn1.training:  # its statistics are of rows and columns together
            strip = self._squeeze(torch.cat([rows, columns.transpose(2, 3)], 2))  # (N, M, L, 1)
            rows, columns = strip.split([rows.shape[2], columns.shape[3]], 2)
            columns = columns.transpose(2, 3)
        else:  # no concatenation, which ONNX Runtime and OpenVINO are slow at
            rows, columns = self._squeeze(rows), self._squeeze(columns)
        return self.conv2(rows), self.conv3(columns)

    def _channels_first(self, x: Tensor) -> Tensor:
        x, rows, columns = _means(x, 3, 2)
        z_h, z_w = self._logits(rows, columns)
        return _gated(x, z_w, z_h, 2, self.inplace)

    def _channels_last(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        x, rows, columns = _means(x, 2, 1)  # (N, H, W, C), (N, H, 1, C), (N, 1, W, C)
        strip = torch.cat([rows.squeeze(2), columns.squeeze(1)], 1)  # (N, L, C)
        strip = _linear(self.conv1, strip)  # (N, L, M)
        strip = self.act(self.bn1(strip.transpose(1, 2).unsqueeze(3)))  # (N, M, L, 1)
        rows, columns = strip.squeeze(3).transpose(1, 2).split([h, w], 1)
        z_h = _linear(self.conv2, rows).unsqueeze(2)  # (N, H, 1, C)
        z_w = _linear(self.conv3, columns).unsqueeze(1)  # (N, 1, W, C)
        return _gated(x, z_w, z_h, 1, self.inplace)


class _AxisAtt(_Attention):
    """Coordinate attention with one of its two pools, and so one of its two gates."""

    __constants__ = ("pooled",)  # for TorchScript
    pooled: int  # axis of (N, C, H, W)

    def __init__(self, channels: int, reduction: int = 24) -> None:
        super().__init__(channels, reduction)

    def _plain(self, x: Tensor) -> Tensor:
        return x * self._gate(x.mean(self.pooled, keepdim=True))

    def _gate(self, strip: Tensor) -> Tensor:
        return self.conv2(self._squeeze(strip)).sigmoid()

    def _channels_first(self, x: Tensor) -> Tensor:
        x, strip = _means(x, self.pooled)
        return x * self._gate(strip)

    def _channels_last(self, x: Tensor) -> Tensor:
        x, strip = _means(x, self.pooled - 1)
        return x * self._gate(strip.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class CoordAttX(_AxisAtt):
    """`x * a_h`: the paper's "X attention", with the horizontal pool alone (table 1, figure 2c).

    Args:
        channels: C of the input.
        reduction: the squeezed width is max(8, C // reduction).
    """

    pooled = 3  # a_h is (N, C, H, 1)


class CoordAttY(_AxisAtt):
    """`x * a_w`: the paper's "Y attention", with the vertical pool alone (table 1, figure 2c).

    Args:
        channels: C of the input.
        reduction: the squeezed width is max(8, C // reduction).
    """

    pooled = 2  # a_w is (N, C, 1, W)


def _linear(conv: nn.Conv2d, strip: Tensor) -> Tensor:
    """A 1x1 convolution over the last dim: (N, L, C) -> (N, L, M)."""
    return F.linear(strip, conv.weight.flatten(1), conv.bias)


def _means(x: Tensor, *dims: int) -> tuple[Tensor, ...]:
    """`x`, to be used in its place from here on, and its mean over each dim, kept as 1."""
    if torch.is_grad_enabled():
        return _Means.apply(x, *dims)
    return x, *(_mean(x, dim) for dim in dims)


def _gated(x: Tensor, z_w: Tensor, z_h: Tensor, h: int, inplace: bool) -> Tensor:
    """`x * a_w * a_h`, from the gates' logits; h is the dim of H, which W follows."""
    if torch.is_grad_enabled():
        return _Gated.apply(x, z_w, z_h, h)
    a_w = z_w.sigmoid()
    x = x.mul_(a_w) if inplace else x * a_w
    return x.mul_(z_h.sigmoid())


class _Means(Function):
    """Means whose gradients are added to that of `x` in place.

    That is why `x` goes through it. Autograd expands each of them to the size of `x` first.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, *dims: int) -> tuple[Tensor, ...]:
        ctx.sizes = {dim: x.shape[dim] for dim in dims}
        return x.view_as(x), *(_mean(x, dim) for dim in dims)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, *of_means: Tensor) -> tuple[Tensor | None, ...]:
        for size, of_mean in zip(ctx.sizes.values(), of_means):
            of_mean = of_mean / size
            # It is a product with a gate: new, and no one else's but of a second derivative.
            grad = grad + of_mean if torch.is_grad_enabled() else grad.add_(of_mean)
        return grad, *(None for _ in of_means)


class _Gated(Function):
    """Keeps `x` and the logits for the backward pass and, unlike autograd, no product of two.

    With the sigmoid in it, both gates' gradients are sums of one product: that of `x` with its own
    gradient has the factor a_w * a_h already, and a_w * (1 - a_w) is what the sigmoid asks for.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, z_w: Tensor, z_h: Tensor, h: int) -> Tensor:
        ctx.save_for_backward(x, z_w, z_h)
        ctx.h = h  # the dim of H: 2 in NCHW, 1 in NHWC
        return _times(x * z_w.sigmoid(), z_h.sigmoid())

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, z_w, z_h = ctx.saved_tensors
        a_w, a_h = z_w.sigmoid(), z_h.sigmoid()
        of_x = _times(grad * a_w, a_h)
        product = of_x * x
        of_z_w = _sum(product, ctx.h) * (1 - a_w)
        of_z_h = _sum(product, ctx.h + 1) * (1 - a_h)
        return of_x, of_z_w, of_z_h, None


def _times(x: Tensor, gate: Tensor) -> Tensor:
    """For an `x` that nobody else holds: in place, unless autograd records it."""
    return x * gate if torch.is_grad_enabled() else x.mul_(gate)


def _mean(x: Tensor, dim: int) -> Tensor:
    return _over_rows(x, 1 / x.shape[1]) if _slow(x, dim) else x.mean(dim, keepdim=True)


def _sum(x: Tensor, dim: int) -> Tensor:
    return _over_rows(x, 1) if _slow(x, dim) else x.sum(dim, keepdim=True)


def _slow(x: Tensor, dim: int) -> bool:
    """Whether it is a sum over H of (N, H, W, C), in which PyTorch on a CPU jumps in memory."""
    return (
        dim == 1
        and x.device.type == "cpu"
        and x.element_size() >= 4  # half precision would be rounded once more
        and not torch.is_autocast_enabled("cpu")
    )


def _over_rows(x: Tensor, weight: float) -> Tensor:
    """(N, H, W, C) -> (N, 1, W, C): the sum over H, as a product in half the time."""
    n, h, w, c = x.shape
    return (x.new_full((1, h), weight) @ x.flatten(2)).view(n, 1, w, c)
