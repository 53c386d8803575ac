"""What the writer of a format gets, and what describes a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from segcoord.data.labels import LabelClass
from segcoord.inference.inputs import printable
from segcoord.inference.polygons import Region


class ImagePolygons(NamedTuple):
    """The regions of an image, to write."""

    path: Path
    """The image file, as the user gave it."""
    name: Path
    """Relative path of its outputs without suffix."""
    size: tuple[int, int]
    """(H, W), upright."""
    regions: list[Region]
    dropped: int
    """Number of regions that were too small."""

    @property
    def file_name(self) -> str:
        """Relative path of the image, with "/" and its suffix."""
        return printable(self.name.with_name(self.path.name).as_posix())


Classes = Mapping[int, LabelClass]
"""The classes that are written, by class index, in order."""

Add = Callable[[ImagePolygons], None]
"""Writes the polygons of an image, or adds them to a file that is complete at the end."""


class PolygonFormat(NamedTuple):
    """A format of an annotation tool; each module has one, FORMAT."""

    title: str
    """Name for messages."""
    files: tuple[str, ...]
    """Paths of the files for all images, in the folder of the format."""
    image_file: Callable[[Path], Path] | None
    """Given `ImagePolygons.name`, the path of an image's own file in that folder."""
    write: Callable[[Path, Classes, str], AbstractContextManager[Add]]
    """Given the folder, the classes and the name of the model. The files for all images appear when
    the context is left without an exception. Raises UserError if a file can't be written."""
