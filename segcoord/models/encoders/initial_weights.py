"""`load_pretrained`: initializes an encoder from ImageNet weights or a file."""

import re
from pathlib import Path

import timm
from torch import nn

from segcoord.models.create_attention import REDUCTION
from segcoord.models.encoders.download_weights import PUBLISHED, download
from segcoord.models.encoders.weights import (
    LoadReport,
    load_encoder,
    load_weights_file,
    load_without_attention,
    timm_state_dict,
)
from segcoord.models.state_dict import read_state_dict
from segcoord.utils.errors import UserError


def load_pretrained(
    encoder: nn.Module, name: str, weights: str, *, offline: bool = False
) -> LoadReport:
    """Loads weights into an encoder.

    Args:
        encoder: a timm model, or smp's encoder around one; changed in place.
        name: its timm name.
        weights: path of a file, or "imagenet": the authors' file for mobilenetv2_ca_100, timm's
            weights if there are any, otherwise those of the encoder without attention.
        offline: don't use the network.

    Returns:
        A report. New attention on weights without it begins as the identity, see
        `initialize_gates`; the other `new` tensors are random.

    Raises:
        UserError: weights that don't exist, can't be downloaded, don't match the encoder or have a
            part of the attention.
    """
    if weights != "imagenet":
        if not Path(weights).is_file():
            raise UserError(
                f"encoder_weights: found {weights!r}, which is not a file; expected imagenet, null "
                "or the path of a file"
            )
        return load_weights_file(encoder, weights)
    if name in PUBLISHED:
        path = download(PUBLISHED[name], offline=offline)
        return load_encoder(encoder, read_state_dict(path), path)
    plain = name_without_attention(name)
    if not timm.models.is_model_pretrained(plain):
        raise UserError(
            f"encoder_weights: there are no ImageNet weights for {name}, with or without its "
            "attention. Train it on ImageNet (docs/weights.md), or set encoder_weights to null."
        )
    tensors = timm_state_dict(plain, offline=offline)
    load = load_encoder if plain == name else load_without_attention
    return load(encoder, tensors, f"timm's {plain}")


def name_without_attention(name: str) -> str:
    """The name of an encoder without its attention: mobilenetv2_ca_100 -> mobilenetv2_100."""
    attentions = "|".join(sorted(REDUCTION, key=len, reverse=True))
    if name.startswith(("mobilenetv2_", "mobilenext_", "efficientnet_b0_")):
        return re.sub(rf"_({attentions})(?=_|$)", "", name)
    return name
