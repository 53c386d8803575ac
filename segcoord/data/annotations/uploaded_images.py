"""Find the image files that Label Studio's tasks refer to."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, unquote

from segcoord.data.annotations.image_lookup import ImageFiles, common_end
from segcoord.data.annotations.source_files import shown
from segcoord.data.file_pattern import nfc
from segcoord.utils.errors import UserError

_UPLOAD = re.compile("^[0-9a-f]{8}-")  # what an upload puts before a name
_NOT_IN_NAMES = re.compile(r"[^-\w.]")  # characters that an upload removes from a name
_ADDRESS = re.compile(r"[a-zA-Z][\w+.-]*://[^/?#]*(?P<path>[^?#]*)")
_LOCAL_FILES = "/data/local-files/?"


def path_parts(text: str, where: str) -> list[str]:
    """The parts of a path, of an address, or of Label Studio's address of a local file.

    Raises:
        UserError: it is no path to a file, or has "..".
    """
    path = text
    if _LOCAL_FILES in text:
        path = parse_qs(text.partition("?")[2]).get("d", [""])[0]
    elif match := _ADDRESS.match(text):
        path = unquote(match["path"])
    elif text.startswith("/"):
        path = unquote(text)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path:
        raise UserError(
            f"found the image {shown(text)}, expected a path to a file without '..'.", path=where
        )
    return parts


class UploadedImages:
    """The image files below a folder, by the names that they have in Label Studio."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, list[str]] = {}
        for path in ImageFiles(folder).paths:
            self._by_name.setdefault(_upload_name(path.rpartition("/")[2]), []).append(path)

    def find(self, parts: list[str], where: str) -> str | None:
        """The file whose path ends with the most of `parts`, relative to the folder.

        Args:
            parts: of `path_parts`; the last may begin with 8 hexadecimal digits and "-", which the
                file need not have.
            where: file and task, for messages.

        Raises:
            UserError: several files fit equally well.
        """
        for name in (parts[-1], _UPLOAD.sub("", parts[-1])):
            files = self._by_name.get(_upload_name(name), [])
            wanted = [nfc(part) for part in [*parts[:-1], name]]
            scores = [common_end(wanted, nfc(file).split("/")) for file in files]
            best = [file for file, score in zip(files, scores) if score == max(scores)]
            if len(best) > 1:
                raise UserError(
                    f"the image {'/'.join(parts)} may be {best[0]} or {best[1]} in {self.folder}.",
                    path=where,
                    remedy="Keep one of them there.",
                )
            if best:
                return best[0]
        return None


def _upload_name(name: str) -> str:
    """A file name as uploads store it, with the suffix in lower case."""
    stem, dot, suffix = nfc(name).strip().replace(" ", "_").rpartition(".")
    return _NOT_IN_NAMES.sub("", f"{stem}{dot}{suffix.lower()}")
