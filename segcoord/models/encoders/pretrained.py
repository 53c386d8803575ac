"""The weights that an encoder starts from, by one word or a file."""

from __future__ import annotations

import re
from pathlib import Path

import timm
from torch import nn

from segcoord.models.create_attention import REDUCTION
from segcoord.models.encoders.published import PUBLISHED, fetch
from segcoord.models.encoders.weights import (
    LoadReport,
    load_encoder,
    load_file,
    load_plain,
    plain_tensors,
)
from segcoord.models.state_dict import read_tensors
from segcoord.utils.errors import UserError


def load_pretrained(
    encoder: nn.Module, name: str, weights: str, *, offline: bool = False
) -> LoadReport:
    """Loads weights into an encoder.

    Args:
        encoder: a timm model, or smp's encoder around one.
        name: its timm name.
        weights: "imagenet", or the path of a file. "imagenet" is the authors' file for
            mobilenetv2_ca_100, timm's weights where timm has some, and for an attention without
            weights of its own those of the plain encoder.
        offline: never touch the network.

    Returns:
        What was loaded; its `new` are the tensors that stay at random.

    Raises:
        UserError: no such weights, not to be had, or not this encoder's.
    """
    if weights != "imagenet":
        if not Path(weights).is_file():
            raise UserError(
                f"encoder_weights: found {weights!r}, which is no file here; expected imagenet, "
                "null, or the path of a file"
            )
        return load_file(encoder, weights)
    if name in PUBLISHED:
        path = fetch(PUBLISHED[name], offline=offline)
        return load_encoder(encoder, read_tensors(path), path)
    plain = plain_name(name)
    if not timm.models.is_model_pretrained(plain):
        raise UserError(
            f"encoder_weights: there are no ImageNet weights for {name}, nor for it without "
            "attention. Train it on ImageNet (docs/weights.md), or set encoder_weights to null."
        )
    tensors = plain_tensors(plain, offline=offline)
    if plain == name:
        return load_encoder(encoder, tensors, f"timm's {plain}")
    return load_plain(encoder, tensors, f"timm's {plain}")


def plain_name(name: str) -> str:
    """An encoder's name without its attention: mobilenetv2_ca_100 -> mobilenetv2_100."""
    attentions = "|".join(sorted(REDUCTION, key=len, reverse=True))
    if name.startswith(("mobilenetv2_", "mobilenext_", "efficientnet_b0_")):
        return re.sub(rf"_({attentions})(?=_|$)", "", name)
    return name
