"""Convert one image of an export: copy it, and write its mask."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from segcoord.data.annotations.mask_values import mask_indices
from segcoord.data.annotations.rasterize import UNLABELLED, draw_shapes
from segcoord.data.annotations.records import Annotation, MaskFile, Record
from segcoord.data.file_pattern import IMAGE_SUFFIXES
from segcoord.data.image_io import Header, decode_image, histogram, read_header, read_image
from segcoord.data.orientation import swaps_axes, upright
from segcoord.utils.errors import UserError

IMAGES, MASKS = "JPEGImages", "SegmentationClass"
TURNED = "photos turned upright, as their EXIF orientation says"
STORED = "photos whose annotation refers to the stored pixels, before the EXIF orientation"
_JPEG = [  # of turned photos
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]
_COMPRESSION = {"compress_level": 1, "compress_type": 3}  # run lengths: fast, and small for masks
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp"}


@dataclass(frozen=True)
class Job:
    """What the conversion of each image needs; it is sent to other processes."""

    annotation: Callable[[Record, tuple[int, int]], Annotation]
    image: Callable[[Record], bytes] | None
    rewrites_images: bool
    """Whether `image` gives the bytes of plain image files too."""
    folder: Path
    """The dataset to write."""
    indices: Mapping[str, int]
    """Class index of each class of the export."""
    unlabelled: int
    """Mask value of unlabelled pixels."""
    overlap: str | None
    palette: bytes
    """256 RGB colors."""
    link: bool
    """Whether to hard-link images instead of copying them."""


class Converted(NamedTuple):
    """What was written for an image."""

    name: str
    image: str
    """File below the folder of images."""
    size: tuple[int, int]
    pixels: dict[int, int]
    """Number of pixels by mask value; unlabelled ones are those of `UNLABELLED`."""
    counts: dict[str, int]
    """What was left out, cut or decided, by its description."""
    digest: str
    """SHA-1 of the image file, in hexadecimal."""


def convert(job: Job, record: Record) -> Converted | UserError:
    """Write the image and the mask of a record; the error, if it can't be used, is returned."""
    try:
        return _convert(job, record)
    except UserError as error:
        if error.path is None:
            return UserError(
                error.found,
                path=record.where,
                remedy=error.remedy,
                kind=error.kind or "annotations",
            )
        return error


def _convert(job: Job, record: Record) -> Converted:
    counts: Counter[str] = Counter()
    plain = record.image.suffix.lower() in IMAGE_SUFFIXES and not job.rewrites_images
    embedded = job.image is not None and not plain
    target = job.folder / IMAGES / f"{record.name}{record.image.suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    if embedded:
        target, header = _write_embedded(job.image(record), target, record)
        source = target
    else:
        source = record.image
        header = _checked_header(source)
    try:
        label = _label_map(job, record, header, counts)
    except UserError:
        if embedded:
            target.unlink()
        raise
    raw = source.read_bytes()
    digest = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    if _is_turned(header):
        counts[TURNED] += 1
        turned = _write_turned(source, target)
        if embedded and turned != target:
            target.unlink()
        target = turned
    elif not embedded:
        _put(source, raw, target, job.link)
    pixels = histogram(label)
    if pixels[UNLABELLED] and job.unlabelled != UNLABELLED:
        table = np.arange(256, dtype=np.uint8)
        table[UNLABELLED] = job.unlabelled
        label = cv2.LUT(label, table)
    mask = job.folder / MASKS / f"{record.name}.png"
    mask.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(label)
    image.putpalette(job.palette)
    image.save(mask, "PNG", **_COMPRESSION)
    return Converted(
        record.name,
        target.relative_to(job.folder / IMAGES).as_posix(),
        label.shape,
        {int(v): int(pixels[v]) for v in np.flatnonzero(pixels)},
        {reason: n for reason, n in counts.items() if n},
        digest,
    )


