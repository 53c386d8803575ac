"""`Light`: a decoder for encoders at output stride 32, without dilation.

At output stride 16 the deepest stage of MobileNetV2 has four times the pixels of stride 32, and the
ASPP convolves them in five branches. Here the encoder keeps stride 32, and the decoder adds the
encoder's earlier features, as in SwiftNet (Orsic, Kreso, Bevandic, Segvic, CVPR 2019, section 3),
but with fewer channels and depthwise separable convolutions:

    stride 32   1x1 convolution, pooling pyramid, coordinate attention
    stride 16   upsample x2, add the encoder's feature by a 1x1 convolution, separable convolution
                with a residual connection
    stride 8    the same
    stride 4    the same, then the classifier

The pyramid pools windows of 5, 9 and 13 pixels by a chain (SPPF of YOLOv5), because adaptive pools
can't be exported for any size. Coordinate attention adds what whole rows and columns contain.

One width at all strides lets the residual path run through the whole decoder without a convolution.

Shapes: N batch, K classes, H and W of the image, C_s channels of the encoder's feature at stride s,
D decoder width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base import SegmentationModel as SmpModel
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from segcoord.models.attention import CoordAtt

DECODER_CHANNELS = 88
"""D. With it, mobilenetv2_ca_100 and 19 classes have 14.0 GMACs at 1024x2048."""


class Context(nn.Module):
    """Summary of the surroundings at stride 32, (N, C, h, w) -> (N, D, h, w)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = Conv2dReLU(channels, width, 1)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.fuse = Conv2dReLU(4 * width, width, 1)
        self.att = CoordAtt(width, reduction=8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)  # (N, D, h, w), as all others
        pool5 = self.pool(x)
        pool9 = self.pool(pool5)
        pool13 = self.pool(pool9)
        return self.att(self.fuse(torch.cat([x, pool5, pool9, pool13], 1)))


class SeparableConv(nn.Sequential):
    """Depthwise 3x3 and 1x1 convolution, each with norm and ReLU as in DeepLab's code."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            Conv2dReLU(width, width, 1),
        )


class Fusion(nn.Module):
    """One step up: (N, D, h, w) and the encoder's (N, C_s, 2h, 2w) -> (N, D, 2h, 2w)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.lateral = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        )
        self.blend = SeparableConv(width)

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = F.relu(x + self.lateral(feature))  # (N, D, 2h, 2w)
        return x + self.blend(x)


class LightDecoder(nn.Module):
    """Features of the encoder -> (N, D, H/4, W/4).

    Args:
        encoder_channels: of the encoder's features; the last four have strides 4, 8, 16 and 32.
        width: D.
    """

    def __init__(self, encoder_channels: Sequence[int], width: int) -> None:
        super().__init__()
        *skips, last = encoder_channels[-4:]
        self.context = Context(last, width)
        self.fusions = nn.ModuleList(Fusion(channels, width) for channels in reversed(skips))
        self.out_channels = width

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.context(features[-1])  # (N, D, H/32, W/32)
        for i, fusion in enumerate(self.fusions):
            x = fusion(x, features[-2 - i])  # at 16, 8 and 4
        return x


class Light(SmpModel):
    """(N, 3, H, W) -> (N, K, H, W) logits, where 32 divides H and W; built as smp's own networks.

    Args:
        encoder_name: of smp, "tu-NAME" for timm's; features at strides 4, 8, 16 and 32.
        encoder_weights: as in smp; None for random weights.
        decoder_channels: D.
        in_channels: of the image.
        classes: K.
        upsampling: 4 for logits of the image's size, 1 for (N, K, H/4, W/4).
        kwargs: further keyword arguments of the encoder.
    """

    def __init__(
        self,
        encoder_name: str,
        encoder_weights: str | None = None,
        decoder_channels: int = DECODER_CHANNELS,
        in_channels: int = 3,
        classes: int = 1,
        upsampling: int = 4,
        **kwargs: object,
    ) -> None:
        super().__init__()
        self.encoder = get_encoder(
            encoder_name, in_channels=in_channels, depth=5, weights=encoder_weights, **kwargs
        )
        self.decoder = LightDecoder(self.encoder.out_channels, decoder_channels)
        self.segmentation_head = SegmentationHead(
            self.decoder.out_channels, classes, kernel_size=1, upsampling=upsampling
        )
        self.classification_head = None  # smp's
        self.name = f"light-{encoder_name}"  # smp's
        self.initialize()
