"""The image pooling of smp's ASPP, in the memory format of what it is concatenated with."""

from __future__ import annotations

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPPooling
from torch import Tensor, nn


class ImagePooling(ASPPPooling):
    """One feature vector of the whole image, at every pixel.

    smp upsamples it, which of a single pixel gives that pixel everywhere, but in NCHW: then all
    five branches are copied when they are concatenated, and again before the next convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        last = x.is_contiguous(memory_format=torch.channels_last)
        for layer in self:
            x = layer(x)  # (N, C, H, W) -> (N, 256, 1, 1)
        memory_format = torch.channels_last if last else torch.contiguous_format
        return x.expand(n, -1, h, w).contiguous(memory_format=memory_format)


def keep_format(net: nn.Module) -> None:
    """Makes every image pooling of smp's one of ours, in place; its weights stay."""
    for module in net.modules():
        if type(module) is ASPPPooling:
            module.__class__ = ImagePooling
