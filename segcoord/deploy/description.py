"""Writes segcoord.json, the description of an exported folder; `inference.exported` reads it."""

from pathlib import Path

from segcoord.inference.exported import DESCRIPTION, FORMAT, _checksum
from segcoord.utils.files import write_json


def write_description(folder: Path, description: dict) -> None:
    """Writes segcoord.json, with the size and SHA-256 of every file in the folder."""
    files = {
        p.name: {"bytes": p.stat().st_size, "sha256": _checksum(p)}
        for p in sorted(folder.iterdir())
    }
    content = {"format": FORMAT, **description, "files": files}
    write_json(folder / DESCRIPTION, content)
