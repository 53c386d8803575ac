"""Initial weights for training from a checkpoint or from any file of weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from segcoord.models.encoders.weights import LoadReport, load_weights_file
from segcoord.models.segmentation import ImageModel, SegmentationModel
from segcoord.models.state_dict import model_description, read_weights_file
from segcoord.utils.errors import UserError


def init_from(model: ImageModel, path: str | Path) -> LoadReport:
    """Copies the weights of a file that fit, as a start for training, and its normalization.

    A checkpoint of a segmentation model, or the state dict of one, gives every tensor whose name
    and shape fit; of another encoder's attention it gives none. One of a classifier that `train.py`
    trained, and a file of an encoder's weights (the authors', timm's), give the encoder, as
    `encoders.weights.load_weights_file` does.

    Returns:
        Which tensors matched, which are new and which are unused.

    Raises:
        UserError: no such file, or no tensor in it that matches.
    """
    path = Path(path)
    loaded = read_weights_file(path)
    described = model_description(loaded)
    own = model.state_dict()
    tensors = _match_names(loaded, own)
    source_encoder = description.get("spec", {}).get("encoder", model.spec["encoder"])
    skipped = (".se.", ".att.") if source_encoder != model.spec["encoder"] else ()
    matched = {
        name: tensor
        for name, tensor in tensors.items()
        if name in own
        and tensor.shape == own[name].shape
        and not any(block in name for block in skipped)
    }
    from_classifier = described.get("task") == "classification"
    if isinstance(model, SegmentationModel) and (from_classifier or not same):
        report = load_weights_file(model.net.encoder, path)
    elif same:
        model.load_state_dict(same, strict=False)
        new = [n for n in own if n not in same and not n.endswith("num_batches_tracked")]
        unused = [name for name in tensors if name not in same]
        normalization = (described["mean"], described["std"]) if described else None
        report = LoadReport(str(path), [*same], new, unused, normalization)
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
