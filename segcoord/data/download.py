"""Download datasets from their owners, verify them and unpack them into the tree of a layout.

URLs and MD5 checksums are those of torchvision, which also unpacks the archives.
"""

import os
import shlex
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.filesize import decimal
from torchvision.datasets.sbd import SBDataset
from torchvision.datasets.utils import calculate_md5, extract_archive
from torchvision.datasets.voc import DATASET_YEAR_DICT

from segcoord.utils.console import console
from segcoord.utils.download import download_file
from segcoord.utils.errors import UserError
from segcoord.utils.files import require_space


@dataclass(frozen=True)
class Archive:
    """An archive as the owner of a dataset publishes it."""

    title: str  # name of the dataset, for messages
    url: str
    file: str
    md5: str
    size: int  # of the archive in bytes; rounded up for VOC and SBD
    unpacked: int  # size of the files in it in bytes, rounded up
    tree: Path  # the folder in the archive that is the dataset
    minimum_files: Mapping[str, int]  # glob pattern in the tree -> least number of files


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
Cityscapes requires an account, so only its own downloader can fetch it.
Register at https://www.cityscapes-dataset.com/register/, then:

  pip install cityscapesscripts
  mkdir -p {root}
  csDownload -d {root} gtFine_trainvaltest.zip leftImg8bit_trainvaltest.zip
  unzip -n -d {root} {root}/gtFine_trainvaltest.zip
  unzip -n -d {root} {root}/leftImg8bit_trainvaltest.zip

This downloads 12 GB and unpacks another 12 GB. After an interruption: csDownload -r ..."""


def get_dataset(name: str, root: Path) -> Path:
    """Download and unpack a dataset below `root`; returns its folder.

    Raises:
        UserError: the dataset requires a login or is unknown; any error of `get_archive`.
    """
    if name == "cityscapes":
        raise UserError(_CITYSCAPES.format(root=shlex.quote(str(root))))
    if name not in ARCHIVES:
        raise UserError(f"found {name!r}, expected voc, sbd or cityscapes")
    return get_archive(ARCHIVES[name], root)


def get_archive(archive: Archive, root: Path) -> Path:
    """Download an archive unless it is in `root`, and unpack it unless its tree is complete.

    An interrupted download or unpacking starts over; nothing incomplete ever has a final name. An
    incomplete tree gets the missing files and keeps any others. Returns the dataset's folder.

    Raises:
        UserError: the disk is too small; the archive can't be downloaded or is not the published
            one.
    """
    root = root.expanduser()
    file, tree = root / archive.file, root / archive.tree
    missing = _missing_files(tree, archive)
    if not missing:
        console.print(f"{tree}: exists and is complete")
        return tree
    if tree.exists():
        console.print(f"{tree}: incomplete ({missing}), unpacking again")
    for leftover in root.glob(f".{archive.file}.*"):  # of a killed process
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    downloaded = _is_downloaded(file, archive)
    needed = archive.unpacked + (0 if downloaded else archive.size)
    parts = f"{decimal(archive.unpacked)} to unpack"
    if not downloaded:
        parts = f"{decimal(archive.size)} to download, {parts}"
    console.print(f"{archive.title} needs {decimal(needed)} in {root}: {parts}")
    require_space(root, needed, archive.title)
    if not downloaded:
        console.print(f"downloading {archive.url}")
        by_hand = (
            f"Run this again, or download {archive.url} by hand to {file} and then run this again."
        )
        download_file(archive.url, file, lambda path: _difference(path, archive.md5), by_hand)
    _unpack(archive, file, tree)
    console.print(f"{archive.title} is in {tree}. {file} is no longer needed.")
    return tree


def _missing_files(tree: Path, archive: Archive) -> str:
    """Describes the files of an archive that a tree lacks; empty if it is complete."""
    counts = {pattern: sum(1 for _ in tree.glob(pattern)) for pattern in archive.minimum_files}
    return ", ".join(
        f"{counts[pattern]} of {n} {pattern}"
        for pattern, n in archive.minimum_files.items()
        if counts[pattern] < n
    )


def _is_downloaded(file: Path, archive: Archive) -> bool:
    if not file.exists():
        return False
    console.print(f"{file}: exists, checking its MD5")
    difference = _difference(file, archive.md5)
    if difference:
        console.print(f"{file}: damaged ({difference}), downloading again")
    return not difference


def _difference(path: Path, md5: str) -> str | None:
    """Describes a file whose MD5 is not `md5`."""
    found = calculate_md5(path)
    if found == md5:
        return None
    return f"{path.stat().st_size:,} bytes of MD5 {found}, expected {md5}"


def _unpack(archive: Archive, file: Path, tree: Path) -> None:
    if not hasattr(tarfile, "data_filter"):  # without it torchvision unpacks unsafe paths
        raise UserError(
            f"{file}: this Python can't refuse archives that write outside their folder; "
            "expected 3.10.12, 3.11.4 or newer. Update Python, or unpack the archive by hand: "
            f"tar -xf {file} -C {file.parent}"
        )
    with TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        console.print(f"unpacking {file} (minutes on a slow disk)")
        try:
            extract_archive(file, folder)
            os.sync()  # the files before their final name
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
            raise UserError(
                f"{file}: could not be unpacked ({type(error).__name__}: {error}); nothing "
                "was kept. Check the free space; if the archive is damaged, delete it and run this "
                "again."
            ) from error
        unpacked = Path(folder) / archive.tree
        if missing := _missing_files(unpacked, archive):
            raise UserError(
                f"{file}: its {archive.tree} has {missing}; nothing was kept. Expected the archive "
                "that the owner publishes: delete this one and run this again."
            )
        _move(unpacked, tree)


def _move(source: Path, target: Path) -> None:
    """Rename a tree; merge it into an existing one file by file, which keeps other files there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.copytree(source, target, copy_function=os.replace, dirs_exist_ok=True)
    else:
        source.replace(target)
