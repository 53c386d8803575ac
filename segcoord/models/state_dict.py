"""Files of weights as data: read, recognised and refused in words. No code in one is ever run."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch or safetensors file, on the CPU, under the names of its network.

    A level `state_dict_ema`, `state_dict` or `model` above the tensors is gone through, the first
    of these that is there (timm's order: the averaged weights are the ones it scores), and
    `module.`, `_orig_mod.` and `net.`, which wrappers put before all names, are taken off.

    Raises:
        UserError: no such file, damaged, foreign, unsafe to load, or without tensors.
    """
    path = Path(path)
    loaded = unpickle(path)
    loaded = loaded if isinstance(loaded, dict) else {}
    levels = [loaded.get(level) for level in ("state_dict_ema", "state_dict", "model")]
    loaded = next((level for level in levels if isinstance(level, dict)), loaded)
    tensors = {k: v for k, v in loaded.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        held = join_first(loaded, 4) or "no dictionary"
        raise UserError(f"{path}: found no tensors by name ({held}), expected a state dict")
    for prefix in ("module.", "_orig_mod.", "module.", "net."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    if any(name.startswith("encoder.") for name in tensors):
        raise UserError(f"{path}: a whole network, not an encoder. Start from it by --init-from.")
    return tensors


def unpickle(path: Path) -> object:
    """Tensors and plain types of a file, on the CPU; whatever else is in it is refused, not run.

    Raises:
        UserError: no such file, damaged, foreign, or with more in it than data.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {found}, expected a file of weights (.pth or .safetensors)")
    if foreign := describe_wrong_file(path):
        raise UserError(f"{path}: {foreign}, expected weights. Download the file itself.")
    head = read_bytes(path, 9)
    try:
        if head.endswith(b"{"):  # safetensors: a header in JSON, after its size in eight bytes
            return load_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file fails in the unpickler in any way
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path}: refused, for more is in it than tensors and plain types ({code[1]}), and "
                "would run as code. Save it anew by torch.save(model.state_dict(), FILE)."
            ) from error
        raise UserError(
            f"{path}: damaged, cut short or not a PyTorch or safetensors file "
            f"({first_sentence(error)}). Fetch it again."
        ) from error


def read_bytes(path: Path, size: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error


def describe_wrong_file(path: Path) -> str | None:
    """What a file is in words, if it is one of the things that come in a weights' file's place."""
    head = read_bytes(path, 512)
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, which only stands for the file"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "an HTML page, saved in the file's place"
    return None


def first_sentence(error: Exception) -> str:
    """Of PyTorch's message never more: the rest advises to run the code."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].partition('. ')[0]}"


def model_description(loaded: object) -> dict:
    """What one of our checkpoints says of its model; empty for any other file."""
    described = loaded.get("model") if isinstance(loaded, dict) else None
    ours = isinstance(described, dict) and {"format", "spec", "mean", "std"} <= described.keys()
    return described if ours else {}
