"""Writing so that nothing half-written is ever left under a final name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.filesize import decimal

from segcoord.utils.errors import UserError


@contextmanager
def atomic_write(path: str | Path, suffix: str = ".part") -> Iterator[Path]:
    """Yields a temporary path beside `path`; flushes it to disk and renames it when all went well.

    Args:
        path: to write.
        suffix: of the temporary path, for writers that go by it.

    Raises:
        UserError: the folder can't be made or written, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=suffix, dir=path.parent)
        os.fchmod(handle, 0o644)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: object) -> None:
    """Write JSON with `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: could not be written ({error.strerror or error}). "
        "Check the folder's permissions and the free space, or choose another place."
    )


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which gets that name when all went well.

    Raises:
        UserError: there is something already, or it can't be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: exists and is not empty; name another folder, or remove it")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        temporary.chmod(0o755)
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


class AppendOnlyFile:
    """A file that only grows, by whole pieces; what a full disk refuses waits in memory.

    Args:
        path: of the file; its first piece makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting = b""

    def add(self, piece: bytes) -> None:
        """Appends all that waits, and then this piece.

        Raises:
            OSError: not all of it could be written. The file is as it was, and the next call tries
                again.
        """
        self.waiting += piece
        with self.path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            left = memoryview(self.waiting)
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(before)
                raise
        self.waiting = b""


def require_writable_path(path: Path, *, folder: bool = False) -> None:
    """Checks that a file could be written, before the work whose result it holds.

    Args:
        path: of the file, or of a folder for several; neither need exist yet.
        folder: whether it is a folder.

    Raises:
        UserError: a folder where a file is meant, or no place where it could be made.
    """
    if not folder and path.is_dir():
        raise UserError(f"{path}: is a folder, expected the name of a file")
    place = path if folder else path.parent
    place = next(p for p in (place, *place.parents) if os.access(p, os.F_OK))
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "may not be written" if place.is_dir() else "is no folder"
        raise UserError(f"{path}: can't be written, for {place} {why}. Choose another place.")


def require_space(folder: Path, needed: int, what: str) -> None:
    """Checks the free space before something large is written.

    Args:
        folder: where it goes; it need not exist yet.
        needed: bytes.
        what: for the message.

    Raises:
        UserError: less is free.
    """
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    if free < needed:
        raise UserError(
            f"{folder}: {decimal(free)} are free, expected {decimal(needed)} for {what}. "
            "Make room, or choose another place."
        )
