"""MobileNeXt without and with attention, for timm.

Paper: Zhou, Hou, Chen, Feng, Yan, "Rethinking Bottleneck Structure for Efficient Mobile Network
Design", ECCV 2020. Where its text differs from the authors' code (yitu-opensource/MobileNeXt,
mnext.py), this follows the code: in a row of several blocks, the first block lacks the first
depthwise convolution, or both if its stride is 1; hidden widths are at least a sixth of the output
width, rounded to 16. Tensors have the order and shapes of that code.

The attention follows the first depthwise 3x3 with norm and activation, in every block that has one,
as in figure 3(b) of the coordinate attention paper and as its authors advise.

Shapes: N batch, C channels, H and W of the image, s the stride of the features.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from timm.layers import BatchNormAct2d, ClassifierHead, make_divisible
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models.efficientnet import _cfg
from torch import Tensor, nn

from segcoord.models.create_attention import create_attention

WIDTHS = {"100": 1.0, "075": 0.75, "050": 0.5}
ATTENTIONS = ("se", "ca")
# For both attentions, chosen to match the CA paper's parameters of MobileNeXt-1.0: 3.91 M with se
# and 4.11 M with ca, published 3.89 and 4.09. The difference between the two, which does not depend
# on the rest of the network, is 0.19 M, published 0.20; with 32 it would be 0.15, with 16 0.29.
_REDUCTION = 24


class _Row(NamedTuple):
    """Blocks of one width; the flags are the depthwise convolutions of the first block."""

    channels: int
    squeeze: int  # input width / hidden width
    blocks: int
    first_dw: bool
    second_dw: bool


# The paper's table 2 in stages. Each begins with the block that halves the resolution, so that its
# output is the last one of its stride.
_STAGES = (
    (_Row(96, 2, 1, True, True), _Row(144, 6, 1, True, True)),
    (_Row(192, 6, 3, False, True),),
    (_Row(288, 6, 3, False, True), _Row(384, 6, 4, False, False)),
    (_Row(576, 6, 4, False, True), _Row(960, 6, 3, False, False), _Row(1280, 6, 1, True, True)),
)
default_cfgs = generate_default_cfgs(
    {
        f"mobilenext_{name}{width}.untrained": _cfg(classifier="head.fc")
        for name in ("", *(f"{attention}_" for attention in ATTENTIONS))
        for width in WIDTHS
    }
)


def _depthwise(channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False)


def _hidden_width(in_chs: int, out_chs: int, squeeze: int) -> int:
    """in_chs // squeeze, at least a sixth of out_chs rounded to 16."""
    hidden = in_chs // squeeze
    return hidden if 6 * hidden >= out_chs else make_divisible(-(-out_chs // 6), 16)


class Sandglass(nn.Module):
    """Depthwise, squeeze, expand, depthwise; the shortcut connects the wide ends.

    It is linear after the squeeze and at the end, with ReLU6 elsewhere.

    Args:
        in_chs, hidden_chs, out_chs: input, hidden and output width.
        stride: of the second depthwise convolution.
        dilation: of both depthwise convolutions.
        first_dw, second_dw: whether the block has them.
        attention: after the first depthwise convolution, see `create_attention`; None for none.
        reduction: of the attention.
    """

    def __init__(
        self,
        in_chs: int,
        hidden_chs: int,
        out_chs: int,
        stride: int = 1,
        dilation: int = 1,
        first_dw: bool = True,
        second_dw: bool = True,
        attention: str | None = None,
        reduction: int | None = None,
    ) -> None:
        super().__init__()
        self.has_skip = stride == 1 and in_chs == out_chs
        self.conv_dw1 = _depthwise(in_chs, 1, dilation) if first_dw else nn.Identity()
        self.bn1 = BatchNormAct2d(in_chs, act_layer=nn.ReLU6) if first_dw else nn.Identity()
        has_attention = first_dw and attention is not None
        self.att = (
            create_attention(attention, in_chs, reduction) if has_attention else nn.Identity()
        )
        self.conv_pw1 = nn.Conv2d(in_chs, hidden_chs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden_chs)
        self.conv_pw2 = nn.Conv2d(hidden_chs, out_chs, 1, bias=False)
        self.bn3 = BatchNormAct2d(out_chs, act_layer=nn.ReLU6)
        self.conv_dw2 = _depthwise(out_chs, stride, dilation) if second_dw else nn.Identity()
        self.bn4 = nn.BatchNorm2d(out_chs) if second_dw else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chs, H/s, W/s) -> (N, out_chs, H/s/stride, W/s/stride)."""
        shortcut = x
        x = self.att(self.bn1(self.conv_dw1(x)))  # (N, in_chs, H/s, W/s)
        x = self.bn2(self.conv_pw1(x))  # (N, hidden_chs, H/s, W/s)
        x = self.bn3(self.conv_pw2(x))  # (N, out_chs, H/s, W/s)
        x = self.bn4(self.conv_dw2(x))  # (N, out_chs, H/s/stride, W/s/stride)
        return x + shortcut if self.has_skip else x


class MobileNeXt(nn.Module):
    """MobileNeXt with the interface of timm's models.

    Args:
        width: multiplies all widths; the last, 1280, is never reduced.
        attention: se or ca, see `create_attention`; None for none.
        reduction: of the attention; default of `create_attention`.
        num_classes: K; 0 for the pooled features.
        in_chans: channels of the image.
        output_stride: 32, 16 or 8. In a stage whose stride is replaced by dilation, the first block
            keeps the previous dilation and the other blocks double it, as in timm.
        global_pool: pooling before the classifier, as in timm; "" for none.
        drop_rate: dropout probability before the classifier.
    """

    def __init__(
        self,
        width: float = 1.0,
        attention: str | None = None,
        reduction: int | None = None,
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        global_pool: str = "avg",
        drop_rate: float = 0.2,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride: found {output_stride}, expected 8, 16 or 32")
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.grad_checkpointing = False

        chs = make_divisible(32 * width)
        self.conv_stem = nn.Conv2d(in_chans, chs, 3, 2, 1, bias=False)
        self.bn1 = BatchNormAct2d(chs, act_layer=nn.ReLU6)
        self.feature_info = [{"num_chs": chs, "reduction": 2, "module": "bn1"}]

        stages: list[nn.Module] = []
        current_stride, dilation = 2, 1
        for index, rows in enumerate(_STAGES):
            stride = 2 if current_stride < output_stride else 1
            current_stride *= stride
            blocks: list[nn.Module] = []
            for row in rows:
                out_chs = make_divisible(row.channels * width)
                if row.channels == 1280:
                    out_chs = max(1280, out_chs)
                for repeat in range(row.blocks):
                    block = Sandglass(
                        chs,
                        _hidden_width(chs, out_chs, row.squeeze),
                        out_chs,
                        1 if blocks else stride,
                        dilation,
                        row.first_dw or repeat > 0,
                        row.second_dw or repeat > 0,
                        attention,
                        reduction,
                    )
                    if not blocks and stride == 1:
                        dilation *= 2
                    blocks.append(block)
                    chs = out_chs
            stages.append(nn.Sequential(*blocks))
            self.feature_info.append(
                {"num_chs": chs, "reduction": current_stride, "module": f"blocks.{index}"}
            )
        self.blocks = nn.Sequential(*stages)

        self.num_features = self.head_hidden_size = chs
        self.head = ClassifierHead(chs, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self._init_weights()

    def _init_weights(self) -> None:
        """As the authors: Kaiming normal with fan out, counted over all groups."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
            else:
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Regular expressions of the parameter groups, from the stem on."""
        blocks = r"^blocks\.(\d+)" if coarse else r"^blocks\.(\d+)\.(\d+)"
        return {"stem": r"^(?:conv_stem|bn1)\.", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enables gradient checkpointing of the blocks."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Returns the last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last layer, and the pooling if given."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, C, H/s, W/s), C at least 1280 and s the output stride."""
        x = self.bn1(self.conv_stem(x))  # (N, C0, H/2, W/2)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x, flatten=True)
        return self.blocks(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, C, H/s, W/s) -> (N, K), or (N, C) before the classifier."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, K)."""
        x = self.forward_features(x)  # (N, C, H/s, W/s)
        return self.forward_head(x)


def _mobilenext(variant: str, pretrained: bool, **kwargs) -> nn.Module:
    # `blocks` is a sequence of stages, and each stage is a feature.
    feature_cfg = {"flatten_sequential": True}
    return build_model_with_cfg(MobileNeXt, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


def _entrypoint(attention: str | None, width: str) -> Callable[..., nn.Module]:
    config = {"width": WIDTHS[width], "attention": attention}
    if attention is None:
        variant = f"mobilenext_{width}"

        def create(pretrained: bool = False, **kwargs) -> nn.Module:
            return _mobilenext(variant, pretrained, **config, **kwargs)

        create.__doc__ = f"MobileNeXt of width {WIDTHS[width]}."
    else:
        variant = f"mobilenext_{attention}_{width}"

        def create(pretrained: bool = False, reduction: int | None = None, **kwargs) -> nn.Module:
            reduction = _REDUCTION if reduction is None else reduction
            return _mobilenext(variant, pretrained, reduction=reduction, **config, **kwargs)

        create.__doc__ = (
            f"MobileNeXt of width {WIDTHS[width]} with {attention}; `reduction` "
            f"(default {_REDUCTION}) sets its squeezed width."
        )
    create.__name__ = variant  # the name in timm's registry
    return register_model(create)


for _attention in (None, *ATTENTIONS):
    for _width in WIDTHS:
        _entrypoint(_attention, _width)
