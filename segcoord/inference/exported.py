"""The folder of an exported model.

segcoord.json     what the files are: model, labels, normalisation, precision, checks, checksums
model.*           normalised images to logits at the network's stride
image_to_mask.*   photographs to class ids, where it was asked for
README.md         the model card

Reading needs neither the checkpoint nor the package that wrote the files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from segcoord.data.labels import LabelSet
from segcoord.inference.runtimes import FORMATS, open_net, runtime_of
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError

FORMAT = "segcoord-export-1"
DESCRIPTION = "segcoord.json"
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".torchscript", "pt2": ".pt2"}
NETWORK, IMAGE_TO_MASK = "model", "image_to_mask"
"""Stems of the two files."""


def read_description(folder: str | Path) -> dict:
    """What segcoord.json says, once the files beside it are found to be what it says.

    Raises:
        UserError: not the folder of an exported model, or a damaged one.
    """
    folder = Path(folder)
    file = folder / DESCRIPTION
    if not file.is_file():
        inside = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
        raise UserError(
            f"{folder}: a folder, expected a checkpoint file, or what segcoord export wrote, which "
            f"has {DESCRIPTION}; it holds {inside}"
        )
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: damaged ({error}); export the model anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{file}: found format {found!r}, expected {FORMAT!r}")
    lacking = {"model", "export", "checkpoint", "files"} - content.keys()
    if lacking or content["export"].get("format") not in FORMATS:
        raise UserError(f"{file}: damaged, it lacks {', '.join(sorted(lacking)) or 'the format'}")
    for name, known in content["files"].items():
        path = folder / name
        if name == "README.md":  # a card is there to be edited
            continue
        if not path.is_file():
            raise UserError(f"{path}: missing; export the model anew")
        if path.stat().st_size != known["bytes"] or _checksum(path) != known["sha256"]:
            raise UserError(f"{path}: damaged since it was written; export the model anew")
    return content


def network_file(folder: Path, fmt: str, stem: str = NETWORK) -> Path:
    return folder / f"{stem}{SUFFIXES[fmt]}"


def load_exported(folder: str | Path, runtime: str | None = None) -> tuple[SegmentationModel, dict]:
    """The model of an exported folder, on the CPU, and what its segcoord.json says.

    Args:
        folder: that `segcoord export` wrote.
        runtime: of `runtimes.RUNTIMES`; the format's own unless given.

    Raises:
        UserError: not such a folder, a damaged one, a runtime that can't read it or isn't there.
    """
    folder = Path(folder)
    content = read_description(folder)
    fmt, plain = content["export"]["format"], content["model"]
    runtime = runtime_of(fmt, runtime, folder)
    net = open_net(network_file(folder, fmt), fmt, runtime)
    labels = LabelSet.from_dict(plain["labels"])
    model = SegmentationModel(net, plain["spec"], labels, plain["mean"], plain["std"]).eval()
    model.runtime, model.precision = runtime, content["export"]["precision"]
    return model, content


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
