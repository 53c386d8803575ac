"""Atomic writes of files and folders, append-only files, and checks before writing."""

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
    """Yield a temporary path in the same folder; on success fsync it and rename it to `path`.

    Args:
        path: file to write.
        suffix: suffix of the temporary path, for writers that choose the format by it.

    Raises:
        UserError: the folder can't be created or written, or the disk is full.
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
        "Check the folder's permissions and the free space, or choose another folder."
    )


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success fsync its files and rename it to `path`.

    Raises:
        UserError: `path` exists and is not an empty folder, or can't be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path}: exists and is not empty; name another folder, or remove it")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        temporary.chmod(0o755)
        yield temporary
        for file in filter(Path.is_file, temporary.iterdir()):
            with file.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


class AppendOnlyFile:
    """Append-only file; data of failed writes is buffered and retried.

    Args:
        path: created by the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pending = b""

    def add(self, data: bytes) -> None:
        """Append the buffered data and `data`, all or nothing.

        Raises:
            OSError: the write failed; the file is unchanged and the next call retries.
        """
        self.pending += data
        with self.path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            rest = memoryview(self.pending)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(size)
                raise
        self.pending = b""


def require_writable_path(path: Path, *, folder: bool = False) -> None:
    """Check that an output can be written, before the work that computes it.

    Args:
        path: output file or folder; it need not exist yet.
        folder: whether `path` is a folder.

    Raises:
        UserError: `path` is a folder but should be a file, or can't be created.
    """
    if not folder and path.is_dir():
        raise UserError(f"{path}: is a folder, expected a file")
    parent = path if folder else path.parent
    parent = next(p for p in (parent, *parent.parents) if os.access(p, os.F_OK))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        reason = "is not writable" if parent.is_dir() else "is not a folder"
        raise UserError(f"{path}: can't be written: {parent} {reason}. Choose another folder.")


def require_space(folder: Path, needed: int, what: str) -> None:
    """Check the free disk space before writing something large.

    Args:
        folder: output folder; it need not exist yet.
        needed: bytes.
        what: name of the output, for the message.

    Raises:
        UserError: less than `needed` is free.
    """
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    if free < needed:
        raise UserError(
            f"{folder}: found {decimal(free)} of free disk space, expected {decimal(needed)} for "
            f"{what}. Free some space, or choose another folder."
        )
