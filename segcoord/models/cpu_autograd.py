"""Backward passes that PyTorch is slow at on a CPU, written so that it isn't; the same gradients.

What a training step of MobileNetV2 with a dilated stage spends there is read off a profile:
oneDNN's gradients of a dilated depthwise convolution take 20 times what those of an undilated one
take; an in-place ReLU6 keeps a copy of its input, though its output tells where it was cut; and the
gradient of an upsampling is gathered pixel by pixel, though both are products of matrices.
benchmarks/train.py measures the whole.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

CELLS = 6  # dilations up to it leave subgrids that are larger than their border


def use_fast_cpu_backward(module: nn.Module) -> None:
    """Changes the layers of a module that is to be trained on a CPU, in place.

    Its names, weights and results stay as they are; gradients are the same but for rounding.
    """
    for layer in module.modules():
        if type(layer) is nn.ReLU6:
            layer.__class__ = _ReLU6
        elif type(layer) is nn.Conv2d and _is_dilated_depthwise(layer):
            layer.__class__ = _DilatedDepthwise


def upsample(logits: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Bilinear upsampling, align_corners=False, to a padded image, of which the image is a corner.

    Args:
        logits: (N, K, h, w) float32.
        padded: (H', W'), at least `size`.
        size: (H, W) of the image.

    Returns:
        (N, K, H, W) float32.
    """
    lengths = zip(logits.shape[2:], padded, size)
    rows, columns = (_weights(*of).to(logits.dtype) for of in lengths)  # (H, h), (W, w)
    return rows @ (logits @ columns.T)


def use_matmul_upsample(logits: Tensor) -> bool:
    """Whether `upsample` is to be used: a CPU, and something to be trained."""
    return logits.device.type == "cpu" and logits.requires_grad and not _use_default_autograd()


def _use_default_autograd() -> bool:
    """Whether PyTorch's own has to be taken: nothing is to be trained, or types would be mixed."""
    return (
        not torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    )


class _ReLU6(nn.ReLU6):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if _use_default_autograd() else _Cut.apply(x, self.inplace)


class _Cut(Function):
    """ReLU6 that keeps its output, which is kept anyway as the input of what follows."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
            y = x.clamp_(0, 6)
        else:
            y = x.clamp(0, 6)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, y, 0, 6), None


def _is_dilated_depthwise(conv: nn.Conv2d) -> bool:
    d = conv.dilation[0]
    return (
        d > 1
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.dilation == conv.padding == (d, d)
        and conv.padding_mode == "zeros"
        and conv.bias is None
    )


class _DilatedDepthwise(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if _use_default_autograd():
            return super().forward(x)
        return _Depthwise.apply(x, self.weight, self.dilation[0])


class _Depthwise(Function):
    """A depthwise 3x3 convolution of dilation d, its input padded by d zeros on each side."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, d: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.d = d
        return F.conv2d(x, weight, None, 1, d, d, len(weight))  # (N, C, H, W) -> (N, C, H, W)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, weight), d = ctx.saved_tensors, ctx.d
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:  # a convolution too, and that way round oneDNN is quick
            of_x = F.conv2d(grad, weight.flip(2, 3), None, 1, d, d, len(weight))
        if ctx.needs_input_grad[1]:
            by = _weights_by_cells if d <= CELLS else _weights_by_taps
            of_weight = by(grad, x, weight, d)
        return of_x, of_weight, None


def _weights_by_cells(grad: Tensor, x: Tensor, weight: Tensor, d: int) -> Tensor:
    """Each d-th pixel, d * d times: images of their own, on which nothing is dilated."""
    grad, x = _cells(grad, d), _cells(x, d)
    ones, zeros, mask = [1, 1], [0, 0], [False, True, False]
    _, of_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, ones, ones, ones, False, zeros, len(weight), mask
    )
    return of_weight


def _cells(x: Tensor, d: int) -> Tensor:
    """(N, C, H, W) -> (d * d * N, C, ceil(H / d), ceil(W / d)), channels_last."""
    x = F.pad(x, (0, -x.shape[3] % d, 0, -x.shape[2] % d))
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h // d, d, w // d, d, c).permute(2, 4, 0, 1, 3, 5)
    return x.reshape(d * d * n, h // d, w // d, c).permute(0, 3, 1, 2)


def _weights_by_taps(grad: Tensor, x: Tensor, weight: Tensor, d: int) -> Tensor:
    """Each of the nine weights from what it multiplies; of wide ones, few pixels."""
    grad, x = grad.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)  # (N, H, W, C)
    of_weight = torch.zeros_like(weight)  # (C, 1, 3, 3)
    h, w = grad.shape[1:3]
    for row in range(3):
        for column in range(3):
            to_y, from_y = _overlap(h, (row - 1) * d)
            to_x, from_x = _overlap(w, (column - 1) * d)
            product = grad[:, to_y, to_x] * x[:, from_y, from_x]
            of_weight[:, 0, row, column] = product.sum((0, 1, 2))
    return of_weight


def _overlap(length: int, shift: int) -> tuple[slice, slice]:
    """Where i and i + shift both lie in the image: slices of i and of i + shift."""
    start, stop = max(0, -shift), max(0, min(length, length - shift))
    stop = max(start, stop)
    return slice(start, stop), slice(start + shift, stop + shift)


@lru_cache(64)
def _weights(length: int, padded: int, size: int) -> Tensor:
    """(size, length) float64: each pixel as a mean of two coarse ones."""
    eye = torch.eye(length, dtype=torch.float64).unsqueeze(0)
    up = F.interpolate(eye, size=padded, mode="linear", align_corners=False)
    return up[0, :, :size].T.contiguous()
