"""Cheaper backward passes for training on a CPU, with the same gradients up to rounding.

In the profile of a training step of MobileNetV2 with a dilated stage, oneDNN's gradients of a
dilated depthwise convolution take 20 times as long as those of an undilated one; the gradient of
bilinear upsampling is gathered pixel by pixel, although it is a product of matrices; an in-place
ReLU6 saves a copy of its input. Replacing the first two saves 6 % each of a step at stride 16, the
last 10 % of the peak memory. benchmarks/train.py measures the whole step.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from segcoord.models.replace import replace_modules

MAX_SUBGRID_DILATION = 6  # above, the subgrids of usual features are smaller than their padding


def use_fast_cpu_backward(model: nn.Module) -> None:
    """Replaces the submodules that have a cheaper form for training on a CPU, in place.

    Parameters, their names and order, outputs and, up to rounding, gradients stay the same. Modules
    with hooks are kept.
    """
    replacements = {}
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            continue
        if type(module) is nn.ReLU6:
            replacements[module] = LeanReLU6(module.inplace)
        elif _is_dilated_depthwise(module):
            replacements[module] = DilatedDepthwiseConv2d(module)
    replace_modules(model, replacements)


def use_matmul_upsample(logits: Tensor) -> bool:
    """Whether `matmul_upsample` is faster: on a CPU, when a gradient is needed."""
    return logits.device.type == "cpu" and logits.requires_grad and not _use_default_autograd()


def matmul_upsample(logits: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Bilinear upsampling to a padded image, align_corners=False, and crop to the image.

    Args:
        logits: (N, K, h, w) float32.
        padded: (H', W'), at least `size`.
        size: (H, W) of the image.

    Returns:
        (N, K, H, W) float32.
    """
    lengths = zip(logits.shape[2:], padded, size)
    rows, columns = (_interpolation_matrix(*of).to(logits.dtype) for of in lengths)
    return rows @ (logits @ columns.T)  # (H, h) @ ((N, K, h, w) @ (w, W)) -> (N, K, H, W)


@lru_cache(64)
def _interpolation_matrix(length: int, padded: int, size: int) -> Tensor:
    """(size, length) float64: the weights of the coarse pixels in each fine pixel."""
    eye = torch.eye(length, dtype=torch.float64).unsqueeze(0)  # (1, length, length)
    up = F.interpolate(eye, size=padded, mode="linear", align_corners=False)
    return up[0, :, :size].T.contiguous()


def _use_default_autograd() -> bool:
    """Whether gradients are off, dtypes may be mixed, or the model is traced or compiled."""
    return (
        not torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    )


class LeanReLU6(nn.ReLU6):
    """ReLU6 that saves its output, which the next layer saves anyway, instead of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return super().forward(x) if _use_default_autograd() else _ReLU6.apply(x, self.inplace)


class _ReLU6(Function):
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


def _is_dilated_depthwise(module: nn.Module) -> bool:
    if type(module) is not nn.Conv2d:  # a subclass may compute something else
        return False
    d = module.dilation[0]
    return (
        d > 1
        and module.groups == module.in_channels == module.out_channels
        and module.kernel_size == (3, 3)
        and module.stride == (1, 1)
        and module.dilation == module.padding == (d, d)
        and module.padding_mode == "zeros"
        and module.bias is None
    )


class DilatedDepthwiseConv2d(nn.Conv2d):
    """`conv`, a dilated depthwise 3x3 convolution, with a fast backward pass; shares its weight."""

    def __init__(self, conv: nn.Conv2d) -> None:
        c, d = conv.in_channels, conv.dilation[0]
        super().__init__(c, c, 3, 1, d, d, groups=c, bias=False, device="meta")
        self.weight = conv.weight  # (C, 1, 3, 3)
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if _use_default_autograd():
            return super().forward(x)
        return _DilatedDepthwise.apply(x, self.weight, self.dilation[0])


class _DilatedDepthwise(Function):
    """Depthwise 3x3 convolution with dilation d and d zeros of padding on each side."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, d: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.d = d
        return F.conv2d(x, weight, None, 1, d, d, len(weight))  # (N, C, H, W)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (x, weight), d = ctx.saved_tensors, ctx.d
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:  # also a convolution, whose forward pass is fast in oneDNN
            grad_x = F.conv2d(grad, weight.flip(2, 3), None, 1, d, d, len(weight))
        if ctx.needs_input_grad[1]:
            by_subgrid = d <= MAX_SUBGRID_DILATION
            compute = _grad_weight_by_subgrid if by_subgrid else _grad_weight_by_tap
            grad_weight = compute(grad, x, weight, d)
        return grad_x, grad_weight, None


def _grad_weight_by_subgrid(grad: Tensor, x: Tensor, weight: Tensor, d: int) -> Tensor:
    """Gradient of an undilated convolution of the d * d subgrids of every d-th pixel."""
    grad, x = _subgrids(grad, d), _subgrids(x, d)
    ones, zeros, mask = [1, 1], [0, 0], [False, True, False]
    _, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, ones, ones, ones, False, zeros, len(weight), mask
    )
    return grad_weight


def _subgrids(x: Tensor, d: int) -> Tensor:
    """(N, C, H, W) -> (d * d * N, C, ceil(H / d), ceil(W / d)), channels_last."""
    x = F.pad(x, (0, -x.shape[3] % d, 0, -x.shape[2] % d))
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h // d, d, w // d, d, c).permute(2, 4, 0, 1, 3, 5)
    return x.reshape(d * d * n, h // d, w // d, c).permute(0, 3, 1, 2)


def _grad_weight_by_tap(grad: Tensor, x: Tensor, weight: Tensor, d: int) -> Tensor:
    """Each of the nine gradients as a sum of products; at a large dilation few pixels overlap."""
    grad, x = grad.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)  # (N, H, W, C)
    grad_weight = torch.zeros_like(weight)  # (C, 1, 3, 3)
    h, w = grad.shape[1:3]
    for row in range(3):
        for column in range(3):
            to_y, from_y = _overlap(h, (row - 1) * d)
            to_x, from_x = _overlap(w, (column - 1) * d)
            product = grad[:, to_y, to_x] * x[:, from_y, from_x]
            grad_weight[:, 0, row, column] = product.sum((0, 1, 2))
    return grad_weight


def _overlap(length: int, shift: int) -> tuple[slice, slice]:
    """Slices of i and of i + shift for which both are inside [0, length)."""
    start, stop = max(0, -shift), max(0, min(length, length - shift))
    stop = max(start, stop)
    return slice(start, stop), slice(start + shift, stop + shift)
