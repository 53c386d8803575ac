"""Reads weight files safely: tensors and plain types only, code in a file is never run."""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of a PyTorch or safetensors file to the CPU.

    They may be nested under `state_dict_ema`, `state_dict` or `model`; the first of these keys
    that exists is used (timm's order: it evaluates the averaged weights). The prefixes `module.`,
    `_orig_mod.` and `net.` of wrappers are removed.

    Raises:
        UserError: no such file, damaged, not a weight file, unsafe to load, or without tensors.
    """
    path = Path(path)
    content = read_weights_file(path)
    content = content if isinstance(content, dict) else {}
    levels = [content.get(level) for level in ("state_dict_ema", "state_dict", "model")]
    content = next((level for level in levels if isinstance(level, dict)), content)
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        keys = join_first(content, 4) or "no dictionary"
        raise UserError(f"{path}: found no named tensors ({keys}), expected a state dict")
    for prefix in ("module.", "_orig_mod.", "module.", "net."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    if any(name.startswith("encoder.") for name in tensors):
        raise UserError(
            f"{path}: found a whole network, expected an encoder. Initialize from it with "
            "--init-from."
        )
    return tensors


def read_weights_file(path: Path) -> object:
    """Reads the tensors and plain types of a file to the CPU; refuses any other object.

    Raises:
        UserError: no such file, damaged, not a weight file, or one that holds code.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {found}, expected a weight file (.pth or .safetensors)")
    if wrong := describe_wrong_file(path):
        raise UserError(f"{path}: {wrong}, expected weights. Download the file itself.")
    head = read_bytes(path, 9)
    try:
        if head.endswith(b"{"):  # safetensors: the header's size in eight bytes, then JSON
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises any type for a damaged or foreign file
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path}: refused, because it holds more than tensors and plain types "
                f"({code[1]}), which would run as code. Save the weights with "
                "torch.save(model.state_dict(), FILE)."
            ) from error
        raise UserError(
            f"{path}: damaged, truncated or not a PyTorch or safetensors file "
            f"({first_sentence(error)}). Download it again."
        ) from error


def read_bytes(path: Path, size: int = -1) -> bytes:
    """The first `size` bytes, or all; raises UserError if the file can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error


def describe_wrong_file(path: Path) -> str | None:
    """Names what a failed download left instead of weights; None for any other file."""
    head = read_bytes(path, 512)
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file it points to"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "an HTML page, not the file"
    return None


def first_sentence(error: Exception) -> str:
    """Type and first sentence of an error; the rest of PyTorch's advises running the code."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].partition('. ')[0]}"


def model_description(content: object) -> dict:
    """The model description in the content of a segcoord checkpoint; empty for other files."""
    description = content.get("model") if isinstance(content, dict) else None
    ours = isinstance(description, dict) and {"format", "spec", "mean", "std"} <= description.keys()
    return description if ours else {}
