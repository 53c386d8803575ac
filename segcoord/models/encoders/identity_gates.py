"""Initializes new attention blocks so that pretrained weights keep their effect.

Random gates multiply each feature by about a quarter (coordinate attention) or a half, which
pretrained layers have never seen. Here, the last layer of each gate has weight 0 and a constant
bias, so that the gate is a constant for any image, and the 1x1 convolution that follows the
attention is divided by the constant. In between there is nothing, in MobileNetV2, MobileNeXt and
EfficientNet alike: outputs and batch norm statistics are those of the network without attention, in
training mode too.

The gates learn from the first step: the input of a last layer isn't 0, so that its weights have a
gradient. The layers before it have one from the second step.
"""

from collections.abc import Collection, Mapping

import torch
from timm.layers import SEModule
from timm.layers.cbam import CbamModule
from timm.models._efficientnet_blocks import (
    DepthwiseSeparableConv,
    InvertedResidual,
    SqueezeExcite,
)
from torch import Tensor, nn
from torch.distributions import Normal

from segcoord.models.attention import CoordAtt, CoordAttX, CoordAttY
from segcoord.models.encoders.mobilenext import Sandglass

GATE_LOGIT = 2.0
"""Logit of a new gate. Gates are 0.88; at 4, the sigmoid has a sixth of the gradient."""

_BLOCKS = {
    InvertedResidual: ("bn2", "se", "conv_pwl"),
    DepthwiseSeparableConv: ("bn1", "se", "conv_pw"),
    Sandglass: ("bn1", "att", "conv_pw1"),
}
"""Class of a block -> its norm with activation, attention and convolution, which are adjacent."""


@torch.no_grad()
def initialize_gates(
    net: nn.Module, new: Collection[str], given: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """Makes the gates of new attention blocks constant and compensates for the constant.

    If the weights have no attention in a block, it begins as the identity. If they have timm's
    squeeze-and-excitation, which other attention can't reproduce, the gates begin as an estimate
    of its mean, see `_mean_gate`. Attention in place of any other, and blocks of other classes than
    those of segcoord's encoders, are not changed.

    Args:
        net: with the weights of everything but the new attention; changed in place.
        new: names of its tensors that the weights lack.
        given: the tensors of the weights by the names in `net`.

    Returns:
        Names of the tensors of blocks that begin as the identity, and with mean gates.
    """
    identity: list[str] = []
    mean: list[str] = []
    for path, block in net.named_modules():
        if type(block) not in _BLOCKS:
            continue
        norm_name, slot, conv_name = _BLOCKS[type(block)]
        norm, attention, conv = (getattr(block, n) for n in (norm_name, slot, conv_name))
        prefix = f"{path}.{slot}."
        tensors = [prefix + n for n in attention.state_dict() if "num_batches" not in n]
        layers = _last_layers(attention) if isinstance(conv, nn.Conv2d) else []
        if not layers or not {*tensors} <= {*new} or f"{path}.{conv_name}.weight" in new:
            continue
        replaced = {n.removeprefix(prefix): t for n, t in given.items() if n.startswith(prefix)}
        if replaced and not _is_timm_se(replaced, conv.in_channels):
            continue
        gate = _mean_gate(replaced, norm) if replaced else conv.weight.new_ones(1)
        for layer, bias in layers:
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)
        conv.weight.mul_((gate / _constant_gate(attention, conv)).view(1, -1, 1, 1))
        (mean if replaced else identity).extend(tensors)
    return identity, mean


def _last_layers(attention: nn.Module) -> list[tuple[nn.Module, float]]:
    """The layer before each gate's sigmoid, and the bias with which the logit is `GATE_LOGIT`.

    Empty for a module of another class. The spatial gate of CBAM ends in batch norm, which
    undoes the scale of its convolution: the weight of the norm is the one to be 0.
    """
    if isinstance(attention, CoordAtt):
        return [(attention.conv2, GATE_LOGIT), (attention.conv3, GATE_LOGIT)]
    if isinstance(attention, CoordAttX | CoordAttY):
        return [(attention.conv2, GATE_LOGIT)]
    if isinstance(attention, SEModule):
        return [(attention.fc2, GATE_LOGIT)]
    if isinstance(attention, SqueezeExcite):
        return [(attention.conv_expand, GATE_LOGIT)]
    if isinstance(attention, CbamModule):  # its MLP is applied to two pools and added
        return [(attention.channel.fc2, GATE_LOGIT / 2), (attention.spatial.conv.bn, GATE_LOGIT)]
    return []


def _constant_gate(attention: nn.Module, conv: nn.Conv2d) -> Tensor:
    """The product of all gates, (C,), of attention whose gates don't depend on its input."""
    training = attention.training
    ones = conv.weight.new_ones(1, conv.in_channels, 1, 1)
    gate = attention.eval()(ones).flatten()
    attention.train(training)
    return gate


def _is_timm_se(tensors: Mapping[str, Tensor], channels: int) -> bool:
    """Whether tensors of a block's attention have the names and shapes of `SqueezeExcite`."""
    if "conv_reduce.bias" not in tensors:
        return False
    with torch.device("meta"):
        se = SqueezeExcite(channels, rd_channels=len(tensors["conv_reduce.bias"]))
    shapes = {name: tensor.shape for name, tensor in se.state_dict().items()}
    return shapes == {name: tensor.shape for name, tensor in tensors.items()}


def _mean_gate(se: Mapping[str, Tensor], norm: nn.Module) -> Tensor:
    """The gates, (C,), of timm's squeeze-and-excitation for the mean feature of its training data.

    Batch norm makes a feature's mean and standard deviation those of its bias and weight. The mean
    after the activation, which the gates are computed from, is that of a normal distribution.

    Args:
        se: its tensors, by the names in `SqueezeExcite`.
        norm: timm's batch norm with the activation, before it.
    """
    quantiles = Normal(0.0, 1.0).icdf((torch.arange(256) + 0.5) / 256).to(norm.bias)
    feature = norm.act(norm.bias[:, None] + norm.weight[:, None] * quantiles).mean(1)  # (C,)
    squeezed = norm.act(se["conv_reduce.weight"].flatten(1) @ feature + se["conv_reduce.bias"])
    return (se["conv_expand.weight"].flatten(1) @ squeezed + se["conv_expand.bias"]).sigmoid()
