"""Checkpoints: what is saved, what is read, and what a training starts from.

A checkpoint is tensors and plain types; no code of a file is ever run.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from segcoord.models.factory import model_from_dict
from segcoord.models.hub import CONFIG, read_pretrained
from segcoord.models.segmentation import FORMAT, ImageModel, SegmentationModel
from segcoord.models.state_dict import unpickle
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write


def save(model: ImageModel, path: str | Path, **extra: object) -> None:
    """Writes weights, architecture, labels and normalisation to one file, atomically.

    Args:
        model: its weights are written as they are.
        path: by custom `*.ckpt`.
        extra: further entries of tensors and plain types, a training run's state say.

    Raises:
        UserError: the model was loaded for inference, or the file can't be written.
    """
    if isinstance(model, SegmentationModel) and (model.folded or model.runtime != "torch"):
        raise UserError(
            f"{path}: a model loaded for inference can't be saved, for its batch norms are folded; "
            "take segcoord.load(CHECKPOINT, fold=False)"
        )
    with atomic_write(path) as temporary:
        content = {"model": model.to_dict(), "state_dict": model.state_dict(), **extra}
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # how PyTorch's writer tells of a full disk
            raise OSError(str(error).splitlines()[0]) from error


def read_checkpoint(path: str | Path) -> dict:
    """What `save` wrote, or `save_pretrained`: tensors and plain types, never code of the file.

    Raises:
        UserError: no such file, or not a checkpoint of segcoord.
    """
    path = Path(path)
    if (path / CONFIG).is_file():
        return read_pretrained(path)
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.glob("*.ckpt"))) or "no *.ckpt"
        raise UserError(f"{path}: a folder, expected a checkpoint file; it holds {inside}")
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint. Give the path of a best.ckpt or last.ckpt.")
    checkpoint = unpickle(path)
    _verify(path)
    described = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        keys = list(checkpoint)[:4] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise UserError(
            f"{path}: not a checkpoint of segcoord (it holds {keys}). "
            "Weights from elsewhere can start a training: train.py --init-from FILE."
        )
    names = "classes" if described.get("task") == "classification" else "labels"
    missing = {"spec", names, "mean", "std"} - described.keys()
    if missing or not isinstance(checkpoint.get("state_dict"), dict):
        lacking = ", ".join(sorted(missing)) or "weights"
        raise UserError(f"{path}: a damaged checkpoint of segcoord, which lacks {lacking}")
    return checkpoint


def _verify(path: Path) -> None:
    """Compares a checkpoint with its checksums, which PyTorch writes but does not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        damaged = str(error)
    if damaged is not None:
        raise UserError(f"{path}: damaged since it was written ({damaged}); its checksum differs")


def read_segmentation(path: str | Path) -> dict:
    """As `read_checkpoint`, and refuses a classifier's."""
    checkpoint = read_checkpoint(path)
    if checkpoint["model"].get("task") == "classification":
        raise UserError(
            f"{path}: a classifier of {len(checkpoint['model']['classes'])} classes, expected a "
            f"segmentation model. Train one from it: train.py --init-from {path}"
        )
    return checkpoint


def rebuild(
    checkpoint: dict, path: str | Path, device: str | torch.device = "cpu"
) -> SegmentationModel:
    """The model of what `read_segmentation` read from the path, as it was trained."""
    try:
        model = model_from_dict(checkpoint["model"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path}: its weights don't fit its own architecture: {error}") from error
    broken = [name for name, t in model.state_dict().items() if not t.isfinite().all()]
    if broken:  # whose every pixel would be of one class, without a word
        raise UserError(
            f"{path}: {len(broken)} of its tensors hold values that are not finite ({broken[0]} "
            "the first), expected numbers; take an earlier checkpoint"
        )
    return model.to(device, memory_format=torch.channels_last).eval()
