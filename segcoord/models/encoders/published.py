"""TODO."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import rich.progress
import torch

from segcoord.models.state_dict import (
    describe_wrong_file,
    first_sentence,
    read_bytes,
)
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write

TIMEOUT = 30.0  # seconds without a byte from the server
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
    with atomic_write(path) as temporary:
        try:
            _download(published.url, temporary, f"{path}: {state}; fetching {published.url}")
        except (OSError, http.client.HTTPException) as error:  # HTTP and URL errors are OSErrors
            raise UserError(
                f"{published.url}: could not be fetched ({first_sentence(error)}). "
                f"Check the network and the free space. {by_hand}"
            ) from error
        found = git_blob_id(temporary)
        if found != published.blob:
            what = describe_wrong_file(temporary) or f"a file of {temporary.stat().st_size:,} bytes"
            raise UserError(
                f"{published.url}: gave {what} with git blob id {found}, expected "
                f"{published.blob}; not kept. Is a proxy answering in its place? {by_hand}"
            )
    return path


def _download(url: str, path: Path, why: str) -> None:
    from segcoord.utils.console import console  # slow to import, and a cached file goes without

    console.print(why)
    request = urllib.request.Request(url, headers={"User-Agent": "segcoord"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response, path.open("wb") as file:
        size = response.length or 0  # 0: the server doesn't tell
        bar = {"description": "fetch", "console": console, "transient": True}
        with rich.progress.wrap_file(response, size, **bar) as reader:
            shutil.copyfileobj(reader, file)
        if size and file.tell() != size:
            raise OSError(f"the connection ended after {file.tell():,} of {size:,} bytes")
