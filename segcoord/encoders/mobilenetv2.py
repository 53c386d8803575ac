"""MobileNetV2 with coordinate attention, on timm's own builder.

The block stands in timm's `se` slot: after the depthwise 3x3 with its norm and activation, before
the linear 1x1, in every inverted residual that expands. That is where figure 3(a) of the paper and
the authors' mbv2_ca.py have it. With its classifier, width 1.0 has 3,950,648 parameters and 490
state tensors in the authors' order.
"""

from __future__ import annotations

from functools import partial

from timm.models import generate_default_cfgs, register_model
from timm.models._efficientnet_builder import (
    decode_arch_def,
    resolve_act_layer,
    resolve_bn_args,
    round_channels,
)
from timm.models.efficientnet import EfficientNet, _cfg, _create_effnet
from torch import nn

from segcoord.attention import CoordAtt

# MobileNetV2, table 2: (r)epeats, (k)ernel, (s)tride, (e)xpansion, (c)hannels. The se number only
# switches the slot on; CoordAtt takes its width from `reduction`.
_ARCHITECTURE = [
    ["ds_r1_k3_s1_c16"],
    ["ir_r2_k3_s2_e6_c24_se0.03125"],
    ["ir_r3_k3_s2_e6_c32_se0.03125"],
    ["ir_r4_k3_s2_e6_c64_se0.03125"],
    ["ir_r3_k3_s1_e6_c96_se0.03125"],
    ["ir_r3_k3_s2_e6_c160_se0.03125"],
    ["ir_r1_k3_s1_e6_c320_se0.03125"],
]

default_cfgs = generate_default_cfgs(
    {f"mobilenetv2_ca_{width}.untrained": _cfg() for width in ("100", "075", "050")}
)


def _attention(channels: int, reduction: int, act_layer: object = None, **factory: object):
    """CoordAtt with the arguments that timm's builder gives its slot; it has its own activation."""
    return CoordAtt(channels, reduction).to(**{k: v for k, v in factory.items() if v is not None})


def _mobilenetv2_ca(
    variant: str, width: float, pretrained: bool, reduction: int = 32, **kwargs
) -> EfficientNet:
    round_channels_to_width = partial(round_channels, multiplier=width)
    return _create_effnet(
        variant,
        pretrained,
        block_args=decode_arch_def(_ARCHITECTURE),
        num_features=max(1280, round_channels_to_width(1280)),
        stem_size=32,
        round_chs_fn=round_channels_to_width,
        norm_layer=kwargs.pop("norm_layer", None)
        or partial(nn.BatchNorm2d, **resolve_bn_args(kwargs)),
        act_layer=resolve_act_layer(kwargs, "relu6"),
        se_layer=partial(_attention, reduction=reduction),
        **kwargs,
    )


@register_model
def mobilenetv2_ca_100(pretrained: bool = False, **kwargs) -> EfficientNet:
    """Width 1.0; `reduction` (default 32) sets the squeezed width of every block."""
    return _mobilenetv2_ca("mobilenetv2_ca_100", 1.0, pretrained, **kwargs)


@register_model
def mobilenetv2_ca_075(pretrained: bool = False, **kwargs) -> EfficientNet:
    """Width 0.75; `reduction` (default 32) sets the squeezed width of every block."""
    return _mobilenetv2_ca("mobilenetv2_ca_075", 0.75, pretrained, **kwargs)


@register_model
def mobilenetv2_ca_050(pretrained: bool = False, **kwargs) -> EfficientNet:
    """Width 0.5; `reduction` (default 32) sets the squeezed width of every block."""
    return _mobilenetv2_ca("mobilenetv2_ca_050", 0.5, pretrained, **kwargs)
