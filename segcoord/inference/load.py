"""TODO."""

from __future__ import annotations

from pathlib import Path

import torch

from segcoord.inference.exported import DESCRIPTION, load_exported, read_description
from segcoord.inference.runtimes import RUNTIMES, check_runtime_name
from segcoord.models.checkpoint import read_segmentation, rebuild
from segcoord.models.fuse import fold_batch_norm
from segcoord.models.hub import CONFIG
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError


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
    return load_with_metadata(path, device, runtime=runtime, fold=fold)[0]


def is_exported(path: str | Path) -> bool:
    """Whether it is a folder, and not one of `save_pretrained`."""
    return Path(path).is_dir() and not (Path(path) / CONFIG).is_file()


def accelerator_for(path: str | Path, asked: str) -> str:
    """What "auto" is for this model: "cpu" for an exported one, which has no other."""
    return "cpu" if asked == "auto" and is_exported(path) else asked


def load_with_metadata(
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
        check_runtime_name(runtime)
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


def read_metadata(path: str | Path) -> dict:
    """What `load_with_metadata` tells besides, without the model."""
    if is_exported(path):
        return read_description(path)["checkpoint"]
    return read_segmentation(path)


def checkpoint_path(path: str) -> Path:
    """The path of a checkpoint or of an exported folder, or of the best.ckpt in a run's folder."""
    if not Path(path).is_dir() or (Path(path) / DESCRIPTION).is_file():
        return Path(path)
    best = Path(path) / "best.ckpt"
    if not best.is_file():
        raise UserError(f"{path}: no run, for it has no best.ckpt; give a run's or a checkpoint")
    return best
