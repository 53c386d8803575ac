"""Downloads the ImageNet weights that the authors publish, pinned by content."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from segcoord.models.state_dict import describe_wrong_file, read_bytes
from segcoord.utils.console import console
from segcoord.utils.download import download_file
from segcoord.utils.errors import UserError

USE_LOCAL_FILE = "use a local file with --model.encoder_weights FILE"


@dataclass(frozen=True)
class PublishedFile:
    """A file in a git repository."""

    url: str  # at a fixed commit
    blob: str  # git blob id of the content
    file: str  # name in the cache


PUBLISHED = {
    "mobilenetv2_ca_100": PublishedFile(
        "https://raw.githubusercontent.com/houqb/CoordAttention/"
        "7619bea9acbe260b3793833cc78cef3f124c8112/mbv2_ca.pth",
        "07b6640600b7d767acfaebcf5ddb801b675073df",
        "mbv2_ca-07b66406.pth",
    )
}
"""Encoder -> ImageNet weights that timm does not have."""


def git_blob_id(path: Path) -> str:
    """The id that `git hash-object` prints."""
    content = read_bytes(path)
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def download(published: PublishedFile, *, offline: bool = False) -> Path:
    """Downloads a file to the cache of PyTorch and timm, unless cached; returns its path there.

    Raises:
        UserError: not cached and offline, the download fails, or its content differs.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.file
    remedy = (
        f"Download {published.url} to {path} yourself, {USE_LOCAL_FILE}, or start from random "
        "weights with --model.encoder_weights null."
    )
    state = "no such file"
    if path.is_file():
        found = git_blob_id(path)
        if found == published.blob:
            return path
        state = f"damaged (its git blob id is {found}, expected {published.blob})"
    if offline:
        raise UserError(f"{path}: {state}, and --offline is set. {remedy}")
    console.print(f"{path}: {state}; downloading {published.url}")
    download_file(published.url, path, lambda file: _describe_other(file, published.blob), remedy)
    return path


def _describe_other(path: Path, blob: str) -> str | None:
    """Describes a file whose git blob id is not `blob`; None for the expected file."""
    found = git_blob_id(path)
    if found == blob:
        return None
    kind = describe_wrong_file(path) or f"a file of {path.stat().st_size:,} bytes"
    return f"{kind} with git blob id {found}, expected {blob}"
