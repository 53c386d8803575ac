"""Verifies an exported file in its own runtime, at sizes other than the traced one.

The reference is the trained model in PyTorch, batch norms not fused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from rich.table import Table
from torch import nn

from segcoord.deploy.graph import Graph
from segcoord.inference.fast_argmax import predict_classes
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console
from segcoord.utils.errors import UserError

SIZES = ((1, 1, 1), (1, 97, 131), (2, 75, 226), (2, 160, 64), (1, 257, 193))
"""Batch size, height and width: none is that of `graph.traced_size`, most are odd."""


@dataclass(frozen=True)
class Tolerance:
    """How much a file may differ from the checkpoint."""

    error: float | None  # largest error of a logit, relative to the largest logit; None: no limit
    equal: float  # smallest fraction of pixels with the same class


# fp32 differs by the order of sums; fp16 has 11 bits of significand. int8 is judged by its mIoU;
# its limit only refuses a broken file.
TOLERANCES = {
    "fp32": Tolerance(1e-4, 0.999),
    "fp16": Tolerance(2e-2, 0.98),
    "int8": Tolerance(None, 0.8),
}


@dataclass(frozen=True)
class Check:
    """Agreement of a file with the checkpoint at one size; `error` and `equal` as in Tolerance."""

    file: str
    images: int
    height: int
    width: int
    error: float | None  # None for a file that returns classes
    equal: float


def synthetic(count: int = 4, size: tuple[int, int] = (260, 260)) -> list[np.ndarray]:
    """Smooth random colors with noise, (H, W, 3) uint8 RGB; the same on every call."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = rng.uniform(0, 255, (9, 9, 3)).astype(np.float32)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        image += rng.normal(0, 12, image.shape)
        images.append(image.clip(0, 255).astype(np.uint8))
    return images


@torch.inference_mode()
def verify(
    net: nn.Module,
    name: str,
    graph: Graph,
    model: SegmentationModel,
    images: Sequence[np.ndarray],
    min_side: int = 1,
    sizes: Sequence[tuple[int, int, int]] = SIZES,
) -> list[Check]:
    """Runs a file at several sizes and compares it with the model.

    Args:
        net: the file in its runtime.
        name: of the file, for messages.
        graph: the graph in the file.
        model: the reference, in eval mode, on the CPU.
        images: (H, W, 3) uint8 RGB, resized to each size.
        min_side: smallest height and width of the file's input.
        sizes: batch size, height and width of each check.

    Raises:
        UserError: the runtime fails at a size, or the output has another shape or dtype.
    """
    checks = []
    for index, (n, *size) in enumerate(sizes):
        h, w = (max(length, min_side) for length in size)
        chosen = [images[(index + i) % len(images)] for i in range(n)]
        resized = [cv2.resize(i, (w, h), interpolation=cv2.INTER_AREA) for i in chosen]
        batch = torch.from_numpy(np.stack(resized))  # (N, H, W, 3)
        padded = model.padded_size(h, w)
        logits = model.net(model.prepare(batch))
        masks = predict_classes(logits, padded, (h, w))
        try:
            output = net(graph.to_input(batch))
        except Exception as error:  # each runtime raises its own types
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{name}: fails on {n} images of {h}x{w}: {reason}") from error
        returns_masks = graph.output == "mask"
        expected = masks if returns_masks else logits
        if output.shape != expected.shape or output.dtype != expected.dtype:
            raise UserError(
                f"{name}: returns {tuple(output.shape)} {output.dtype} for {n} images of {h}x{w}, "
                f"expected {tuple(expected.shape)} {expected.dtype}"
            )
        error = None
        if not returns_masks:
            error = ((output - logits).abs().max() / logits.abs().max()).item()
            output = predict_classes(output, padded, (h, w))
        equal = (output == masks).float().mean().item()
        checks.append(Check(name, n, h, w, error, equal))
    return checks


def assert_within_tolerance(checks: Sequence[Check], precision: str) -> None:
    """Prints the checks as a table; raises UserError if one exceeds its precision's tolerance."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("verified", no_wrap=True)
    for head in ("images", "size", "largest logit error", "equal pixels"):
        table.add_column(head, justify="right", no_wrap=True)
    for c in checks:
        error = "" if c.error is None else f"{c.error:.1e} of the largest"
        size = f"{c.height}x{c.width}"
        table.add_row(c.file, str(c.images), size, error, f"{100 * c.equal:.3f} %")
    console.print(table)
    limit = TOLERANCES[precision]
    for c in checks:
        # `not <=` also catches NaN
        far = c.error is not None and limit.error is not None and not c.error <= limit.error
        if far or c.equal < limit.equal:
            expected = f"at least {100 * limit.equal:g} % equal pixels"
            if limit.error is not None:
                expected += f" and logits within {limit.error:g} of the largest"
            raise UserError(
                f"{c.file}: disagrees with the checkpoint on {c.images} images of "
                f"{c.height}x{c.width}; expected {expected} at {precision}. Nothing was written."
            )
