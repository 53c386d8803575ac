"""Folds batch norms into the convolutions before them, for inference.

Common tools pair modules in registration order, which need not be the data flow (smp's PAN has the
activation between them), or trace the model, which fixes sizes and drops its modules. Here a run of
the model shows which convolution feeds which batch norm.
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import partial

import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import SyncBatchNormAct
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._pytree import tree_leaves

from segcoord.models.replace import replace_modules

# Exactly these types: a subclass may use its weight in another way.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d, SyncBatchNormAct)


@torch.inference_mode(False)
def fold_batch_norm(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """Returns a copy in eval mode with the same outputs and fewer layers.

    A batch norm is folded if its only input is the output of one convolution that nothing else
    uses. Its built-in activation replaces it, or `nn.Identity`. Batch norms with hooks, or after a
    convolution of another class, are kept.

    Args:
        model: not changed.
        example: float input that reaches every layer; zeros of (1, 3, 128, 128) by default.

    Returns:
        A model with the same structure, device, dtypes and memory format, not for training.
    """
    folded = copy.deepcopy(model).eval()
    # Observed as NCHW, because CoordAtt on channels_last does not call its layers.
    observed = copy.deepcopy(folded).to(memory_format=torch.contiguous_format)
    replacements = {}
    for conv_name, norm_name in _conv_norm_pairs(observed, example):
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        replacements[conv] = fuse_conv_bn_eval(conv, norm)
        rest = nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()
        replacements[norm] = rest.eval()
    replace_modules(folded, replacements)
    return folded


def _conv_norm_pairs(model: nn.Module, example: Tensor | None) -> list[tuple[str, str]]:
    """Names of (convolution, batch norm) where each is connected to the other only."""
    producers: dict[Node, str] = {}  # autograd node of an output -> name of its convolution
    runs: Counter[str] = Counter()
    inputs_of: dict[str, list[Node | None]] = defaultdict(list)  # of each batch norm

    def record_output(name: str, _module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        producers[output.grad_fn] = name
        runs[name] += 1

    def record_input(name: str, _module: nn.Module, inputs: tuple) -> None:
        inputs_of[name].append(inputs[0].grad_fn)

    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            continue
        if type(module) in _CONVOLUTIONS:
            module.register_forward_hook(partial(record_output, name))
        elif type(module) in _NORMS and module.running_mean is not None:
            module.register_forward_pre_hook(partial(record_input, name))
    if example is None:
        example = next(model.parameters()).new_zeros(1, 3, 128, 128)
    with torch.enable_grad():
        outputs = model(example.detach().clone().requires_grad_())
    uses = _count_uses(output for output in tree_leaves(outputs) if isinstance(output, Tensor))
    pairs = []
    for norm, nodes in inputs_of.items():
        convs = {producers.get(node) for node in nodes}
        conv = convs.pop()
        if conv and not convs and runs[conv] == len(nodes) and all(uses[n] == 1 for n in nodes):
            pairs.append((conv, norm))
    return pairs


def _count_uses(outputs: Iterable[Tensor]) -> Counter[Node]:
    """Counts how often each autograd node is used, by other nodes or as an output."""
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    uses = Counter(stack)
    seen = set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        inputs = [n for n, _ in node.next_functions if n is not None]
        uses.update(inputs)
        stack += inputs
    return uses
