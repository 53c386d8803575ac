"""Counts parameters and multiply-adds; lists the encoders."""

import copy
from dataclasses import dataclass
from fnmatch import fnmatch

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segcoord.models.encoders.download_weights import PUBLISHED
from segcoord.models.encoders.initial_weights import name_without_attention
from segcoord.models.factory import create_model
from segcoord.utils.errors import UserError

TIMM_ENCODERS = ("mobilenetv2_100", "mobilenetv2_075", "mobilenetv2_050", "efficientnet_b0")
"""Encoders of timm, listed for comparison."""
_MODULES = {
    f"segcoord.models.encoders.{name}" for name in ("mobilenetv2", "mobilenext", "efficientnet")
}


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, trainable or not."""
    return sum(p.numel() for p in model.parameters())


def giga_macs(model: nn.Module, height: int, width: int) -> float:
    """Multiply-adds of convolutions and matrix products for one RGB image, in 1e9."""
    on_meta = copy.deepcopy(model).eval().to("meta")  # shapes only: no computation, no memory
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta(torch.zeros(1, 3, height, width, device="meta"))
    return counter.get_total_flops() / 2e9


@dataclass(frozen=True)
class EncoderCounts:
    """Size of an encoder, with its ImageNet classifier and as a segmentation model."""

    name: str  # for timm and `create_model`
    weights: str  # source of `encoder_weights: imagenet`; "" if there is none
    parameters: int  # with a classifier of 1000 classes
    mega_macs: float  # the same at 224x224, in 1e6
    segmentation_parameters: int  # of `create_model(name, 21, output_stride, decoder=...)`
    segmentation_giga_macs: float  # the same at 512x512, in 1e9


def encoder_names(pattern: str = "*") -> list[str]:
    """Names of segcoord's encoders and `TIMM_ENCODERS` that match, by family and width.

    Args:
        pattern: part of a name, or a glob such as "*_ca_*".

    Raises:
        UserError: no encoder matches.
    """
    ours = [n for n in timm.list_models() if timm.models.model_entrypoint(n).__module__ in _MODULES]
    names = sorted({*ours, *TIMM_ENCODERS}, key=_sort_key)
    matches = [n for n in names if fnmatch(n, pattern) or pattern in n]
    if not matches:
        raise UserError(f"no encoder matches {pattern!r}; there are {', '.join(names)}")
    return matches


def _sort_key(name: str) -> tuple:
    """By family, then from wide to narrow; the encoder without attention comes first."""
    plain = name_without_attention(name)
    family, _, width = plain.partition("_")
    return family, -int(width) if width.isdigit() else 0, name != plain, name


def count_encoder(name: str, output_stride: int = 16, decoder: str = "deeplabv3") -> EncoderCounts:
    """Counts one encoder; raises UserError for an unsupported decoder or output stride."""
    with torch.device("meta"):
        classifier = timm.create_model(name)
        model = create_model(name, 21, output_stride, decoder=decoder)
    plain = name_without_attention(name)
    weights = ""
    if name in PUBLISHED:
        weights = "authors"
    elif timm.models.is_model_pretrained(plain):
        weights = "timm" if plain == name else "timm + new"
    return EncoderCounts(
        name,
        weights,
        count_parameters(classifier),
        1000 * giga_macs(classifier, 224, 224),
        count_parameters(model),
        giga_macs(model, 512, 512),
    )
