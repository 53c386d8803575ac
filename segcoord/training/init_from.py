"""Initial weights for training from a checkpoint or from any file of weights."""

from pathlib import Path

import torch
from torch import Tensor

from segcoord.models.encoders.identity_gates import initialize_gates
from segcoord.models.encoders.weights import (
    LoadReport,
    load_weights_file,
    require_whole_attention,
    timm_network,
)
from segcoord.models.segmentation import ImageModel, SegmentationModel
from segcoord.models.state_dict import model_description, read_weights_file
from segcoord.utils.errors import UserError


def init_from(model: ImageModel, path: str | Path) -> LoadReport:
    """Copy the matching weights of a file into a model, and its input normalization.

    A segmentation checkpoint or state dict gives every tensor of the same name and shape, except
    the attention blocks in the encoder if that is another one. A classifier trained with `train.py`
    and a file of encoder weights (from the authors or timm) initialize the encoder with
    `encoders.weights.load_weights_file`. Attention blocks that the file lacks begin as in
    `encoders.identity_gates.initialize_gates`.

    Returns:
        Which tensors matched, which are new and which are unused.

    Raises:
        UserError: no such file, no tensor in it that matches, or a part of the attention.
    """
    path = Path(path)
    loaded = read_weights_file(path)
    description = model_description(loaded)
    own = model.state_dict()
    tensors = _match_names(loaded, own)
    source_encoder = description.get("spec", {}).get("encoder", model.spec["encoder"])
    encoder = timm_network(getattr(model.net, "encoder", model.net))
    prefix = next(f"{name}." for name, module in model.named_modules() if module is encoder)
    skipped = (".se.", ".att.") if source_encoder != model.spec["encoder"] else ()
    matched = {
        name: tensor
        for name, tensor in tensors.items()
        if name in own
        and tensor.shape == own[name].shape
        and not (name.startswith(prefix) and any(block in name for block in skipped))
    }
    from_classifier = description.get("task") == "classification"
    if isinstance(model, SegmentationModel) and (from_classifier or not matched):
        report = load_weights_file(model.net.encoder, path)
    elif matched:
        require_whole_attention(encoder, {n.removeprefix(prefix) for n in matched}, path)
        model.load_state_dict(matched, strict=False)
        new = [n for n in own if n not in matched and not n.endswith("num_batches_tracked")]
        unused = [name for name in tensors if name not in matched]
        normalization = (description["mean"], description["std"]) if description else None
        gates = initialize_gates(model, new, tensors)
        report = LoadReport(str(path), [*matched], new, unused, normalization, *gates)
    else:
        raise UserError(
            f"{path}: none of its {len(tensors)} tensors matches the model; "
            f"the file has {list(tensors)[:2]}, the model {list(own)[:2]}"
        )
    if report.normalization:
        for buffer, values in zip((model.mean, model.std), report.normalization):
            buffer.copy_(torch.tensor(values).view(1, 3, 1, 1))
    return report


def _match_names(loaded: object, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, without prefixes of wrappers, and with `net.` before smp's names."""
    loaded = loaded if isinstance(loaded, dict) else {}
    state_dict = loaded.get("state_dict", loaded)
    state_dict = state_dict if isinstance(state_dict, dict) else {}
    tensors = {k: v for k, v in state_dict.items() if isinstance(k, str) and isinstance(v, Tensor)}
    for prefix in ("module.", "_orig_mod.", "module."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if own.keys() & tensors.keys():
        return tensors
    prefixed = {f"net.{name}": tensor for name, tensor in tensors.items()}
    return prefixed if own.keys() & prefixed.keys() else tensors
