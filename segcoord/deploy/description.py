"""TODO."""

from __future__ import annotations

from pathlib import Path

from segcoord.inference.exported import DESCRIPTION, FORMAT, _checksum
from segcoord.utils.files import write_json


def describe(folder: Path, description: dict) -> None:
    """Writes segcoord.json, with size and checksum of every file that lies there."""
    files = {
        p.name: {"bytes": p.stat().st_size, "sha256": _checksum(p)}
        for p in sorted(folder.iterdir())
    }
    content = {"format": FORMAT, **description, "files": files}
    write_json(folder / DESCRIPTION, content)
