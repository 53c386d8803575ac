"""Whether an exported file computes what the model does, in its own runtime, at other sizes.

The reference is the model as it was trained, with its batch norms, in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from segcoord.deploy.graph import Graph
from segcoord.inference.fast_argmax import predict_classes
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console
from segcoord.utils.errors import UserError

SIZES = ((1, 1, 1), (1, 97, 131), (2, 75, 226), (2, 160, 64), (1, 257, 193))
"""Images, height and width: none of them that of `graph.TRACED`, most of them odd."""


@dataclass(frozen=True)
class Limits:
    """What a file may differ by.

    Args:
        error: of a logit, as a fraction of the largest one; None for no limit.
        equal: fraction of pixels that must get the same class.
    """

    error: float | None
    equal: float


# Float32 differs by the order of sums; float16 has 11 bits, and int8 may err where it must: what it
# costs is told as mIoU, and only a file that is wrong altogether is refused.
LIMITS = {"fp32": Limits(1e-4, 0.999), "fp16": Limits(2e-2, 0.98), "int8": Limits(None, 0.8)}


@dataclass(frozen=True)
class Check:
    """How a file compares at one size.

    Args:
        file: its name.
        images, height, width: what it was given.
        error: the largest difference of a logit, as a fraction of the largest logit; None for a
            file whose output is classes.
        equal: fraction of pixels with the same class.
    """

    file: str
    images: int
    height: int
    width: int
    error: float | None
    equal: float

    def to_dict(self) -> dict:
        return asdict(self)


def synthetic(count: int = 4, size: tuple[int, int] = (260, 260)) -> list[np.ndarray]:
    """Smooth random colours, (H, W, 3) uint8 RGB, with some noise; always the same ones."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        coarse = random.uniform(0, 255, (9, 9, 3)).astype(np.float32)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        image += random.normal(0, 12, image.shape)
        images.append(image.clip(0, 255).astype(np.uint8))
    return images


@torch.inference_mode()
def verify(
    file: nn.Module,
    name: str,
    graph: Graph,
    model: SegmentationModel,
    images: Sequence[np.ndarray],
    least: int = 1,
) -> list[Check]:
    """Runs a file at several sizes and compares it with the model.

    Args:
        file: as its runtime reads it.
        name: of it.
        graph: that was written to it.
        model: the reference, in eval mode, on the CPU.
        images: (H, W, 3) uint8 RGB, which are scaled to those sizes.
        least: the smallest height and width that the file takes.

    Raises:
        UserError: the runtime fails at one of the sizes, or what comes out has another shape.
    """
    checks = []
    for index, (n, *size) in enumerate(SIZES):
        h, w = (max(length, least) for length in size)
        given = [images[(index + i) % len(images)] for i in range(n)]
        scaled = [cv2.resize(i, (w, h), interpolation=cv2.INTER_AREA) for i in given]
        batch = torch.from_numpy(np.stack(scaled))  # (N, H, W, 3)
        padded = model.padded_size(h, w)
        logits = model.net(model.prepare(batch))
        masks = predict_classes(logits, padded, (h, w))
        makes_masks = graph.output == "mask"
        try:
            found = file(graph.feed(batch))
        except Exception as error:  # each runtime has its own types
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{name}: fails on {n} images of {h}x{w}: {reason}") from error
        expected = masks if makes_masks else logits
        if found.shape != expected.shape or found.dtype != expected.dtype:
            raise UserError(
                f"{name}: gives {tuple(found.shape)} {found.dtype} for {n} images of {h}x{w}, "
                f"expected {tuple(expected.shape)} {expected.dtype}"
            )
        error = None
        if not makes_masks:
            error = ((found - logits).abs().max() / logits.abs().max()).item()
            found = predict_classes(found, padded, (h, w))
        checks.append(Check(name, n, h, w, error, _equal(found, masks)))
    return checks


def _equal(a: Tensor, b: Tensor) -> float:
    return (a == b).float().mean().item()


def assert_within_tolerance(checks: Sequence[Check], precision: str) -> None:
    """Prints the checks as a table.

    Raises:
        UserError: one of them exceeds what the precision may differ by.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("verified", no_wrap=True)
    for head in ("images", "size", "largest logit error", "equal pixels"):
        table.add_column(head, justify="right", no_wrap=True)
    for c in checks:
        error = "" if c.error is None else f"{c.error:.1e} of the largest"
        size = f"{c.height}x{c.width}"
        table.add_row(c.file, str(c.images), size, error, f"{100 * c.equal:.3f} %")
    console.print(table)
    limits = LIMITS[precision]
    for c in checks:
        far = c.error is not None and limits.error is not None and not c.error <= limits.error
        if far or c.equal < limits.equal:
            least = f"at least {100 * limits.equal:g} % equal pixels"
            if limits.error is not None:
                least += f" and logits within {limits.error:g} of the largest"
            raise UserError(
                f"{c.file}: disagrees with the checkpoint on {c.images} images of "
                f"{c.height}x{c.width}; expected {least} at {precision}. Nothing was written."
            )
