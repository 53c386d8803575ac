"""TODO."""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import SEModule
from timm.layers.cbam import CbamModule
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn

from segcoord.inference.predict import predict
from segcoord.models.attention import CoordAtt, CoordAttX, CoordAttY
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError

KINDS = {
    CoordAtt: ("coordinate attention", {"a_h": "conv2", "a_w": "conv3"}),
    CoordAttX: ("X attention", {"a_h": "conv2"}),
    CoordAttY: ("Y attention", {"a_w": "conv2"}),
    SEModule: ("SE", {"channel": "gate"}),
    SqueezeExcite: ("SE", {"channel": "gate"}),
    CbamModule: ("CBAM", {"channel": "channel.gate", "spatial": "spatial.gate"}),
}
"""Attention that `gates` knows: what the picture calls it, and which of its parts makes a gate."""

_POOLED = {"a_h": 3, "a_w": 2}  # the axis whose mean a gate is made from
_SLOTS = ("se", "att")  # a block's attention: timm's name for it, and our MobileNeXt's


def blocks(model: SegmentationModel) -> dict[str, nn.Module]:
    """The encoder's blocks under timm's names, `blocks.5.2` or `layer4.1` say, first to last.

    A block is the outermost module that has a number, has parts, and isn't itself a mere list.
    """
    found: dict[str, nn.Module] = {}
    for path, module in model.net.encoder.model.named_modules():
        numbered = path.rpartition(".")[2].isdigit()
        a_list = isinstance(module, (nn.Sequential, nn.ModuleList))
        inside = any(path.startswith(f"{block}.") for block in found)
        if numbered and not a_list and not inside and any(module.children()):
            found[path] = module
    return found


def attention_of_block(block: nn.Module) -> nn.Module | None:
    """What stands in a block's attention slot, None if it has no slot or an empty one."""
    filled = (getattr(block, slot, None) for slot in _SLOTS)
    return next((m for m in filled if m is not None and not isinstance(m, nn.Identity)), None)


@torch.no_grad()
def gates(attention: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The factors that an attention module multiplies `x` by, in evaluation.

    Args:
        attention: one of KINDS; left as it is.
        x: (N, C, h, w) float, its input.

    Returns:
        Gates whose product with `x` is the module's output, by name: a_h (N, C, h, 1) and a_w
        (N, C, 1, w) of coordinate attention, channel (N, C, 1, 1) of SE and CBAM, spatial
        (N, 1, h, w) of CBAM. Empty for a module of another kind.
    """
    attention = copy.deepcopy(attention).eval()
    found: dict[str, Tensor] = {}
    _, parts = KINDS.get(type(attention), ("", {}))
    for key, path in parts.items():
        part = attention.get_submodule(path)
        if key in _POOLED:
            # Each gate for itself: a 1x1 convolution, and batch norm in evaluation, treat every
            # place of the module's concatenated strip alone. Its channels_last form calls no parts.
            strip = attention.conv1(x.mean(_POOLED[key], keepdim=True))
            found[key] = part(attention.act(attention.bn1(strip))).sigmoid()
        else:
            part.register_forward_hook(lambda _module, _x, y, key=key: found.update({key: y}))
    if parts.keys() - found.keys():
        attention(x)
    return found


def grad_cam(
    model: SegmentationModel, image: np.ndarray, index: int, block: str, pixels: np.ndarray
) -> np.ndarray:
    """Grad-CAM at a block's output for the sum of a class's logits over some pixels.

    Args:
        model: left as it is, whatever its mode; a copy is differentiated.
        image: (H, W, 3) uint8 RGB.
        index: of the class.
        block: a name of `blocks`.
        pixels: (H, W) bool, those whose logits count.

    Returns:
        (H, W) float32 in 0..1, 1 where the block speaks most for the class; all 0 if nowhere.

    Raises:
        UserError: the package grad-cam is not installed.
    """
    grad_cam_class, target_class = _package()
    with torch.inference_mode(False), torch.enable_grad():
        model = copy.deepcopy(model).eval().requires_grad_(False)
        layer = blocks(model)[block]
        # The graph begins at the block's output: nothing before it needs a gradient, nor memory.
        layer.register_forward_hook(lambda _module, _input, output: output.requires_grad_())
        # Padded here as the model would pad inside: the package stretches the block's grid over the
        # input that it is given, and the grid covers the padding too.
        height, width = image.shape[:2]
        tall, wide = model.padded_size(height, width)
        below, beside = tall - height, wide - width
        batch = torch.from_numpy(np.ascontiguousarray(image)).unsqueeze(0)  # (1, H, W, 3)
        x = F.pad(model.normalize(batch.to(model.mean.device)), (0, beside, 0, below))
        target = target_class(index, np.pad(pixels, ((0, below), (0, beside))))  # of (1, 3, H', W')
        cam = grad_cam_class(model=model, target_layers=[layer])(x, [target])  # (1, H', W')
    return cam[0, :height, :width]


def _package() -> tuple[type, type]:
    """GradCAM and its target for segmentation, of the package grad-cam."""
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget
    except ImportError as error:
        raise UserError(
            f"Grad-CAM needs the package grad-cam, which can't be imported here ({error}). "
            "Install it: pip install 'segcoord[attend]'"
        ) from error
    return GradCAM, SemanticSegmentationTarget


@dataclass(frozen=True)
class Explanation:
    """One model of the picture and what it makes of the image."""

    name: str
    model: SegmentationModel
    block: str
    kind: str  # of attention; "" for none
    prediction: np.ndarray  # (H, W) uint8
    gates: dict[str, np.ndarray]  # (C or 1, h or 1, w or 1) float32
    grid: tuple[int, int, int]  # C, h, w where the attention stands, else of the block's output

    @property
    def details(self) -> str:
        channels, high, wide = self.grid
        where = f"{self.model.spec['encoder']}, {self.block}"
        return f"{where}: {self.kind or 'no attention'}, {channels} channels of {wide}x{high}"


def _class_index(name: str, model: SegmentationModel, class_name: str) -> int:
    known = model.labels.names
    if class_name not in known:
        near = difflib.get_close_matches(class_name, known, n=3, cutoff=0.5)
        hint = f"the nearest are {', '.join(near)}" if near else f"it has {', '.join(known)}"
        raise UserError(f"class: found {class_name!r}, which {name} doesn't have; {hint}")
    return known.index(class_name)


def explain(
    name: str, model: SegmentationModel, image: np.ndarray, block: str | None
) -> Explanation:
    known = blocks(model)
    encoder = model.spec["encoder"]
    if not known:
        raise UserError(f"{name}: its encoder {encoder} has no numbered blocks to look into")
    if block is None:
        block = next((b for b in reversed(known) if attention_of_block(known[b])), [*known][-1])
    if block not in known:
        raise UserError(
            f"block: found {block!r}, which the encoder {encoder} of {name} doesn't have; "
            f"it has {', '.join(known)}"
        )
    attention = attention_of_block(known[block])
    place = known[block] if attention is None else attention
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    with (
        # A copy, for an attention may overwrite what it is given.
        place.register_forward_pre_hook(lambda _module, x: inputs.append(x[0].clone())),
        place.register_forward_hook(lambda _module, _x, y: outputs.append(y)),
    ):
        prediction = predict(model, image)
    x, y = inputs[0], outputs[0]
    kind, factors = "", {}
    if attention is not None:
        kind, _ = KINDS.get(type(attention), (type(attention).__name__, {}))
        factors = {key: g[0].float().cpu().numpy() for key, g in gates(attention, x).items()}
    return Explanation(name, model, block, kind, prediction, factors, tuple(y.shape[1:]))
