"""Datasets from their owners: downloaded, verified, unpacked into the tree that the layouts read.

torchvision knows where the archives are and which MD5 they have, downloads and unpacks them. Here
is what an interrupted, refused or damaged download needs besides.
"""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import socket
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.filesize import decimal
from torchvision.datasets.sbd import SBDataset
from torchvision.datasets.utils import calculate_md5, download_url, extract_archive
from torchvision.datasets.voc import DATASET_YEAR_DICT

from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write, require_space

TIMEOUT = 30.0  # seconds without a byte from the server


@dataclass(frozen=True)
class Archive:
    """What a dataset's owner publishes, and what is in it.

    Args:
        title: the dataset's name, for messages.
        url: where the archive is.
        file: its name.
        md5: of its content.
        size: its bytes; of VOC's and SBD's rounded up.
        unpacked: the bytes of its files, rounded up.
        tree: the folder in it that is the dataset.
        holds: how many files the tree has at least, by pattern.
    """

    title: str
    url: str
    file: str
    md5: str
    size: int
    unpacked: int
    tree: Path
    holds: Mapping[str, int]


_VOC = DATASET_YEAR_DICT["2012"]
ARCHIVES = {
    "voc": Archive(
        "Pascal VOC 2012",
        _VOC["url"],
        _VOC["filename"],
        _VOC["md5"],
        2_000_000_000,
        2_000_000_000,
        Path(_VOC["base_dir"]),
        {
            "JPEGImages/*.jpg": 17125,
            "SegmentationClass/*.png": 2913,
            "ImageSets/Segmentation/train.txt": 1,
            "ImageSets/Segmentation/val.txt": 1,
        },
    ),
    "sbd": Archive(
        "SBD",
        SBDataset.url,
        SBDataset.filename,
        SBDataset.md5,
        1_500_000_000,
        2_000_000_000,
        Path("benchmark_RELEASE", "dataset"),
        {"cls/*.mat": 11355, "train.txt": 1, "val.txt": 1},
    ),
}
_CITYSCAPES = """\
Cityscapes is given to those who have an account there, so that its own downloader has to fetch it.
Make an account at https://www.cityscapes-dataset.com/register/, then:

  pip install cityscapesscripts
  mkdir -p {root}
  csDownload -d {root} gtFine_trainvaltest.zip leftImg8bit_trainvaltest.zip
  unzip -n -d {root} {root}/gtFine_trainvaltest.zip
  unzip -n -d {root} {root}/leftImg8bit_trainvaltest.zip

12 GB are downloaded and another 12 GB unpacked. After an interruption: csDownload -r ..."""


def get_dataset(name: str, root: Path) -> Path:
    """Makes the tree of a dataset below `root`, of its owner's archive.

    Raises:
        UserError: a dataset that is not to be had without a login, or an unknown one; as
            `get_archive`.
    """
    if name == "cityscapes":
        raise UserError(_CITYSCAPES.format(root=shlex.quote(str(root))))
    if name not in ARCHIVES:
        raise UserError(f"found {name!r}, expected voc, sbd or cityscapes")
    return get_archive(ARCHIVES[name], root)


def get_archive(archive: Archive, root: Path) -> Path:
    """Downloads an archive unless it is in `root`, and unpacks it unless its tree is there.

    What was interrupted is begun anew; nothing incomplete ever has a final name. A tree that lacks
    files, as a half-unpacked one does, gets them; what else is in it stays.

    Args:
        archive: an entry of ARCHIVES.
        root: the folder of the archive and the tree.

    Returns:
        The folder that is the dataset.

    Raises:
        UserError: too little space; an archive that can't be had, or is not what was published.
    """
    root = root.expanduser()
    file, tree = root / archive.file, root / archive.tree
    lacks = _lacks(tree, archive)
    if not lacks:
        console.print(f"{tree}: there already, and complete")
        return tree
    if tree.exists():
        console.print(f"{tree}: incomplete ({lacks}), so it is unpacked again")
    for left in root.glob(f".{archive.file}.*"):  # by one that was killed
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    there = _is_there(file, archive)
    needed = archive.unpacked + (0 if there else archive.size)
    parts = f"{decimal(archive.unpacked)} to unpack"
    if not there:
        parts = f"{decimal(archive.size)} to download, {parts}"
    console.print(f"{archive.title} needs {decimal(needed)} in {root}: {parts}")
    require_space(root, needed, archive.title)
    if not there:
        _download(archive, file)
    _unpack(archive, file, tree)
    console.print(f"{archive.title} is in {tree}. {file} is not needed any more.")
    return tree


def _lacks(tree: Path, archive: Archive) -> str:
    """What of an archive is not in its tree, in words."""
    found = {pattern: sum(1 for _ in tree.glob(pattern)) for pattern in archive.holds}
    return ", ".join(
        f"{found[pattern]} of {n} {pattern}"
        for pattern, n in archive.holds.items()
        if found[pattern] < n
    )


def _is_there(file: Path, archive: Archive) -> bool:
    if not file.exists():
        return False
    console.print(f"{file}: there already, checking its MD5")
    found = calculate_md5(file)
    if found == archive.md5:
        return True
    console.print(
        f"{file}: damaged (its MD5 is {found}, expected {archive.md5}), so it is fetched again"
    )
    return False


def _download(archive: Archive, file: Path) -> None:
    by_hand = (
        f"Run this again, or download {archive.url} by hand to {file} and then run this again."
    )
    with atomic_write(file) as temporary, _timeout(TIMEOUT):
        try:
            console.print(f"fetching {archive.url}")
            download_url(archive.url, temporary.parent, temporary.name, archive.md5)
        except (OSError, http.client.HTTPException, RecursionError) as error:
            # HTTP and URL errors are OSErrors; RecursionError: one redirect after the other
            raise UserError(
                f"{archive.url}: could not be fetched ({type(error).__name__}: {error}). "
                f"Check the network and the free space. {by_hand}"
            ) from error
        except RuntimeError as error:  # the MD5 is wrong, and torchvision doesn't tell more
            found, size = calculate_md5(temporary), temporary.stat().st_size
            raise UserError(
                f"{archive.url}: gave {size:,} bytes of MD5 {found}, expected {archive.md5}; not "
                "kept. Did the connection end early, or does a proxy answer in its place? "
                f"{by_hand}"
            ) from error


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """For all connections, because torchvision sets none and would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unpack(archive: Archive, file: Path, tree: Path) -> None:
    if not hasattr(tarfile, "data_filter"):  # torchvision would unpack whatever is in it
        raise UserError(
            f"{file}: this Python can't refuse an archive that writes outside of its folder; "
            "expected 3.10.12, 3.11.4 or newer. Update it, or unpack the archive by hand: "
            f"tar -xf {file} -C {file.parent}"
        )
    with TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        console.print(f"unpacking {file}, which takes minutes on a slow disk")
        try:
            extract_archive(file, folder)
            os.sync()  # the files before their name
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise UserError(
                f"{file}: could not be unpacked ({type(error).__name__}: {error}); nothing of it "
                "was kept. Check the free space; if the archive is damaged, delete it and run this "
                "again."
            ) from error
        unpacked = Path(folder) / archive.tree
        lacks = _lacks(unpacked, archive)
        if lacks:
            raise UserError(
                f"{file}: its {archive.tree} has {lacks}; nothing of it was kept. Expected the "
                "archive that the owner publishes: delete this one and run this again."
            )
        _move(unpacked, tree)


def _move(source: Path, target: Path) -> None:
    """Renames a tree; into one that is there, file by file, so that what else is in it stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        source.replace(target)
        return
    for file in (p for p in source.rglob("*") if p.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
