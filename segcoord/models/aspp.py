"""smp's ASPP with an image pooling branch that keeps the memory format."""

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPPooling
from torch import Tensor, nn

from segcoord.models.replace import replace_modules


class ImagePooling(nn.Sequential):
    """The layers of smp's `ASPPPooling`: global pooling, 1x1 convolution, norm, ReLU; broadcast.

    smp upsamples the single pixel in NCHW. All five ASPP branches are then copied for the
    concatenation, and again before the next convolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, 256, h, w), in the memory format of `x`."""
        n, _, h, w = x.shape
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        for layer in self:
            x = layer(x)  # (N, 256, 1, 1) after the first two
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        return x.expand(n, -1, h, w).contiguous(memory_format=memory_format)


def keep_memory_format(net: nn.Module) -> None:
    """Replaces each `ASPPPooling` by an `ImagePooling` with the same layers, in place."""
    pools = [module for module in net.modules() if isinstance(module, ASPPPooling)]
    replace_modules(net, {pool: ImagePooling(*pool) for pool in pools})
