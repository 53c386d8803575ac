"""Coordinate attention: a channel gate that depends on the row and the column.

Paper: Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
section 3.2 and figure 2; the authors' code: houqb/CoordAttention, mbv2_ca.py.

The block computes little but reads and writes a whole feature, so its time depends on the number
and order of memory accesses. It therefore has three equal implementations: for NCHW tensors, for
channels_last tensors, and a plain one for compilers and exporters (torch.compile, torch.export,
ONNX, TorchScript), which fuse by themselves. benchmarks/attention.py compares them with the
authors'.

Shapes: N batch, C channels, M squeezed channels, H and W of the feature, L = H + W.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx


def squeezed_width(channels: int, reduction: int) -> int:
    """max(8, C // reduction), as in the authors' code; ValueError if an argument is below 1."""
    if channels < 1 or reduction < 1:
        raise ValueError(f"channels={channels}, reduction={reduction}: both must be at least 1")
    return max(8, channels // reduction)


class _Attention(nn.Module):
    """Squeeze layers for one or two directions, and the choice of the implementation.

    Pools are means, not adaptive pooling, whose kernel some exporters fix silently at the traced
    size.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        mid = squeezed_width(channels, reduction)
        self.conv1 = nn.Conv2d(channels, mid, 1)
        self.bn1 = nn.BatchNorm2d(mid)
        self.act = nn.Hardswish()
        self.conv2 = nn.Conv2d(mid, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) of any float dtype -> the same shape, dtype and memory format."""
        if torch.jit.is_scripting():
            return self._forward_traceable(x)
        return self._forward_eager(x)

    @torch.jit.unused
    def _forward_eager(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return self._forward_traceable(x)
        if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            return self._forward_nchw(x)
        # In memory order, (N, H, W, C): means over dim 2 or 3 of the (N, C, H, W) view, and gates
        # in the other memory format, are several times slower.
        return self._forward_nhwc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _squeeze(self, strip: Tensor) -> Tensor:
        return self.act(self.bn1(self.conv1(strip)))  # (N, C, L, 1) -> (N, M, L, 1)


class CoordAtt(_Attention):
    """`x * a_h * a_w`, with gates in (0, 1) from means over each row (a_h) and column (a_w).

    Parameters have the names (conv1, bn1, conv2, conv3) and order of the authors' code, so that
    their checkpoints load.

    Args:
        channels: C of the input.
        reduction: the squeezed width is max(8, C // reduction).
        inplace: may overwrite its input while gradients are disabled.
    """

    def __init__(self, channels: int, reduction: int = 32, inplace: bool = False) -> None:
        super().__init__(channels, reduction)
        self.inplace = inplace
        self.conv3 = nn.Conv2d(self.conv1.out_channels, channels, 1)

    def _forward_traceable(self, x: Tensor) -> Tensor:
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        z_h, z_w = self._gate_logits(rows, columns)  # (N, C, H, 1), (N, C, 1, W)
        return x * z_w.sigmoid() * z_h.sigmoid()  # (N, C, H, W)

    def _gate_logits(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Means, (N, C, H, 1) and (N, C, 1, W) -> logits of the gates, of the same shapes."""
        if self.bn1.training:  # its statistics are over rows and columns together
            strip = self._squeeze(torch.cat([rows, columns.transpose(2, 3)], 2))  # (N, M, L, 1)
            rows, columns = strip.split([rows.shape[2], columns.shape[3]], 2)
            columns = columns.transpose(2, 3)  # (N, M, 1, W)
        else:  # without the concatenation, which is slow in ONNX Runtime and OpenVINO
            rows, columns = self._squeeze(rows), self._squeeze(columns)
        return self.conv2(rows), self.conv3(columns)

    def _forward_nchw(self, x: Tensor) -> Tensor:
        x, rows, columns = _means(x, 3, 2)  # (N, C, H, W), (N, C, H, 1), (N, C, 1, W)
        z_h, z_w = self._gate_logits(rows, columns)
        return _apply_gates(x, z_w, z_h, 2, self.inplace)

    def _forward_nhwc(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        x, rows, columns = _means(x, 2, 1)  # (N, H, W, C), (N, H, 1, C), (N, 1, W, C)
        strip = torch.cat([rows.squeeze(2), columns.squeeze(1)], 1)  # (N, L, C)
        strip = _linear(self.conv1, strip)  # (N, L, M)
        strip = self.act(self.bn1(strip.transpose(1, 2).unsqueeze(3)))  # (N, M, L, 1)
        rows, columns = strip.squeeze(3).transpose(1, 2).split([h, w], 1)  # (N, H, M), (N, W, M)
        z_h = _linear(self.conv2, rows).unsqueeze(2)  # (N, H, 1, C)
        z_w = _linear(self.conv3, columns).unsqueeze(1)  # (N, 1, W, C)
        return _apply_gates(x, z_w, z_h, 1, self.inplace)


class _AxisAtt(_Attention):
    """Coordinate attention with one pool and one gate; arguments as for `CoordAtt`."""

    __constants__ = ("pooled",)  # for TorchScript
    pooled: int  # dim of (N, C, H, W)

    def __init__(self, channels: int, reduction: int = 24) -> None:
        super().__init__(channels, reduction)

    def _forward_traceable(self, x: Tensor) -> Tensor:
        return x * self._gate(x.mean(self.pooled, keepdim=True))

    def _gate(self, strip: Tensor) -> Tensor:
        return self.conv2(self._squeeze(strip)).sigmoid()  # (N, C, H, 1) or (N, C, 1, W)

    def _forward_nchw(self, x: Tensor) -> Tensor:
        x, strip = _means(x, self.pooled)
        return x * self._gate(strip)  # (N, C, H, W)

    def _forward_nhwc(self, x: Tensor) -> Tensor:
        x, strip = _means(x, self.pooled - 1)
        return x * self._gate(strip.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (N, H, W, C)


class CoordAttX(_AxisAtt):
    """`x * a_h`: the paper's "X attention", with the horizontal pool only (table 1, figure 2c)."""

    pooled = 3  # a_h is (N, C, H, 1)


class CoordAttY(_AxisAtt):
    """`x * a_w`: the paper's "Y attention", with the vertical pool only (table 1, figure 2c)."""

    pooled = 2  # a_w is (N, C, 1, W)


def _linear(conv: nn.Conv2d, strip: Tensor) -> Tensor:
    """A 1x1 convolution over the last dim: (N, L, C) -> (N, L, M)."""
    return F.linear(strip, conv.weight.flatten(1), conv.bias)


def _means(x: Tensor, *dims: int) -> tuple[Tensor, ...]:
    """A view of `x`, to be used instead of it, and its mean over each dim (keepdim)."""
    if torch.is_grad_enabled():
        return _Means.apply(x, *dims)
    return x, *(_mean(x, dim) for dim in dims)


def _apply_gates(x: Tensor, z_w: Tensor, z_h: Tensor, h_dim: int, inplace: bool) -> Tensor:
    """`x * a_w * a_h` from the logits of the gates; W is the dim after `h_dim`."""
    if torch.is_grad_enabled():
        return _ApplyGates.apply(x, z_w, z_h, h_dim)
    a_w = z_w.sigmoid()
    x = x.mul_(a_w) if inplace else x * a_w
    return x.mul_(z_h.sigmoid())


class _Means(Function):
    """Means whose gradients are added in place to that of `x`, which therefore passes through.

    Autograd would expand each of them to the size of `x` first.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, *dims: int) -> tuple[Tensor, ...]:
        ctx.sizes = {dim: x.shape[dim] for dim in dims}
        return x.view_as(x), *(_mean(x, dim) for dim in dims)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, *grad_means: Tensor) -> tuple[Tensor | None, ...]:
        for size, grad_mean in zip(ctx.sizes.values(), grad_means):
            grad_mean = grad_mean / size
            # `grad` is a new product with a gate; only a second derivative uses it again.
            grad = grad + grad_mean if torch.is_grad_enabled() else grad.add_(grad_mean)
        return grad, *(None for _ in grad_means)


class _ApplyGates(Function):
    """Saves `x` and the logits for the backward pass; autograd would save two products more.

    The sigmoid is included, so that one product yields both gates' gradients: `x` times its own
    gradient contains a_w * a_h, and the derivative of the sigmoid is a_w * (1 - a_w).
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, z_w: Tensor, z_h: Tensor, h_dim: int) -> Tensor:
        ctx.save_for_backward(x, z_w, z_h)
        ctx.h_dim = h_dim  # 2 in NCHW, 1 in NHWC
        return _mul_temporary(x * z_w.sigmoid(), z_h.sigmoid())

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, z_w, z_h = ctx.saved_tensors
        a_w, a_h = z_w.sigmoid(), z_h.sigmoid()
        grad_x = _mul_temporary(grad * a_w, a_h)
        product = grad_x * x
        grad_z_w = _sum(product, ctx.h_dim) * (1 - a_w)
        grad_z_h = _sum(product, ctx.h_dim + 1) * (1 - a_h)
        return grad_x, grad_z_w, grad_z_h, None


def _mul_temporary(x: Tensor, gate: Tensor) -> Tensor:
    """`x * gate`, in place unless autograd records it; `x` must not be used elsewhere."""
    return x * gate if torch.is_grad_enabled() else x.mul_(gate)


def _mean(x: Tensor, dim: int) -> Tensor:
    if _is_slow_reduction(x, dim):
        return _reduce_rows(x, 1 / x.shape[1])
    return x.mean(dim, keepdim=True)


def _sum(x: Tensor, dim: int) -> Tensor:
    return _reduce_rows(x, 1) if _is_slow_reduction(x, dim) else x.sum(dim, keepdim=True)


def _is_slow_reduction(x: Tensor, dim: int) -> bool:
    """Whether it reduces H of (N, H, W, C) on a CPU, where PyTorch's memory access is strided."""
    return (
        dim == 1
        and x.device.type == "cpu"
        and x.element_size() >= 4  # half precision would be rounded once more
        and not torch.is_autocast_enabled("cpu")
    )


def _reduce_rows(x: Tensor, weight: float) -> Tensor:
    """`weight` times the sum over H, (N, H, W, C) -> (N, 1, W, C), as a matmul: twice as fast."""
    n, h, w, c = x.shape
    return (x.new_full((1, h), weight) @ x.flatten(2)).view(n, 1, w, c)
