"""MobileNeXt, plain and with an attention block, for timm.

Paper: Zhou, Hou, Chen, Feng, Yan, "Rethinking Bottleneck Structure for Efficient Mobile Network
Design", ECCV 2020. Where its text and the authors' code (yitu-opensource/MobileNeXt, mnext.py)
differ, this is the code: in a row of several blocks the first lacks its first depthwise, or both
without a stride, and a hidden width is never less than a sixth of the output, rounded to 16. The
tensors are in the code's order and shapes.

The attention stands after the first depthwise 3x3 with its norm and activation, in every block that
has one: figure 3(b) of the coordinate attention paper, and its authors' advice.

Shapes: N batch, C channels, H and W of the image, s the stride of the features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from timm.layers import BatchNormAct2d, ClassifierHead, make_divisible
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models.efficientnet import _cfg
from torch import Tensor, nn

from segcoord.models.create_attention import make_attention

WIDTHS = {"100": 1.0, "075": 0.75, "050": 0.5}
ATTENTIONS = ("se", "ca")


# Of both attentions, found by counting: MobileNeXt-1.0 then has 3.91 M parameters with se, 4.11 M
# with ca; the CA paper has 3.89 and 4.09. The 0.19 M between the two, in which the rest of the
# network has no part, are 0.20 there; at 32 they would be 0.15, at 16 0.29.
_REDUCTION = 24


class _Row(NamedTuple):
    """Blocks of one width; the flags say which depthwise convolutions the first of them has."""

    channels: int
    squeeze: int  # input width / hidden width
    blocks: int
    first_dw: bool
    second_dw: bool


# The paper's table 2 in stages, each of which begins with the block that halves the resolution, so
# that a stage's output is the last one of its stride.
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
    """in_chs // squeeze, or a sixth of out_chs rounded to 16 where that is more."""
    hidden = in_chs // squeeze
    return hidden if 6 * hidden >= out_chs else make_divisible(-(-out_chs // 6), 16)


class Sandglass(nn.Module):
    """Depthwise, squeeze, expand, depthwise, with the shortcut between the wide ends.

    After the squeeze and at the end it is linear, ReLU6 elsewhere.

    Args:
        in_chs, hidden_chs, out_chs: widths before, within and after.
        stride: of the second depthwise.
        dilation: of both depthwise.
        first_dw, second_dw: whether the block has them.
        attention: the name of what stands after the first depthwise; None for nothing.
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
        attends = first_dw and attention is not None
        self.att = make_attention(attention, in_chs, reduction) if attends else nn.Identity()
        self.conv_pw1 = nn.Conv2d(in_chs, hidden_chs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden_chs)
        self.conv_pw2 = nn.Conv2d(hidden_chs, out_chs, 1, bias=False)
        self.bn3 = BatchNormAct2d(out_chs, act_layer=nn.ReLU6)
        self.conv_dw2 = _depthwise(out_chs, stride, dilation) if second_dw else nn.Identity()
        self.bn4 = nn.BatchNorm2d(out_chs) if second_dw else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chs, H/s, W/s) -> (N, out_chs, H/s/stride, W/s/stride)."""
        shortcut = x
        x = self.att(self.bn1(self.conv_dw1(x)))
        x = self.bn2(self.conv_pw1(x))
        x = self.bn3(self.conv_pw2(x))
        x = self.bn4(self.conv_dw2(x))
        return x + shortcut if self.has_skip else x


class MobileNeXt(nn.Module):
    """The network, with timm's interface.

    Args:
        width: multiplies all widths but the last, 1280, which it can only widen.
        attention: se or ca (`segcoord.encoders.slot`); None for the plain network.
        reduction: of the attention; the slot's default unless given.
        num_classes: K; 0 for the pooled features.
        in_chans: channels of the image.
        output_stride: 32, 16 or 8. Where a stage loses its stride, its first block keeps the former
            dilation and the blocks after it take twice that, as everywhere in timm.
        global_pool: timm's name of the pooling before the classifier; "" for none.
        drop_rate: probability of dropping a feature before the classifier.
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
        reached, dilation = 2, 1
        for index, rows in enumerate(_STAGES):
            stride = 2 if reached < output_stride else 1
            reached *= stride
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
                {"num_chs": chs, "reduction": reached, "module": f"blocks.{index}"}
            )
        self.blocks = nn.Sequential(*stages)

        self.num_features = self.head_hidden_size = chs
        self.head = ClassifierHead(chs, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self._init_weights()

    def _init_weights(self) -> None:
        """The authors': He et al.'s normal by the fan out, which counts all groups together."""
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
        """Patterns of the parameters' groups, from the stem on."""
        blocks = r"^blocks\.(\d+)" if coarse else r"^blocks\.(\d+)\.(\d+)"
        return {"stem": r"^(?:conv_stem|bn1)\.", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the blocks are computed anew for the gradient, which takes less memory."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer, and another pooling if one is given."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, C, H/s, W/s), C at least 1280 and s the output stride."""
        x = self.bn1(self.conv_stem(x))
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x, flatten=True)
        return self.blocks(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, C, H/s, W/s) -> (N, K), or (N, C) before the classifier."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) -> (N, K)."""
        return self.forward_head(self.forward_features(x))


def _mobilenext(variant: str, pretrained: bool, **kwargs) -> nn.Module:
    # blocks is a sequence of stages, each of which is a feature of its own
    feature_cfg = {"flatten_sequential": True}
    return build_model_with_cfg(MobileNeXt, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


def _entrypoint(attention: str | None, width: str) -> Callable[..., nn.Module]:
    fixed = {"width": WIDTHS[width], "attention": attention}
    if attention is None:
        variant = f"mobilenext_{width}"

        def create(pretrained: bool = False, **kwargs) -> nn.Module:
            return _mobilenext(variant, pretrained, **fixed, **kwargs)

        create.__doc__ = f"MobileNeXt of width {WIDTHS[width]}."
    else:
        variant = f"mobilenext_{attention}_{width}"

        def create(pretrained: bool = False, reduction: int | None = None, **kwargs) -> nn.Module:
            reduction = _REDUCTION if reduction is None else reduction
            return _mobilenext(variant, pretrained, reduction=reduction, **fixed, **kwargs)

        create.__doc__ = (
            f"MobileNeXt of width {WIDTHS[width]} with {attention}; `reduction` "
            f"(default {_REDUCTION}) sets the squeezed width of every block."
        )
    create.__name__ = variant  # what timm registers it as
    return register_model(create)


for _attention in (None, *ATTENTIONS):
    for _width in WIDTHS:
        _entrypoint(_attention, _width)
