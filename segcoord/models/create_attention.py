"""What may stand in the attention slot of a block, by name, and how wide it is squeezed.

se is Hu et al. 2018 and cbam Woo et al. 2018, both timm's; ca is coordinate attention, and ca_x and
ca_y are its ablation. The squeezed width is max(8, C // reduction) for each of them, as in the
authors' CoordAtt, so that `reduction` means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

from timm.layers import SEModule
from timm.layers.cbam import CbamModule
from torch import nn

from segcoord.models.attention import CoordAtt, CoordAttX, CoordAttY, squeezed_width

# With these MobileNetV2-1.0 has the parameters that the paper's table 1 gives, 3.89 M for all but
# ca, 3.95 M for ca; the paper states 24 and 32 only where it varies them.
REDUCTION = {"se": 24, "cbam": 24, "ca": 32, "ca_x": 24, "ca_y": 24}


def make_attention(
    name: str, channels: int, reduction: int | None = None, inplace: bool = False
) -> nn.Module:
    """An attention block, (N, C, H, W) -> (N, C, H, W).

    Args:
        name: se, cbam, ca, ca_x or ca_y.
        channels: C.
        reduction: its own default (REDUCTION) unless given.
        inplace: of a ca, see `CoordAtt`; the others never work in place.
    """
    reduction = REDUCTION[name] if reduction is None else reduction
    width = squeezed_width(channels, reduction)
    if name == "se":
        return SEModule(channels, rd_channels=width)
    if name == "cbam":
        return CbamModule(channels, rd_channels=width, mlp_bias=True)  # as Woo et al.'s code
    if name == "ca":
        return CoordAtt(channels, reduction, inplace)
    return {"ca_x": CoordAttX, "ca_y": CoordAttY}[name](channels, reduction)


def timm_slot(name: str, reduction: int | None = None) -> Callable[..., nn.Module]:
    """`make_attention` as timm's EfficientNet builder wants its `se_layer`."""

    def layer(channels: int, act_layer: object = None, **factory: object) -> nn.Module:
        # act_layer is the block's own activation; each attention has the one of its paper.
        given = {key: value for key, value in factory.items() if value is not None}
        # What it is given is an activation that nothing else uses.
        return make_attention(name, channels, reduction, inplace=True).to(**given)

    return layer
