"""Read the folder of an exported model, and write its description.

segcoord.json     description of the files: model, labels, normalization, precision, checksums
model.*           normalized images to logits at the network's stride
image_to_mask.*   photos to class ids, if requested
README.md         the model card

Neither the checkpoint nor the package that wrote the files is needed. Imports no torch.
"""

import hashlib
import json
from pathlib import Path

from segcoord.inference.sessions import FORMATS
from segcoord.utils.errors import UserError
from segcoord.utils.files import write_json

FORMAT = "segcoord-export-1"
DESCRIPTION = "segcoord.json"
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".torchscript", "pt2": ".pt2"}
NETWORK, IMAGE_TO_MASK = "model", "image_to_mask"
"""File names without suffix."""


def read_description(folder: str | Path) -> dict:
    """Read segcoord.json and verify the sizes and checksums of the files that it lists.

    Raises:
        UserError: the folder is not that of an exported model, or is damaged.
    """
    folder = Path(folder)
    file = folder / DESCRIPTION
    if not file.is_file():
        inside = ", ".join(sorted(p.name for p in folder.iterdir())[:6]) or "nothing"
        raise UserError(
            f"{folder}: a folder, expected a checkpoint file, or a folder with {DESCRIPTION} "
            f"written by segcoord export; it contains {inside}"
        )
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file}: damaged ({error}); export the model again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{file}: found format {found!r}, expected {FORMAT!r}")
    lacking = {"model", "export", "checkpoint", "files"} - content.keys()
    if lacking or content["export"].get("format") not in FORMATS:
        raise UserError(f"{file}: damaged, it lacks {', '.join(sorted(lacking)) or 'the format'}")
    for name, known in content["files"].items():
        path = folder / name
        if name == "README.md":  # users may edit the model card
            continue
        if not path.is_file():
            raise UserError(f"{path}: missing; export the model again")
        if path.stat().st_size != known["bytes"] or sha256(path) != known["sha256"]:
            raise UserError(f"{path}: damaged, its checksum differs; export the model again")
    return content


def write_description(folder: Path, description: dict) -> None:
    """Write segcoord.json, with the size and SHA-256 of every file in the folder."""
    files = {
        p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(folder.iterdir())
    }
    write_json(folder / DESCRIPTION, {"format": FORMAT, **description, "files": files})


def network_file(folder: Path, fmt: str, stem: str = NETWORK) -> Path:
    return folder / f"{stem}{SUFFIXES[fmt]}"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
