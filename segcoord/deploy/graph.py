"""The two graphs that are exported, and what of them may vary.

Both are of the folded network in NCHW. CoordAtt has means for pools there and no concatenation
(`CoordAtt._plain`), and nothing depends on the size at which it was traced: adaptive pooling
to a column or a row would be written with the traced size and be silently wrong at any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from segcoord.models.fuse import fold_batch_norm
from segcoord.models.segmentation import SegmentationModel


@dataclass(frozen=True)
class Graph:
    """One tensor in, one tensor out.

    Args:
        module: that computes it, in eval mode.
        example: what it is traced with.
        dynamic: dimension of the input -> what it may be; any other is fixed.
        input, output: their names in a file.
        feed: (N, H, W, 3) uint8 RGB -> its input.
    """

    module: nn.Module
    example: Tensor
    dynamic: dict[int, object]
    input: str
    output: str
    feed: Callable[[Tensor], Tensor]


class Network(nn.Module):
    """Normalised images to logits at the network's stride.

    Args:
        net: (N, 3, H', W') -> (N, K, H'/d, W'/d).
        half: compute in float16; what comes in and goes out stays float32.
    """

    def __init__(self, net: nn.Module, half: bool) -> None:
        super().__init__()
        self.net = net.half() if half else net
        self.halved = half

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H', W') float32 -> (N, K, H'/d, W'/d) float32."""
        return self.net(image.half()).float() if self.halved else self.net(image)


class Prepare(nn.Module):
    """Photographs to what the network takes: normalised, padded with the mean colour.

    Args:
        model: whose normalisation and padding it has.
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.register_buffer("mean", model.mean * 255)
        self.register_buffer("std", model.std * 255)
        self.divisor = model.output_stride
        self.least = model.padded_size(1, 1)[0]

    def forward(self, image: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB -> (N, 3, H', W') float32."""
        x = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        right, below = self._padding(image.shape[2]), self._padding(image.shape[1])
        return F.pad(x, [0, right, 0, below])

    def _padding(self, length: int) -> int:
        padded = (length + self.divisor - 1) // self.divisor * self.divisor
        if self.least > self.divisor:
            padded = _larger(padded, self.least)
        return padded - length


class Finish(nn.Module):
    """Logits to class ids: upsampled (bilinear, align_corners=False), cut, and the highest taken.

    Args:
        stride: d.
    """

    def __init__(self, stride: float) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """(N, K, H'/d, W'/d) float32, and the (N, H, W, 3) they are of -> (N, H, W) uint8."""
        if self.stride > 1:
            logits = F.interpolate(
                logits, scale_factor=self.stride, mode="bilinear", align_corners=False
            )
        return logits.argmax(1).to(torch.uint8)[:, : image.shape[1], : image.shape[2]]


class ImageToMask(nn.Module):
    """Photographs to class ids as `segcoord.predict` does it, so that nothing is left to do around.

    Args:
        network: a `Network`.
        model: that it is of.
    """

    def __init__(self, network: nn.Module, model: SegmentationModel) -> None:
        super().__init__()
        self.prepare = Prepare(model)
        self.network = network
        side = 4 * model.padded_size(1, 1)[0]
        with torch.no_grad():
            stride = side / network(torch.zeros(1, 3, side, side)).shape[2]
        self.finish = Finish(stride)

    def forward(self, image: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB, any H and W from 1 up -> (N, H, W) uint8 class indices."""
        return self.finish(self.network(self.prepare(image)), image)


def _larger(a: int, b: int) -> int:
    if torch.jit.is_tracing():  # where an int of a shape is a tensor
        return a.clamp(min=b)
    return torch.sym_max(a, b)  # max would settle which of them it is


def network_graph(model: SegmentationModel, half: bool = False) -> Graph:
    """The graph that leaves the glue to its user; `model` is copied."""
    network = Network(_plain(model).net, half).eval()
    n, h, w = traced_size(model)
    height, width = model.padded_size(h, w)
    s = model.output_stride
    dynamic = {0: Dim("batch"), 2: s * Dim("rows", min=1), 3: s * Dim("columns", min=1)}
    example = torch.zeros(n, 3, height, width)
    return Graph(network, example, dynamic, "image", "logits", model.prepare)


def image_to_mask_graph(model: SegmentationModel, half: bool = False) -> Graph:
    """The graph with the glue inside; `model` is copied."""
    module = ImageToMask(network_graph(model, half).module, model).eval()
    # torch.export can't prove of ceil(H / s) * s what it can of a multiple of s, so it is not asked
    # to; `verify` tries what comes out.
    dynamic = {0: Dim("batch"), 1: Dim.AUTO, 2: Dim.AUTO}
    example = torch.zeros(*traced_size(model), 3, dtype=torch.uint8)
    return Graph(module, example, dynamic, "image", "mask", lambda images: images)


def traced_size(model: SegmentationModel) -> tuple[int, int, int]:
    """Images, height and width with which it is traced: two, so that no feature has a length of 1,
    which would be taken for a constant; `verify` runs other sizes."""
    least = model.padded_size(1, 1)[0]
    return 2, 2 * least + 5, 4 * least - 7


def _plain(model: SegmentationModel) -> SegmentationModel:
    nchw = fold_batch_norm(model).to("cpu", memory_format=torch.contiguous_format)
    return nchw.requires_grad_(False)
