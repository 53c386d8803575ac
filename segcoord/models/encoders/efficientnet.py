"""EfficientNet-B0 with coordinate attention instead of squeeze-and-excitation.

timm's efficientnet_b0 is the published network with SE.
"""

from timm.models import generate_default_cfgs, register_model
from timm.models.efficientnet import EfficientNet, _cfg, _gen_efficientnet

from segcoord.models.create_attention import timm_se_layer

default_cfgs = generate_default_cfgs({"efficientnet_b0_ca.untrained": _cfg()})


@register_model
def efficientnet_b0_ca(
    pretrained: bool = False, reduction: int | None = None, **kwargs
) -> EfficientNet:
    """EfficientNet-B0 with ca; `reduction` (default 32) sets its squeezed width."""
    return _gen_efficientnet(
        "efficientnet_b0_ca",
        channel_multiplier=1.0,
        depth_multiplier=1.0,
        pretrained=pretrained,
        se_layer=timm_se_layer("ca", reduction),
        **kwargs,
    )
