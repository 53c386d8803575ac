"""MobileNetV2 with attention, built with timm's EfficientNet builder.

The attention is timm's `se` layer: after the depthwise 3x3 with norm and activation, before the
linear 1x1, in every inverted residual with an expansion, as in figure 3(a) of the coordinate
attention paper and the authors' mbv2_ca.py. Without attention this is timm's mobilenetv2_100.
"""

from collections.abc import Callable
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

from segcoord.models.create_attention import REDUCTION, timm_se_layer
from segcoord.models.encoders.download_weights import PUBLISHED, download
from segcoord.models.encoders.weights import load_encoder
from segcoord.models.state_dict import read_state_dict

WIDTHS = {"100": 1.0, "075": 0.75, "050": 0.5}
# MobileNetV2, table 2: (r)epeats, (k)ernel, (s)tride, (e)xpansion, (c)hannels. The value of se only
# enables the attention, whose width is set by `reduction`.
_ARCHITECTURE = [
    ["ds_r1_k3_s1_c16"],
    ["ir_r2_k3_s2_e6_c24_se0.25"],
    ["ir_r3_k3_s2_e6_c32_se0.25"],
    ["ir_r4_k3_s2_e6_c64_se0.25"],
    ["ir_r3_k3_s1_e6_c96_se0.25"],
    ["ir_r3_k3_s2_e6_c160_se0.25"],
    ["ir_r1_k3_s1_e6_c320_se0.25"],
]
default_cfgs = generate_default_cfgs(
    {f"mobilenetv2_{name}_{width}.untrained": _cfg() for name in REDUCTION for width in WIDTHS}
)


def _mobilenetv2(
    variant: str, attention: str, width: float, pretrained: bool, reduction: int | None, **kwargs
) -> EfficientNet:
    round_channels_to_width = partial(round_channels, multiplier=width)
    published = PUBLISHED.get(variant) if pretrained else None
    model = _create_effnet(
        variant,
        pretrained and published is None,  # timm raises: it has no weights
        block_args=decode_arch_def(_ARCHITECTURE),
        num_features=max(1280, round_channels_to_width(1280)),
        stem_size=32,
        round_chs_fn=round_channels_to_width,
        norm_layer=kwargs.pop("norm_layer", None)
        or partial(nn.BatchNorm2d, **resolve_bn_args(kwargs)),
        act_layer=resolve_act_layer(kwargs, "relu6"),
        se_layer=timm_se_layer(attention, reduction),
        **kwargs,
    )
    if published is not None:
        tensors = read_state_dict(download(published))
        if kwargs.get("num_classes", 1000) != 1000:  # as in timm
            tensors = {n: t for n, t in tensors.items() if not n.startswith("classifier.")}
        load_encoder(model, tensors, published.url)
    return model


def _entrypoint(attention: str, width: str) -> Callable[..., EfficientNet]:
    variant = f"mobilenetv2_{attention}_{width}"

    def create(pretrained: bool = False, reduction: int | None = None, **kwargs) -> EfficientNet:
        return _mobilenetv2(variant, attention, WIDTHS[width], pretrained, reduction, **kwargs)

    create.__name__ = variant  # the name in timm's registry
    create.__doc__ = (
        f"MobileNetV2 of width {WIDTHS[width]} with {attention}; `reduction` "
        f"(default {REDUCTION[attention]}) sets its squeezed width."
    )
    return register_model(create)


for _attention in REDUCTION:
    for _width in WIDTHS:
        _entrypoint(_attention, _width)
