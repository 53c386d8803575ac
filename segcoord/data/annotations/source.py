"""Open the folder or ZIP file of an export, and recognize its format."""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from segcoord.config.messages import did_you_mean
from segcoord.data.annotations.formats import FORMATS
from segcoord.data.annotations.records import Format
from segcoord.data.file_pattern import count_files, list_files
from segcoord.utils.errors import UserError
from segcoord.utils.files import require_space
from segcoord.utils.text import join_first

_SHOWN = 5
_IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini")
_RESERVE = 2**20  # bytes


@contextmanager
def opened_source(source: Path, temporary: Path) -> Iterator[Path]:
    """Yield the folder of an export; a ZIP file is unpacked into `temporary`, removed afterwards.

    Raises:
        UserError: neither a folder nor a ZIP file; a ZIP file that is damaged, encrypted, or has
            names that leave its folder.
    """
    if source.is_dir():
        yield source
        return
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; expected the export of a tool")
    if not zipfile.is_zipfile(source):
        what = (
            "an empty file" if not source.stat().st_size else f"a {source.suffix or 'plain'} file"
        )
        if source.suffix.lower() == ".zip":
            what = "a ZIP file that is cut short or damaged"
        raise UserError(
            f"{source}: found {what}, expected the folder of an export, or a ZIP file. Download it "
            "again, unpack other archives, and give the folder for a single JSON or XML file."
        )
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _unpack(source, temporary)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack(source: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(source) as archive:
            members = [m for m in archive.infolist() if _is_content(m)]
            for member in members:
                _check_member(source, member)
            needed = sum(m.file_size for m in members) + _RESERVE
            require_space(folder, needed, f"the content of {source.name}")
            for member in members:
                target = folder.joinpath(*member.filename.replace("\\", "/").split("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f"{source}: a damaged ZIP file ({error}). Download it again.") from None


def _is_content(member: zipfile.ZipInfo) -> bool:
    parts = member.filename.replace("\\", "/").split("/")
    return not (
        member.is_dir() or {*parts} & {*_IGNORED} or parts[-1].startswith("._") or not parts[-1]
    )


def _check_member(source: Path, member: zipfile.ZipInfo) -> None:
    """Raise UserError for a member that is not a plain file below the folder."""
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:", name):
        raise UserError(
            f"{source}: contains {member.filename!r}, which would leave the folder it is unpacked "
            "to. Nothing was unpacked: export it again, or remove this file from it."
        )
    mode = member.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise UserError(
            f"{source}: contains {member.filename!r}, a link or special file, expected plain "
            "files. Nothing was unpacked: unpack it yourself and give the folder."
        )
    if member.flag_bits & 1:
        raise UserError(
            f"{source}: {member.filename!r} is encrypted. Unpack it with its password and give the "
            "folder."
        )


def recognize(
    root: Path, name: str | None, formats: Sequence[Format] = FORMATS
) -> tuple[Path, Format, str]:
    """Find the format of an export.

    A folder that is not recognized and contains nothing but another folder stands for that one.

    Args:
        root: folder of the export.
        name: value of --format; None to accept the only format that recognizes the folder.
        formats: to choose from.

    Returns:
        The folder of the export, its format, and what was seen.

    Raises:
        UserError: no format, or several; an unknown name.
    """
    folders = _chain(root)
    if name is not None:
        names = [f.name for f in formats]
        if name not in names:
            hint = did_you_mean(name, names)
            raise UserError(f"--format: found {name!r}{hint}; expected one of {', '.join(names)}")
        chosen = formats[names.index(name)]
        for folder in folders:
            if seen := chosen.recognize(folder):
                return folder, chosen, seen
        return root, chosen, "--format"
    for folder in folders:
        found = [(f, seen) for f in formats if (seen := f.recognize(folder))]
        if len(found) > 1:
            raise UserError(
                f"{folder}: found several formats: "
                + "; ".join(f"{f.title} ({seen})" for f, seen in found)
                + f". Choose one with --format {' or --format '.join(f.name for f, _ in found)}."
            )
        if found:
            return folder, *found[0]
    files = list_files(folders[-1])
    raise UserError(
        f"{folders[-1]}: not an export that segcoord reads. Found "
        f"{count_files(folders[-1], files)}; the first files: "
        f"{join_first(files, _SHOWN) or 'none'}. Expected one of: "
        f"{', '.join(f'{f.title} ({f.name})' for f in formats)}. Choose one with --format to see "
        "what it lacks."
    )


def _chain(folder: Path) -> list[Path]:
    """A folder and those below it that are all that the one above contains."""
    chain = [folder]
    while True:
        inside = [p for p in chain[-1].iterdir() if p.name not in _IGNORED and p.name[0] != "."]
        if len(inside) != 1 or not inside[0].is_dir() or len(chain) > 8:
            return chain
        chain.append(inside[0])
