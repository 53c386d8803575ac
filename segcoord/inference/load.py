"""Load models from checkpoints, `save_pretrained` folders and exported folders."""

from pathlib import Path

import torch

from segcoord.data.labels import LabelSet
from segcoord.inference.exported import DESCRIPTION, network_file, read_description
from segcoord.inference.runtimes import open_net
from segcoord.inference.sessions import RUNTIMES, check_runtime_name, runtime_of
from segcoord.models.checkpoint import read_segmentation, rebuild
from segcoord.models.fold_batch_norm import fold_batch_norm
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
    """Load a model in eval mode.

    Args:
        path: a checkpoint, a folder written by `save_pretrained`, or an exported folder written by
            `segcoord export`. No other file is needed.
        device: device of the model; an exported model runs on the CPU only.
        runtime: torch, onnxruntime, openvino or openvino-bf16; None for torch, or for the default
            of an exported folder's format.
        fold: fuse batch norms into the preceding convolutions and use channels_last, the fastest
            form in PyTorch. Pass False to train, save or inspect the model.

    Raises:
        UserError: the file is missing, damaged or not written by segcoord, the weights don't match,
            or the model doesn't support the runtime, device or `fold`.
    """
    return load_with_metadata(path, device, runtime=runtime, fold=fold)[0]


def is_exported(path: str | Path) -> bool:
    """True for a folder other than one written by `save_pretrained`."""
    return Path(path).is_dir() and not (Path(path) / CONFIG).is_file()


def accelerator_for(path: str | Path, asked: str) -> str:
    """The accelerator to use: "cpu" instead of "auto" for an exported model."""
    return "cpu" if asked == "auto" and is_exported(path) else asked


def load_with_metadata(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    runtime: str | None = None,
    fold: bool = True,
) -> tuple[SegmentationModel, dict]:
    """`load`, with the file's other contents, such as the training's `config` and `progress`."""
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
            f"--runtime {runtime}: needs an exported folder, but {path} is a checkpoint. Export "
            f"it: segcoord export --checkpoint {path} --format {fmt} --out DIR"
        )
    checkpoint = read_segmentation(path)
    model = rebuild(checkpoint, path, device)
    if fold:
        model = fold_batch_norm(model)
        model.folded = True
    return model, checkpoint


def load_exported(folder: str | Path, runtime: str | None = None) -> tuple[SegmentationModel, dict]:
    """Load the model of an exported folder on the CPU, with the content of its segcoord.json.

    Args:
        folder: written by `segcoord export`.
        runtime: a key of `sessions.RUNTIMES`; None for the format's default.

    Raises:
        UserError: the folder is not that of an exported model or is damaged, or the runtime can't
            read its format or is not installed.
    """
    folder = Path(folder)
    content = read_description(folder)
    fmt, config = content["export"]["format"], content["model"]
    runtime = runtime_of(fmt, runtime, folder)
    net = open_net(network_file(folder, fmt), fmt, runtime)
    labels = LabelSet.from_dict(config["labels"])
    model = SegmentationModel(net, config["spec"], labels, config["mean"], config["std"]).eval()
    model.runtime, model.precision = runtime, content["export"]["precision"]
    size = content["export"].get("size")  # absent in folders of older versions
    model.fixed_size = size and tuple(size)
    return model, content


def read_metadata(path: str | Path) -> dict:
    """The metadata of `load_with_metadata`, without building the model."""
    if is_exported(path):
        return read_description(path)["checkpoint"]
    return read_segmentation(path)


def checkpoint_path(path: str) -> Path:
    """The path itself, or best.ckpt for the folder of a run."""
    if not Path(path).is_dir() or (Path(path) / DESCRIPTION).is_file():
        return Path(path)
    best = Path(path) / "best.ckpt"
    if not best.is_file():
        raise UserError(f"{path}: not a run, since it has no best.ckpt; give a run or a checkpoint")
    return best
