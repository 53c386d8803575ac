"""Saves and reads checkpoints: tensors and plain types; code in a file is never run."""

import zipfile
from pathlib import Path

import torch

from segcoord.models.factory import model_from_dict
from segcoord.models.hub import CONFIG, read_pretrained
from segcoord.models.segmentation import FORMAT, ImageModel, SegmentationModel
from segcoord.models.state_dict import read_weights_file
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write


def save(model: ImageModel, path: str | Path, **extra: object) -> None:
    """Writes weights, architecture, labels and normalization to one file, atomically.

    Args:
        model: a segmentation model or a classifier.
        path: usually `*.ckpt`.
        extra: further entries of tensors and plain types, for example training state.

    Raises:
        UserError: the model was loaded for inference, or the file can't be written.
    """
    if isinstance(model, SegmentationModel) and (model.folded or model.runtime != "torch"):
        raise UserError(
            f"{path}: a model loaded for inference can't be saved, because its batch norms are "
            "folded; load it with segcoord.load(CHECKPOINT, fold=False)"
        )
    with atomic_write(path) as temporary:
        content = {"model": model.to_dict(), "state_dict": model.state_dict(), **extra}
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # raised by PyTorch's writer for a full disk
            raise OSError(str(error).splitlines()[0]) from error


def read_checkpoint(path: str | Path) -> dict:
    """Reads a file of `save` or a folder of `save_pretrained`, to the CPU.

    Returns:
        {"model": description, "state_dict": tensors, ...} in plain types.

    Raises:
        UserError: no such file, damaged, or not a checkpoint of segcoord.
    """
    path = Path(path)
    if (path / CONFIG).is_file():
        return read_pretrained(path)
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.glob("*.ckpt"))) or "no *.ckpt"
        raise UserError(f"{path}: found a folder ({inside}), expected a checkpoint file")
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint. Give the path of a best.ckpt or last.ckpt.")
    checkpoint = read_weights_file(path)
    _check_crc(path)
    description = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        keys = list(checkpoint)[:4] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise UserError(
            f"{path}: not a checkpoint of segcoord (found {keys}). "
            "To initialize training from other weights: train.py --init-from FILE."
        )
    names = "classes" if description.get("task") == "classification" else "labels"
    missing = {"spec", names, "mean", "std"} - description.keys()
    if missing or not isinstance(checkpoint.get("state_dict"), dict):
        lacking = ", ".join(sorted(missing)) or "weights"
        raise UserError(f"{path}: a damaged checkpoint of segcoord; {lacking} missing")
    return checkpoint


def _check_crc(path: Path) -> None:
    """Verifies the CRC-32 checksums of the zip file, which PyTorch writes but does not check."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        damaged = str(error)
    if damaged is not None:
        raise UserError(f"{path}: damaged since it was written ({damaged}): checksum mismatch")


def read_segmentation(path: str | Path) -> dict:
    """As `read_checkpoint`; raises UserError for the checkpoint of a classifier."""
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
    """Builds the model of a checkpoint, in eval mode and channels_last; `path` is for messages.

    Raises:
        UserError: an invalid description, or weights that don't match it or are not finite.
    """
    try:
        model = model_from_dict(checkpoint["model"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path}: the weights don't match the architecture: {error}") from error
    broken = [name for name, t in model.state_dict().items() if not t.isfinite().all()]
    if broken:  # would silently predict one class for every pixel
        raise UserError(
            f"{path}: {len(broken)} of its tensors hold values that are not finite "
            f"({broken[0]} is the first); use an earlier checkpoint"
        )
    return model.to(device, memory_format=torch.channels_last).eval()
