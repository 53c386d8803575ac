"""Binary masks: mask images of two values, or the alpha channels of the images."""

import re
from collections import Counter
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from segcoord.data.annotations.names import name_without_images, require_unique, split_of
from segcoord.data.annotations.paired_masks import find_pairs, sample_pairs
from segcoord.data.annotations.records import (
    ClassName,
    Color,
    Export,
    Format,
    MaskFile,
    Record,
    Shape,
)
from segcoord.data.annotations.rings import crop_mask
from segcoord.data.file_pattern import IMAGE_SUFFIXES, list_files
from segcoord.data.image_io import check_image_depth, decode, has_transparency, open_image
from segcoord.data.labels import binary_labels
from segcoord.data.mask_palette import palette_reading
from segcoord.data.mask_reader import first_colors, read_stored_mask, value_counts
from segcoord.data.orientation import exif_orientation, upright
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

_TITLE = "binary masks"
_BACKGROUND, _FOREGROUND = "background", "foreground"
_NAMES = (_BACKGROUND, _FOREGROUND)
_CLASSES = (ClassName(_BACKGROUND, (0, 0, 0), 0), ClassName(_FOREGROUND, id=1))
_LABELS = binary_labels(_FOREGROUND, (255, 255, 255), colors_given=False)
_SAMPLED = 5  # images or masks that are decoded to recognize the format
_MAX_SEARCHED = 300_000
_OPAQUE = 128  # the smallest alpha of the foreground
# Files and folders of annotation tools and of other datasets.
_OTHER_SUFFIXES = {".json", ".jsonl", ".ndjson", ".xml", ".csv", ".yaml", ".yml"}
_OTHER_FILES = {"labelmap.txt", "label_colors.txt", "classes.txt", "objectinfo150.txt"}
_OTHER_FOLDERS = {
    *("jpegimages", "segmentationclass", "segmentationobject", "imagesets"),
    *("leftimg8bit", "gtfine"),
}
_LABEL_STUDIO = re.compile(r"task-\d+-annotation-\d+-")


def recognize(root: Path) -> str | None:
    """Image files only, with masks of two values or with alpha channels."""
    if _has_other_files(root):
        return None
    pairs = sample_pairs(root, _SAMPLED)
    if not pairs:
        return "images whose alpha channel is their mask" if _alpha_images(root) else None
    values: set[int | Color] = set()
    try:
        for _, mask in pairs:
            values.update(_names(mask))
    except UserError:
        return None
    return "images with masks of two values" if len(values) == 2 else None


def read(root: Path) -> Export:
    """Read the images with their masks, or else those with an alpha channel.

    In a mask, 0 or black is background, and the other value or color is foreground. Alpha of 128 or
    more is foreground; the images are then imported without it.

    Raises:
        UserError: no images and masks that pair, a duplicate stem, images that hold one color where
            they are transparent.
    """
    if not sample_pairs(root, 1) and (images := _alpha_images(root)):
        return _read_alpha(root, images)
    skipped: Counter[str] = Counter()
    records = find_pairs(root, skipped)
    require_unique(records)
    return Export(
        format=_TITLE,
        records=records,
        classes=_CLASSES,
        annotation=_mask_annotation,
        background=_BACKGROUND,
        skipped=skipped,
    )


def _mask_annotation(record: Record, size: tuple[int, int]) -> MaskFile:
    return MaskFile(record.content, _names(record.content))


def _names(path: Path) -> dict[int, str] | dict[Color, str]:
    """Background or foreground for each value, palette index or color of a mask.

    Raises:
        UserError: more than two of them, or two of which none is 0 or black; an unreadable mask.
    """
    mask = read_stored_mask(path)
    if mask.is_color:
        found = first_colors(mask.pixels.reshape(-1, 3))
        names = {color: _NAMES[color != (0, 0, 0)] for color in found}
    else:
        found = np.flatnonzero(value_counts(mask.pixels)).tolist()
        table = _LABELS.table(1 << 16)
        if mask.palette is not None and len(found) <= 2:
            table = palette_reading(path, mask.pixels, mask.palette, _LABELS).table
        names = {value: _NAMES[table[value]] for value in found}
    if len(found) > 2 or (len(found) == 2 and _BACKGROUND not in names.values()):
        raise UserError(
            f"found the values {join_first(found, 6)}, expected 0 or black for the background, and "
            "one other.",
            path=path,
            remedy="Masks with soft edges become binary with segcoord data ids --threshold; masks "
            "of several classes need their names.",
            kind="masks of more than two values",
        )
    return names


