"""Grad-CAM and the gates of a model's attention modules.

Grad-CAM is Selvaraju et al., ICCV 2017, computed by the optional package grad-cam. The gates are
those of figure 4 of Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design",
CVPR 2021. Shapes: H and W of the image, h and w of a block's feature map, C its channels.
"""

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
from segcoord.inference.sessions import require_packages
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
"""Attention class -> its name in figures, and the submodule that computes each gate."""

_POOLED = {"a_h": 3, "a_w": 2}  # the axis averaged before the gate is computed
_SLOTS = ("se", "att")  # attribute that holds a block's attention: in timm, in our MobileNeXt


def blocks(model: SegmentationModel) -> dict[str, nn.Module]:
    """The encoder's blocks by their timm names, such as `blocks.5.2` or `layer4.1`, in order.

    A block is the outermost numbered module that has children and is not a plain container.
    """
    found: dict[str, nn.Module] = {}
    for path, module in model.net.encoder.model.named_modules():
        numbered = path.rpartition(".")[2].isdigit()
        container = isinstance(module, (nn.Sequential, nn.ModuleList))
        nested = any(path.startswith(f"{block}.") for block in found)
        if numbered and not container and not nested and any(module.children()):
            found[path] = module
    return found


def attention_of_block(block: nn.Module) -> nn.Module | None:
    """The block's attention module, or None."""
    modules = (getattr(block, slot, None) for slot in _SLOTS)
    return next((m for m in modules if m is not None and not isinstance(m, nn.Identity)), None)


@torch.no_grad()
def gates(attention: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The factors by which an attention module multiplies its input in eval mode.

    Args:
        attention: a module of a class in `KINDS`; not modified.
        x: (N, C, h, w) float, its input.

    Returns:
        Gates whose product with `x` is the module's output, by name: a_h (N, C, h, 1) and a_w
        (N, C, 1, w) of coordinate attention, channel (N, C, 1, 1) of SE and CBAM, spatial
        (N, 1, h, w) of CBAM. Empty for a module of another class.
    """
    attention = copy.deepcopy(attention).eval()
    outputs: dict[str, Tensor] = {}
    _, submodules = KINDS.get(type(attention), ("", {}))
    for key, path in submodules.items():
        submodule = attention.get_submodule(path)
        if key in _POOLED:
            # Compute each gate on its own, since the channels_last forward calls no submodules.
            # 1x1 convolutions and batch norm in eval mode treat each position separately, so the
            # result equals that of the concatenated strip.
            strip = attention.conv1(x.mean(_POOLED[key], keepdim=True))
            outputs[key] = submodule(attention.act(attention.bn1(strip))).sigmoid()
        else:
            submodule.register_forward_hook(lambda _m, _x, y, key=key: outputs.update({key: y}))
    if submodules.keys() - outputs.keys():
        attention(x)
    return outputs


def grad_cam(
    model: SegmentationModel, image: np.ndarray, index: int, block: str, pixels: np.ndarray
) -> np.ndarray:
    """Grad-CAM at a block's output for the sum of a class's logits over some pixels.

    Args:
        model: in any mode; not modified, since a copy is differentiated.
        image: (H, W, 3) uint8 RGB.
        index: the class index.
        block: a key of `blocks`.
        pixels: (H, W) bool, the pixels whose logits are summed.

    Returns:
        (H, W) float32 in [0, 1], scaled to a maximum of 1; all 0 if no activation is positive.

    Raises:
        UserError: the package grad-cam is not installed.
    """
    require_packages("attend", "Grad-CAM")
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

    with torch.inference_mode(False), torch.enable_grad():
        model = copy.deepcopy(model).eval().requires_grad_(False)
        layer = blocks(model)[block]
        # The graph begins at the block's output: earlier layers need no gradient and no memory.
        layer.register_forward_hook(lambda _module, _input, output: output.requires_grad_())
        # Pad here as the model pads: the package stretches the block's feature map over the input
        # that it receives, and the feature map covers the padding too.
        height, width = image.shape[:2]
        padded_height, padded_width = model.padded_size(height, width)
        bottom, right = padded_height - height, padded_width - width
        batch = torch.from_numpy(np.require(image, requirements="CW")).unsqueeze(0)  # (1, H, W, 3)
        x = F.pad(model.normalize(batch.to(model.mean.device)), (0, right, 0, bottom))
        target = SemanticSegmentationTarget(index, np.pad(pixels, ((0, bottom), (0, right))))
        cam = GradCAM(model=model, target_layers=[layer])(x, [target])  # (1, H', W')
    return cam[0, :height, :width]


@dataclass(frozen=True)
class Explanation:
    """A model's prediction for an image, with the gates of one block's attention."""

    name: str
    model: SegmentationModel
    block: str
    kind: str  # of attention; empty for none
    prediction: np.ndarray  # (H, W) uint8 class indices
    gates: dict[str, np.ndarray]  # float32 of shape (C or 1, h or 1, w or 1)
    shape: tuple[int, int, int]  # (C, h, w) of the output of the attention, else of the block

    @property
    def details(self) -> str:
        channels, height, width = self.shape
        kind = self.kind or "no attention"
        encoder = self.model.spec["encoder"]
        return f"{encoder}, {self.block}: {kind}, {channels} channels of {width}x{height}"


def class_index(name: str, model: SegmentationModel, class_name: str) -> int:
    """The index of a class; raises UserError if the model doesn't have it."""
    known = model.labels.names
    if class_name not in known:
        near = difflib.get_close_matches(class_name, known, n=3, cutoff=0.5)
        hint = f"the nearest are {', '.join(near)}" if near else f"it has {', '.join(known)}"
        raise UserError(f"class: found {class_name!r}, which {name} doesn't have; {hint}")
    return known.index(class_name)


def explain(
    name: str, model: SegmentationModel, image: np.ndarray, block: str | None
) -> Explanation:
    """Predict an image and record the gates of a block's attention.

    Args:
        name: the model's name in figures and errors.
        model: not modified.
        image: (H, W, 3) uint8 RGB.
        block: a key of `blocks`; None for the last block with attention, or the last of all if none
            has attention.

    Raises:
        UserError: the encoder has no such block, or none at all.
    """
    known = blocks(model)
    encoder = model.spec["encoder"]
    if not known:
        raise UserError(f"{name}: its encoder {encoder} has no numbered blocks to inspect")
    if block is None:
        block = next((b for b in reversed(known) if attention_of_block(known[b])), [*known][-1])
    if block not in known:
        raise UserError(
            f"block: found {block!r}, which the encoder {encoder} of {name} doesn't have; "
            f"it has {', '.join(known)}"
        )
    attention = attention_of_block(known[block])
    layer = known[block] if attention is None else attention
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    with (
        # Clone, because an in-place attention overwrites its input.
        layer.register_forward_pre_hook(lambda _module, x: inputs.append(x[0].clone())),
        layer.register_forward_hook(lambda _module, _x, y: outputs.append(y)),
    ):
        prediction = predict(model, image)
    x, y = inputs[0], outputs[0]
    kind, factors = "", {}
    if attention is not None:
        kind, _ = KINDS.get(type(attention), (type(attention).__name__, {}))
        factors = {key: g[0].float().cpu().numpy() for key, g in gates(attention, x).items()}
    return Explanation(name, model, block, kind, prediction, factors, tuple(y.shape[1:]))
