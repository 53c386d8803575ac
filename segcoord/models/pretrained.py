"""Models saved by `save_pretrained`, from a folder or the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import torch

from segcoord.models.factory import model_from_dict
from segcoord.models.hub import CONFIG, WEIGHTS, find_pretrained, read_pretrained
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first


def from_pretrained(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> SegmentationModel:
    """Loads a model in eval mode, channels_last.

    Args:
        source: a folder written by `save_pretrained`, which needs no network; or "user/name" on
            the Hub, unless a folder of that name exists.
        device: where the model is moved.
        revision: branch, tag or commit on the Hub; its main branch by default.
        token: for a private repository; by default that of `hf auth login` or HF_TOKEN.
        cache_dir: where downloads are kept; the Hub's own cache by default.
        local_files_only: read a repository from the cache only.

    Raises:
        UserError: no such folder or repository, the Hub can't be reached, or files that are not
            segcoord's or are damaged.
    """
    folder = find_pretrained(
        source,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )
    pretrained = read_pretrained(folder)
    try:
        model = model_from_dict(pretrained["model"])
    except UserError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error
    own, given = model.state_dict(), pretrained["state_dict"]
    wrong = [n for n in own if n not in given or given[n].shape != own[n].shape]
    wrong += [n for n in given if n not in own]
    if wrong:
        raise UserError(
            f"{folder / WEIGHTS}: not the weights of the model that {CONFIG} describes: "
            f"{len(wrong)} tensors are missing, unknown or of another shape "
            f"({join_first(wrong, 4)})"
        )
    model.load_state_dict(given)
    return model.to(device, memory_format=torch.channels_last).eval()
