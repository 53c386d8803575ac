"""What a reader of an export format returns: the images, and the annotations of each.

Coordinates are continuous: the pixel in column x and row y covers [x, x + 1) x [y, y + 1). They
refer to the image as viewers show it, with its EXIF orientation applied, as annotation tools do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Shape:
    """One annotated region of a class, given by rings or by a mask."""

    label: str
    """Name of its class as the tool writes it."""
    rings: tuple[np.ndarray, ...] = ()
    """Each (N, 2) float64, x and y in pixels. A pixel is inside by the even-odd rule over all
    rings, so a ring within another is a hole. Rings may leave the image."""
    mask: np.ndarray | None = None
    """(h, w) bool, instead of rings."""
    offset: tuple[int, int] = (0, 0)
    """Column and row of the top left pixel of `mask` in the image."""
    stroke: float = 0.0
    """Width in pixels of a line along the rings, which are then open lines; 0 fills them."""
    order: int | None = None
    """Position in the tool's stack of shapes, larger is on top; None if the tool has none."""
    void: bool = False
    """Whether the region is to be ignored, for example a crowd; its label is not a class then."""


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask image, instead of shapes."""

    path: Path
    names: Mapping[int, str | None] | Mapping[Color, str | None]
    """Class name of each stored value, or of each RGB color; None is unlabelled. The keys are all
    integers or all colors. Colors apply to the colors of a palette too, integers to its indices."""


Annotation = Sequence[Shape] | MaskFile


@dataclass(frozen=True, slots=True)
class Record:
    """An image of an export. Records are sent to other processes, so they hold plain values."""

    name: str
    """Path below the image folder without suffix, with "/", unique in the dataset."""
    image: Path
    """The image file. For an image that is embedded in a JSON file, that file."""
    content: object
    """What the format's `annotation` needs: a path, or a part of a parsed file. None if the image
    has no annotation."""
    where: str
    """The file and key of the annotation, for messages."""
    size: tuple[int, int] | None = None
    """(height, width) that the export states, or None."""
    split: str | None = None
    """Name of the split that the export states, or None."""


@dataclass(frozen=True)
class ClassName:
    """A class as an export lists it."""

    name: str
    color: Color | None = None
    id: int | None = None
    """Number that the tool gives it, which orders the classes; it need not be consecutive."""


@dataclass(frozen=True)
class Export:
    """The content of an export.

    The format's `annotation(record, (height, width))` runs in another process and returns the
    annotation of one image; it raises UserError with the file and key for one that can't be read.
    """

    format: str
    """Name for messages, such as "CVAT for images 1.1"."""
    records: Sequence[Record]
    classes: Sequence[ClassName]
    """Every class that occurs or is listed, in the order of the tool."""
    annotation: Callable[[Record, tuple[int, int]], Annotation]
    image: Callable[[Record], bytes] | None = None
    """Reads the bytes of an image file that is embedded in another file; None for plain files."""
    background: str | None = None
    """Name of the class that stands for pixels without a shape, if the tool has one."""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many things were left out, by reason, such as "bounding boxes without a polygon"."""
    rewrites_images: bool = False
    """Whether `image` gives the bytes of plain image files too, for images whose alpha channel is
    their mask: a copy would show the mask to the network."""


@dataclass(frozen=True)
class Format:
    """A format that `segcoord data import` reads; each module of `formats` has one, FORMAT."""

    name: str
    """Value of --format: lower case letters, digits and hyphens."""
    title: str
    """Name for messages."""
    recognize: Callable[[Path], str | None]
    """Given the folder of an export, what was seen, such as "annotations.xml with <image>
    elements"; None if it is another format. Opens few files, and raises nothing for files of
    other formats. It must not accept what another format's module accepts."""
    read: Callable[[Path], Export]
    """Read the folder; raises UserError with the file, what was found and what was expected."""
