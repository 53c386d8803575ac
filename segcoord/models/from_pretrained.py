"""`from_pretrained`: loads shared models from a folder or the Hugging Face Hub."""

from pathlib import Path

import torch

from segcoord.models.checkpoint import rebuild
from segcoord.models.hub import find_pretrained, read_pretrained
from segcoord.models.segmentation import SegmentationModel


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
    return rebuild(read_pretrained(folder), folder, device)
