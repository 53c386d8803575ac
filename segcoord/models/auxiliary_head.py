"""Auxiliary head: a second, shallow classifier on an earlier feature, used in training only.

It shortens the path of the gradient to the encoder and is discarded afterwards. Zhao, Shi, Qi,
Wang, Jia, "Pyramid Scene Parsing Network", CVPR 2017, arXiv 1612.01105, "Deep Supervision for
ResNet-Based FCN"; mmsegmentation's FCNHead with one convolution.
"""

from torch import nn

MAX_WIDTH = 256  # PSPNet's, for the 1024 channels of a ResNet


class AuxiliaryHead(nn.Sequential):
    """(N, C, h, w) float -> (N, K, h, w) logits: 3x3 convolution, norm, ReLU, dropout, 1x1.

    PSPNet's width is a quarter of ResNet's 1024 channels; a quarter of MobileNetV2's 96 would be
    close to the number of classes. The head therefore keeps the width of the feature, up to
    PSPNet's: wide enough to separate the classes, shallow enough to leave the work to the encoder.

    Args:
        channels: C.
        num_classes: K.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        width = min(channels, MAX_WIDTH)
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout2d(0.1),  # hszhao/semseg, model/pspnet.py
            nn.Conv2d(width, num_classes, 1),
        )