def _read_alpha(root: Path, images: list[str]) -> Export:
    _require_photos(root, images)
    records = []
    for file in images:
        path, relative = root / file, PurePosixPath(file)
        opaque = not has_transparency(path)
        records.append(
            Record(
                name=name_without_images(relative),
                image=path,
                content=None if opaque else path,
                where=f"{path}: alpha channel",
                split=split_of(relative),
            )
        )
    require_unique(records)
    return Export(
        format="images with alpha channels",
        records=records,
        classes=_CLASSES,
        annotation=_alpha_annotation,
        image=_image_without_alpha,
        background=_BACKGROUND,
        rewrites_images=True,
    )


def _alpha_annotation(record: Record, size: tuple[int, int]) -> list[Shape]:
    part = crop_mask(_read_rgba(record.image)[..., 3] >= _OPAQUE)
    return [Shape(_FOREGROUND, mask=part[0], offset=part[1])] if part else []


def _image_without_alpha(record: Record) -> bytes:
    """The colors of an image as a PNG, also where it is transparent."""
    bgr = cv2.cvtColor(_read_rgba(record.image), cv2.COLOR_RGBA2BGR)
    return cv2.imencode(".png", bgr)[1].tobytes()


def _read_rgba(path: Path) -> np.ndarray:
    """(H, W, 4) uint8, upright."""
    raw, header = open_image(path)
    check_image_depth(path, header, raw)
    orientation = exif_orientation(header)
    return upright(np.array(decode(path, raw, header).convert("RGBA")), orientation)


def _alpha_images(root: Path) -> list[str]:
    """The image files below the root, if all that are looked at have an alpha channel.

    Empty if one has none, or if no alpha channel tells a foreground from a background.
    """
    files = [f for f in list_files(root) if Path(f).suffix.lower() in IMAGE_SUFFIXES]
    two_values = False
    for file in _sample(files):
        if not has_transparency(root / file):
            return []
        try:
            foreground = _read_rgba(root / file)[..., 3] >= _OPAQUE
        except UserError:
            return []
        two_values |= bool(foreground.any() and not foreground.all())
    return files if two_values else []


def _require_photos(root: Path, images: list[str]) -> None:
    """Raise UserError if the transparent pixels of the images hold no photo."""
    one_color = []
    for file in _sample(images):
        pixels = _read_rgba(root / file)
        hidden = pixels[pixels[..., 3] < _OPAQUE][:, :3]
        if len(hidden):
            one_color.append(bool((hidden == hidden[0]).all()))
    if one_color and all(one_color):
        raise UserError(
            "the images hold one color where they are transparent, so the photos around the "
            "objects are gone, and a model would learn that color.",
            path=root / images[0],
            remedy="Import the original photos, with masks as files of their own.",
        )


def _sample(files: list[str]) -> list[str]:
    return files[:: max(1, len(files) // _SAMPLED)][:_SAMPLED]


def _has_other_files(root: Path) -> bool:
    """Whether there are files or folders of an annotation tool or of another dataset."""
    for file in list_files(root, limit=_MAX_SEARCHED):
        path = PurePosixPath(file)
        name = path.name.lower()
        if path.suffix.lower() in _OTHER_SUFFIXES or name in _OTHER_FILES:
            return True
        folders = {part.lower() for part in path.parts[:-1]}
        yolo = "labels" in folders and name.endswith(".txt")
        if yolo or folders & _OTHER_FOLDERS or _LABEL_STUDIO.match(path.name):
            return True
    return False


FORMAT = Format("binary-masks", _TITLE, recognize, read)
