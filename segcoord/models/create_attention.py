"""Creates attention blocks by name.

se is Hu et al. 2018 and cbam Woo et al. 2018, both from timm; ca is coordinate attention, ca_x and
ca_y are its ablations. All are squeezed to max(8, C // reduction) channels, as in the authors'
CoordAtt, so that `reduction` has one meaning.
"""

from collections.abc import Callable

from timm.layers import SEModule
from timm.layers.cbam import CbamModule
from torch import nn

from segcoord.models.attention import CoordAtt, CoordAttX, CoordAttY, squeezed_width

# With these, MobileNetV2-1.0 has the parameters of the paper's table 1: 3.95 M with ca, 3.89 M with
# the others. The paper gives a reduction, 24 or 32, only where it varies it.
REDUCTION = {"se": 24, "cbam": 24, "ca": 32, "ca_x": 24, "ca_y": 24}


def create_attention(
    name: str, channels: int, reduction: int | None = None, inplace: bool = False
) -> nn.Module:
    """Creates an attention block, (N, C, H, W) -> (N, C, H, W).

    Args:
        name: se, cbam, ca, ca_x or ca_y.
        channels: C.
        reduction: default `REDUCTION[name]`.
        inplace: for ca, see `CoordAtt`; ignored by the others.
    """
    reduction = REDUCTION[name] if reduction is None else reduction
    width = squeezed_width(channels, reduction)
    if name == "se":
        return SEModule(channels, rd_channels=width)
    if name == "cbam":
        return CbamModule(channels, rd_channels=width, mlp_bias=True)  # as in Woo et al.'s code
    if name == "ca":
        return CoordAtt(channels, reduction, inplace)
    return {"ca_x": CoordAttX, "ca_y": CoordAttY}[name](channels, reduction)


def timm_se_layer(name: str, reduction: int | None = None) -> Callable[..., nn.Module]:
    """`create_attention` with the signature of `se_layer` in timm's EfficientNet builder."""

    def se_layer(channels: int, act_layer: object = None, **factory: object) -> nn.Module:
        # act_layer, the activation of the block, is ignored: each attention has its paper's.
        placement = {key: value for key, value in factory.items() if value is not None}
        # The input is the output of an activation that nothing else uses.
        return create_attention(name, channels, reduction, inplace=True).to(**placement)

    return se_layer
