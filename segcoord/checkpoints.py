"""Checkpoints: what is saved, what is read, and what a training starts from.

A checkpoint is tensors and plain types; no code of a file is ever run.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from segcoord.deploy.folder import DESCRIPTION, load_exported, read_description
from segcoord.encoders.tensors import described_in, unpickle
from segcoord.encoders.weights import Report, load_file
from segcoord.errors import UserError
from segcoord.files import atomic_write
from segcoord.folding import fold_batch_norm
from segcoord.hub import CONFIG, read_pretrained
from segcoord.model import FORMAT, ImageModel, SegmentationModel
from segcoord.runtimes import RUNTIMES, check_name


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
        content = {"model": model.to_plain(), "state_dict": model.state_dict(), **extra}
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
        if (path / DESCRIPTION).is_file():
            inside = "an exported model, which has no layers"
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


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    runtime: str | None = None,
    fold: bool = True,
) -> SegmentationModel:
    """The model of a checkpoint or of an exported folder, in eval mode.

    Args:
        path: a checkpoint, from which the model is rebuilt without anything else, a folder of
            `save_pretrained`, or one that `segcoord export` wrote.
        device: of a checkpoint's model; an exported one runs on the CPU.
        runtime: torch, onnxruntime, openvino or openvino-bf16; unless given, torch for a
            checkpoint, and for a folder the one that its format is for.
        fold: fold the batch norms into the convolutions before them, which PyTorch runs fastest in
            channels_last. False for whoever trains on, saves the model, or looks at its layers.

    Raises:
        UserError: no such file, not one of segcoord, a damaged one, weights that don't fit; a
            runtime, device or form that it can't have.
    """
    return load_described(path, device, runtime=runtime, fold=fold)[0]


def is_exported(path: str | Path) -> bool:
    """Whether it is a folder, and not one of `save_pretrained`."""
    return Path(path).is_dir() and not (Path(path) / CONFIG).is_file()


def accelerator_for(path: str | Path, asked: str) -> str:
    """What "auto" is for this model: "cpu" for an exported one, which has no other."""
    return "cpu" if asked == "auto" and is_exported(path) else asked


def load_described(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    runtime: str | None = None,
    fold: bool = True,
) -> tuple[SegmentationModel, dict]:
    """As `load`, and what the file tells besides: `config` and `progress` of the training."""
    if is_exported(path):
        if torch.device(device).type != "cpu":
            raise UserError(f"{path}: an exported model runs on the CPU, found device {device}")
        if not fold:
            raise UserError(f"{path}: an exported model has no layers; give its checkpoint")
        model, description = load_exported(path, runtime)
        return model, description["checkpoint"]
    if runtime not in (None, "torch"):
        check_name(runtime)
        fmt = RUNTIMES[runtime][0]
        raise UserError(
            f"--runtime {runtime}: reads an exported folder, and {path} is a checkpoint. Make one: "
            f"segcoord export --checkpoint {path} --format {fmt} --out DIR"
        )
    checkpoint = read_segmentation(path)
    model = rebuild(checkpoint, path, device)
    if not fold:
        return model, checkpoint
    folded = fold_batch_norm(model)
    folded.folded = True
    return folded, checkpoint


def described(path: str | Path) -> dict:
    """What `load_described` tells besides, without the model."""
    if is_exported(path):
        return read_description(path)["checkpoint"]
    return read_segmentation(path)


def rebuild(
    checkpoint: dict, path: str | Path, device: str | torch.device = "cpu"
) -> SegmentationModel:
    """The model of what `read_segmentation` read from the path, as it was trained."""
    try:
        model = SegmentationModel.from_plain(checkpoint["model"])
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


def init_from(model: ImageModel, path: str | Path) -> Report:
    """Copies the weights of a file that fit, as a start for training, and its normalisation.

    A checkpoint of a segmentation model, or the state dict of one, gives every tensor whose name
    and shape fit; of another encoder's attention it gives none. One of a classifier that `train.py`
    trained, and a file of an encoder's weights (the authors', timm's), give the encoder, as
    `encoders.weights.load_file` does.

    Returns:
        What was copied, what is new, what has no place.

    Raises:
        UserError: no such file, no tensors in it, or not one that fits.
    """
    path = Path(path)
    loaded = unpickle(path)
    described = described_in(loaded)
    own = model.state_dict()
    tensors = _renamed(loaded, own)
    theirs = described.get("spec", {}).get("encoder", model.spec["encoder"])
    foreign = (".se.", ".att.") if theirs != model.spec["encoder"] else ()
    same = {
        name: tensor
        for name, tensor in tensors.items()
        if name in own
        and tensor.shape == own[name].shape
        and not any(slot in name for slot in foreign)
    }
    from_classifier = described.get("task") == "classification"
    if isinstance(model, SegmentationModel) and (from_classifier or not same):
        report = load_file(model.net.encoder, path)
    elif same:
        model.load_state_dict(same, strict=False)
        new = [n for n in own if n not in same and not n.endswith("num_batches_tracked")]
        unused = [name for name in tensors if name not in same]
        normalisation = (described["mean"], described["std"]) if described else None
        report = Report(str(path), [*same], new, unused, normalisation)
    else:
        raise UserError(
            f"{path}: none of its {len(tensors)} tensors fits the model; "
            f"the file has {list(tensors)[:2]}, the model {list(own)[:2]}"
        )
    if report.normalisation:
        for buffer, values in zip((model.mean, model.std), report.normalisation):
            buffer.copy_(torch.tensor(values).view(1, 3, 1, 1))
    return report


def _renamed(loaded: object, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under our names: wrappers' prefixes off, smp's network in `net`."""
    loaded = loaded if isinstance(loaded, dict) else {}
    level = loaded.get("state_dict", loaded)
    level = level if isinstance(level, dict) else {}
    tensors = {k: v for k, v in level.items() if isinstance(k, str) and isinstance(v, Tensor)}
    for prefix in ("module.", "_orig_mod.", "module."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    if not own.keys() & tensors.keys():
        within = {f"net.{name}": tensor for name, tensor in tensors.items()}
        return within if own.keys() & within.keys() else tensors
    return tensors
