"""TODO."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from segcoord.models.state_dict import describe_wrong_file, read_bytes
from segcoord.utils.console import console
from segcoord.utils.download import download_file
from segcoord.utils.errors import UserError

GIVE_BY_HAND = "give a file of your own by --model.encoder_weights FILE"


@dataclass(frozen=True)
class Published:
    """A file in a git repository, with the id that git gives its content."""

    url: str
    blob: str
    file: str


PUBLISHED = {
    "mobilenetv2_ca_100": Published(
        "https://raw.githubusercontent.com/houqb/CoordAttention/"
        "7619bea9acbe260b3793833cc78cef3f124c8112/mbv2_ca.pth",
        "07b6640600b7d767acfaebcf5ddb801b675073df",
        "mbv2_ca-07b66406.pth",
    )
}
"""Encoder -> its ImageNet weights, for those that timm has none for."""


def git_blob_id(path: Path) -> str:
    """The id that `git hash-object` prints for a file."""
    content = read_bytes(path)
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def cache_folder() -> Path:
    """Where PyTorch and timm keep what they download; TORCH_HOME moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(published: Published, *, offline: bool = False) -> Path:
    """A published file in `cache_folder()`, fetched unless it is there, its content verified.

    Args:
        published: an entry of PUBLISHED.
        offline: never touch the network.

    Raises:
        UserError: not in the cache while offline; not to be had, or not what was published.
    """
    path = cache_folder() / published.file
    by_hand = (
        f"Download {published.url} by hand to {path}, {GIVE_BY_HAND}, or start at random with "
        "--model.encoder_weights null."
    )
    state = "no such file"
    if path.is_file():
        found = git_blob_id(path)
        if found == published.blob:
            return path
        state = f"damaged (its git blob id is {found}, expected {published.blob})"
    if offline:
        raise UserError(f"{path}: {state}, and --offline forbids to fetch it. {by_hand}")
    console.print(f"{path}: {state}; fetching {published.url}")
    download_file(published.url, path, lambda file: _difference(file, published.blob), by_hand)
    return path


def _difference(path: Path, blob: str) -> str | None:
    """Describes a file whose git blob id is not `blob`."""
    found = git_blob_id(path)
    if found == blob:
        return None
    content = describe_wrong_file(path) or f"a file of {path.stat().st_size:,} bytes"
    return f"{content} with git blob id {found}, expected {blob}"
