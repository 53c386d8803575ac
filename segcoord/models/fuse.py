"""Batch norm folded into the convolutions before it, for inference.

The usual tools pair modules in the order in which they were registered, which says nothing about
what feeds what (smp's PAN has the activation between them), or trace the model, which fixes sizes
and loses its modules. Here the pairs are those that one run of the model shows.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable

import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import SyncBatchNormAct
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_leaves

# These types exactly: a subclass may do anything else with its weight.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d, SyncBatchNormAct)


@torch.inference_mode(False)
def fold_batch_norm(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """A copy in evaluation mode that computes the same with fewer layers.

    A batch norm is folded if all it is given is what one convolution makes, which nothing else
    uses; its activation, if it has one inside, takes its place, `nn.Identity` otherwise. Any other
    stays as it is, and so does one with hooks, or whose convolution is of a class of its own.

    Args:
        model: left as it is, whatever its mode.
        example: float input that reaches every layer, to see what feeds what; an image of
            (1, 3, 128, 128) unless given.

    Returns:
        A model of the same structure, device, dtypes and memory format. It isn't for training.
    """
    folded = copy.deepcopy(model).eval()
    # Watched as NCHW, because CoordAtt on channels_last computes without calling its layers.
    watched = copy.deepcopy(folded).to(memory_format=torch.contiguous_format)
    for conv_name, norm_name in _pairs(watched, example):
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        rest = nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()
        _replace(folded, norm, rest.eval())
    return folded


def _pairs(model: nn.Module, example: Tensor | None) -> list[tuple[str, str]]:
    """Names of a convolution and of a batch norm that is fed by it alone, and alone by it."""
    made: dict[Node, str] = {}  # a convolution's output, as the node that autograd has of it
    runs: Counter[str] = Counter()
    fed: dict[str, list[Node | None]] = defaultdict(list)

    def watch_convolution(name: str, conv: nn.Module) -> None:
        def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
            made[output.grad_fn] = name
            runs[name] += 1

        conv.register_forward_hook(hook)

    def watch_norm(name: str, norm: nn.Module) -> None:
        norm.register_forward_pre_hook(lambda _module, inputs: fed[name].append(inputs[0].grad_fn))

    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            continue
        if type(module) in _CONVOLUTIONS:
            watch_convolution(name, module)
        elif type(module) in _NORMS and module.running_mean is not None:
            watch_norm(name, module)
    if example is None:
        weight = next(model.parameters())
        example = weight.new_zeros(1, 3, 128, 128)
    with torch.enable_grad():
        outputs = model(example.detach().clone().requires_grad_())
    uses = _uses(output for output in tree_leaves(outputs) if isinstance(output, Tensor))
    pairs = []
    for norm, nodes in fed.items():
        makers = {made.get(node) for node in nodes}
        conv = makers.pop()
        if conv and not makers and runs[conv] == len(nodes) and all(uses[n] == 1 for n in nodes):
            pairs.append((conv, norm))
    return pairs


def _uses(outputs: Iterable[Tensor]) -> Counter[Node]:
    """How often each node's result is used, by other nodes or as an output."""
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    uses = Counter(waiting)
    seen = set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        before = [n for n, _ in node.next_functions if n is not None]
        uses.update(before)
        waiting += before
    return uses


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Under every name that it has."""
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is old:
                setattr(parent, name, new)
