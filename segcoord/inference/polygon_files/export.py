"""The options of `segcoord predict --to`, and the files that it writes during a prediction."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jsonargparse import Namespace

from segcoord.data.labels import LabelClass, LabelSet
from segcoord.inference.inputs import POLYGONS, Source, printable
from segcoord.inference.polygon_files import coco, cvat, label_studio, labelme, yolo
from segcoord.inference.polygon_files.image_polygons import Add, ImagePolygons
from segcoord.inference.polygons import find_regions
from segcoord.utils.errors import UserError

FORMATS = {
    "coco": coco.FORMAT,
    "labelme": labelme.FORMAT,
    "cvat": cvat.FORMAT,
    "labelstudio": label_studio.FORMAT,
    "yolo": yolo.FORMAT,
}
"""By the value of --to."""
TOLERANCE = 1.0  # pixels


@dataclass(frozen=True)
class PolygonOptions:
    """What to write; `format` is a key of `FORMATS`, the others are those of `find_regions`."""

    format: str
    folder: Path
    tolerance: float
    min_area: int
    skipped: tuple[str, ...] | None  # class names; None for the background of binary segmentation

    def image_file(self, name: Path) -> Path | None:
        """The file of an image of this name, if the format has one for each image."""
        path_of = FORMATS[self.format].image_file
        return path_of and self.folder / path_of(name)

    def check_absent(self, sources: list[Source]) -> None:
        """Raises UserError if a file exists, because labels may have been corrected in it."""
        own = (self.image_file(source.name) for source in sources)
        for path in (*(self.folder / name for name in FORMATS[self.format].files), *own):
            if path is not None and path.exists():
                raise UserError(
                    f"{printable(path)}: exists, and may hold corrected labels. Remove it, or "
                    "choose another folder for --out."
                )

    def classes(self, labels: LabelSet) -> dict[int, LabelClass]:
        """The classes to write, by index; UserError for names that are no class."""
        skipped = self.skipped
        if skipped is None:
            skipped = labels.names[:1] if labels.binary else []
        unknown = [name for name in skipped if name not in labels.names]
        if unknown:
            raise UserError(
                f"--skip-classes: found {', '.join(map(repr, unknown))}, expected some of "
                f"{', '.join(labels.names)}"
            )
        classes = {i: c for i, c in enumerate(labels.classes) if c.name not in skipped}
        if not classes:
            raise UserError("--skip-classes: found all classes, expected at least one to remain")
        return classes


def polygon_options(args: Namespace, out: Path) -> PolygonOptions | None:
    """The options of a command; None without --to.

    Raises:
        UserError: an unknown format, a value out of range, or an option that needs --to.
    """
    given = {
        "--tolerance": args.tolerance,
        "--min-area": args.min_area,
        "--skip-classes": args.skip_classes,
    }
    if args.to is None:
        unused = [option for option, value in given.items() if value is not None]
        if unused:
            raise UserError(f"{unused[0]}: applies to polygons only; add --to, such as --to coco")
        return None
    if args.to not in FORMATS:
        raise UserError(f"--to: found {args.to!r}, expected one of {', '.join(FORMATS)}")
    tolerance = TOLERANCE if args.tolerance is None else args.tolerance
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UserError(f"--tolerance: found {tolerance:g}, expected 0 or more pixels")
    min_area = args.min_area or 0
    if min_area < 0:
        raise UserError(f"--min-area: found {min_area}, expected 0 or more pixels")
    skipped = None if args.skip_classes is None else tuple(args.skip_classes)
    return PolygonOptions(args.to, out / POLYGONS / args.to, tolerance, min_area, skipped)


class PolygonExport:
    """Writes the polygons of predicted images; a context manager.

    The files for all images appear when the context is left without an exception, if an image was
    added.

    Args:
        options: of the command.
        labels: the model's classes.
        model: its name, for formats that store it.

    Attributes:
        regions: number of written regions.
        dropped: number of regions that were too small.

    Raises:
        UserError: a class to skip is no class of the model, or a file can't be written.
    """

    def __init__(self, options: PolygonOptions, labels: LabelSet, model: str) -> None:
        self.options, self.model = options, model
        self.classes = options.classes(labels)
        self.regions = self.dropped = 0
        self._skipped = frozenset(range(len(labels))) - self.classes.keys()
        self._stack = ExitStack()
        self._add: Add | None = None

    def __enter__(self) -> PolygonExport:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.__exit__(*exception)

    def find(
        self, source: Source, classes: np.ndarray, probabilities: np.ndarray | None
    ) -> ImagePolygons:
        """The polygons of a mask (H, W) uint8; may run in a thread."""
        tolerance, min_area = self.options.tolerance, self.options.min_area
        found = find_regions(classes, tolerance, min_area, self._skipped, probabilities)
        return ImagePolygons(source.path, source.name, classes.shape, *found)

    def add(self, image: ImagePolygons) -> None:
        """Write the polygons of an image, in the order of the images."""
        if self._add is None:
            write = FORMATS[self.options.format].write
            folder = self.options.folder
            self._add = self._stack.enter_context(write(folder, self.classes, self.model))
        self._add(image)
        self.regions += len(image.regions)
        self.dropped += image.dropped

    def __str__(self) -> str:
        title = FORMATS[self.options.format].title
        text = f"{self.regions} regions in the format of {title}"
        if self.options.min_area:
            text += f"; {self.dropped} of fewer than {self.options.min_area} pixels were dropped"
        return text