def _label_map(job: Job, record: Record, header: Header, counts: Counter[str]) -> np.ndarray:
    """(H, W) uint8 class indices of the upright image, `UNLABELLED` and 255."""
    size = header.size
    swapped = swaps_axes(header.orientation)
    stored = size[::-1] if swapped else size
    drawn = size
    if record.size is not None and tuple(record.size) != size:
        if tuple(record.size) != stored:
            raise _size_error(record, "annotation", record.size, size)
        drawn = stored
    if record.content is None:
        return np.full(size, UNLABELLED, np.uint8)
    annotation = job.annotation(record, drawn)
    if isinstance(annotation, MaskFile):
        label = mask_indices(annotation, job.indices)
        if label.shape not in (size, stored):
            raise _size_error(record, f"mask {annotation.path.name}", label.shape, size)
    else:
        label = draw_shapes(annotation, job.indices, drawn, job.overlap, counts)
    if label.shape != size:
        counts[STORED] += 1
        label = upright(label, header.orientation)
    return label


def _checked_header(path: Path) -> Header:
    """The header of an image; UserError if the image is missing, damaged or of another kind."""
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(
            f"an image of type {path.suffix or 'without suffix'}, expected "
            f"{', '.join(IMAGE_SUFFIXES)}.",
            path=path,
            remedy="Convert the images to PNG or JPEG, and name these in the annotation.",
            kind="images of another type",
        )
    header = read_header(path, exif="turn")
    if not header.complete:
        decode_image(path)
    return header


def _is_turned(header: Header) -> bool:
    return 2 <= header.orientation <= 8


def _write_embedded(content: bytes, target: Path, record: Record) -> tuple[Path, Header]:
    """Write the bytes of an embedded image; returns its path and header."""
    target.write_bytes(content)
    try:
        with Image.open(target) as image:
            suffix = _SUFFIXES.get(image.format)
        header = read_header(target, exif="turn")
        if not header.complete:
            decode_image(target)
    except (UserError, OSError) as error:
        target.unlink()
        found = error.found if isinstance(error, UserError) else "it has no known format."
        raise UserError(
            f"the embedded image can't be used: {found}",
            path=record.where,
            remedy="Save the annotation again in the tool, or put the image file beside it.",
            kind="embedded images",
        ) from None
    if suffix is None:
        target.unlink()
        raise UserError(
            "the embedded image is neither JPEG, PNG, BMP nor WebP.",
            path=record.where,
            remedy="Put the image file beside the annotation.",
            kind="embedded images",
        )
    return target.replace(target.with_name(Path(record.name).name + suffix)), header


def _write_turned(source: Path, target: Path) -> Path:
    """Write the upright pixels: a JPEG of high quality for a JPEG, else a PNG."""
    pixels = read_image(source, exif="turn")
    is_jpeg = source.suffix.lower() in (".jpg", ".jpeg")
    target = target if is_jpeg else target.with_name(f"{target.name.rpartition('.')[0]}.png")
    settings = _JPEG if is_jpeg else []
    encoded = cv2.imencode(target.suffix.lower(), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), settings)
    target.write_bytes(encoded[1].tobytes())
    return target


def _put(source: Path, raw: bytes, target: Path, link: bool) -> None:
    """Copy a file, whose bytes are given, or link it."""
    target.unlink(missing_ok=True)  # it may be a link that an interrupted import made
    if not link:
        target.write_bytes(raw)
        return
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise UserError(
            f"can't be hard-linked to {target} ({error.strerror}).",
            path=source,
            remedy="Leave out --link to copy the images.",
            kind="images that can't be linked",
        ) from None


def _size_error(
    record: Record, what: str, found: tuple[int, ...], size: tuple[int, int]
) -> UserError:
    return UserError(
        f"the {what} is for {found[1]}x{found[0]} pixels (width x height), but its image "
        f"{record.image.name} has {size[1]}x{size[0]}.",
        path=record.where,
        remedy="Put the image there that was annotated. This happens where images were "
        "resized: Roboflow's resize step, uploads that Label Studio or CVAT received in a smaller "
        "size, or photos that were scaled after they were annotated in labelme.",
        kind="annotations of another size than their image",
    )
