"""Parameters and multiply-adds, and the list of encoders with theirs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fnmatch import fnmatch

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segcoord.models.encoders.pretrained import plain_name
from segcoord.models.encoders.published import PUBLISHED
from segcoord.models.factory import create_model
from segcoord.utils.errors import UserError

PLAIN = ("mobilenetv2_100", "mobilenetv2_075", "mobilenetv2_050", "efficientnet_b0")
"""timm's own encoders that ours are compared with."""


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def giga_macs(model: nn.Module, height: int, width: int) -> float:
    """Multiply-adds of convolutions and matrix products for one image, in 1e9."""
    shapes = copy.deepcopy(model).eval().to("meta")  # nothing is computed, and no memory taken
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(torch.zeros(1, 3, height, width, device="meta"))
    return counter.get_total_flops() / 2e9


@dataclass(frozen=True)
class EncoderCounts:
    """An encoder's size, with its ImageNet classifier and as a segmentation model.

    Args:
        name: for timm and `create_model`.
        weights: where encoder_weights: imagenet takes them from; "" where there are none.
        parameters: with a classifier of 1000 classes.
        mega_macs: of that at 224x224, in 1e6.
        segmentation_parameters: of `create_model(name, 21, output_stride)`.
        segmentation_giga_macs: of that at 512x512, in 1e9.
    """

    name: str
    weights: str
    parameters: int
    mega_macs: float
    segmentation_parameters: int
    segmentation_giga_macs: float


def encoder_names(pattern: str = "*") -> list[str]:
    """Our encoders and the plain ones of timm, those that match a pattern like "*_ca_*".

    Raises:
        UserError: none matches.
    """
    ours = [n for n in timm.list_models() if timm.models.model_entrypoint(n).__module__ in _MODULES]
    names = sorted({*ours, *PLAIN}, key=_order)
    found = [n for n in names if fnmatch(n, pattern) or pattern in n]
    if not found:
        raise UserError(f"no encoder matches {pattern!r}; there are {', '.join(names)}")
    return found


_MODULES = {
    f"segcoord.models.encoders.{name}" for name in ("mobilenetv2", "mobilenext", "efficientnet")
}


def _order(name: str) -> tuple:
    """Family by family, the wider first, the plain one before those with attention."""
    plain = plain_name(name)
    family, _, width = plain.partition("_")
    return family, -int(width) if width.isdigit() else 0, name != plain, name


def count_encoder(name: str, output_stride: int = 16) -> EncoderCounts:
    """Counts of one encoder."""
    classifier = timm.create_model(name)
    model = create_model(name, 21, output_stride)
    plain = plain_name(name)
    weights = ""
    if name in PUBLISHED:
        weights = "authors"
    elif timm.models.is_model_pretrained(plain):
        weights = "timm" if plain == name else "timm + random"
    return EncoderCounts(
        name,
        weights,
        count_parameters(classifier),
        1000 * giga_macs(classifier, 224, 224),
        count_parameters(model),
        giga_macs(model, 512, 512),
    )
