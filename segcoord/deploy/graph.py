"""The graphs to export, and which of their dimensions are dynamic.

They hold the network with fused batch norms, in NCHW. When traced, `CoordAtt` pools with means and
does not concatenate, so nothing depends on the traced size: adaptive pooling to a column or a row
exports with the traced size and is silently wrong at any other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from segcoord.models.fold_batch_norm import fold_batch_norm
from segcoord.models.segmentation import SegmentationModel


@dataclass(frozen=True)
class Graph:
    """A module of one input and one output."""

    module: nn.Module  # in eval mode
    example: Tensor  # the input for tracing
    dynamic_shape: dict[int, object]  # dimension of the input -> its `Dim`; others are static
    input: str  # its name in an exported file
    output: str
    to_input: Callable[[Tensor], Tensor]  # from (N, H, W, 3) uint8 RGB


class Network(nn.Module):
    """Normalized images to logits at the network's stride.

    Args:
        net: (N, 3, H', W') -> (N, K, H'/d, W'/d).
        half: compute in float16; input and output stay float32.
    """

    def __init__(self, net: nn.Module, half: bool) -> None:
        super().__init__()
        self.net = net.half() if half else net
        self.is_half = half

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H', W') float32 -> (N, K, H'/d, W'/d) float32."""
        return self.net(image.half()).float() if self.is_half else self.net(image)


class Preprocess(nn.Module):
    """Normalizes images and pads them with the mean color, as `model` does."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.register_buffer("mean", model.mean * 255)
        self.register_buffer("std", model.std * 255)
        self.divisor = model.output_stride
        self.min_side = model.padded_size(1, 1)[0]

    def forward(self, image: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB -> (N, 3, H', W') float32."""
        x = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        right, bottom = self._padding(image.shape[2]), self._padding(image.shape[1])
        return F.pad(x, [0, right, 0, bottom])

    def _padding(self, length: int) -> int:
        padded = (length + self.divisor - 1) // self.divisor * self.divisor
        if self.min_side > self.divisor:
            padded = _symbolic_max(padded, self.min_side)
        return padded - length


class Postprocess(nn.Module):
    """Logits of stride d to class ids: bilinear upsampling (align_corners=False), argmax, crop."""

    def __init__(self, stride: float) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """(N, K, H'/d, W'/d) float32 and their images (N, H, W, 3) -> (N, H, W) uint8."""
        if self.stride > 1:
            logits = F.interpolate(
                logits, scale_factor=self.stride, mode="bilinear", align_corners=False
            )
        return logits.argmax(1).to(torch.uint8)[:, : image.shape[1], : image.shape[2]]


class ImageToMask(nn.Module):
    """Images to class ids, as `segcoord.predict` computes them, with the network of `model`."""

    def __init__(self, network: Network, model: SegmentationModel) -> None:
        super().__init__()
        self.preprocess = Preprocess(model)
        self.network = network
        side = 4 * model.padded_size(1, 1)[0]
        with torch.no_grad():
            stride = side / network(torch.zeros(1, 3, side, side)).shape[2]
        self.postprocess = Postprocess(stride)

    def forward(self, image: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB, H and W at least 1 -> (N, H, W) uint8 class indices."""
        return self.postprocess(self.network(self.preprocess(image)), image)


def _symbolic_max(a: int, b: int) -> int:
    if torch.jit.is_tracing():  # where sizes are tensors
        return a.clamp(min=b)
    return torch.sym_max(a, b)  # max() would specialize to the traced size


def network_graph(model: SegmentationModel, half: bool = False) -> Graph:
    """The graph of normalized images to logits; copies `model`."""
    folded = fold_batch_norm(model).to("cpu", memory_format=torch.contiguous_format)
    network = Network(folded.requires_grad_(False).net, half).eval()
    n, h, w = traced_size(model)
    height, width = model.padded_size(h, w)
    s = model.output_stride
    dynamic_shape = {0: Dim("batch"), 2: s * Dim("rows", min=1), 3: s * Dim("columns", min=1)}
    example = torch.zeros(n, 3, height, width)
    return Graph(network, example, dynamic_shape, "image", "logits", model.prepare)


def fixed_size_graph(model: SegmentationModel, size: tuple[int, int], half: bool = False) -> Graph:
    """`network_graph` for one image of a fixed size (H, W), which the stride divides."""
    graph = network_graph(model, half)
    return replace(graph, example=torch.zeros(1, 3, *size), dynamic_shape={})


def image_to_mask_graph(model: SegmentationModel, half: bool = False) -> Graph:
    """The graph of uint8 images to class ids; copies `model`."""
    module = ImageToMask(network_graph(model, half).module, model).to("cpu").eval()
    # AUTO: torch.export can't prove for ceil(H / s) * s what it proves for a multiple of s;
    # `verify` runs the file at other sizes.
    dynamic_shape = {0: Dim("batch"), 1: Dim.AUTO, 2: Dim.AUTO}
    example = torch.zeros(*traced_size(model), 3, dtype=torch.uint8)
    return Graph(module, example, dynamic_shape, "image", "mask", lambda images: images)


def traced_size(model: SegmentationModel) -> tuple[int, int, int]:
    """Batch size, height and width for tracing.

    No feature has a side of 1, which torch.export would take for a constant; `verify` runs other
    sizes.
    """
    min_side = model.padded_size(1, 1)[0]
    return 2, 2 * min_side + 5, 4 * min_side - 7
