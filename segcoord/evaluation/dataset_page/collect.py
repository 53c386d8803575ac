"""Count the classes and sizes of splits, and make thumbnails of their images."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image

from segcoord.data.image_io import histogram
from segcoord.data.labels import VOID, LabelSet
from segcoord.data.split import Split
from segcoord.evaluation.embed import data_uri, palette_png
from segcoord.inference.visualize import reduced
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError
from segcoord.utils.threads import map_in_threads

THUMBNAIL = 256
"""Longest side of a thumbnail in pixels."""
_AHEAD = 16  # decoded images that wait


@dataclass(frozen=True)
class Thumbnail:
    """An image of the contact sheet."""

    name: str
    split: int
    """Index of its split."""
    size: tuple[int, int]
    """(width, height) of the image file."""
    shown_size: tuple[int, int]
    """(width, height) of the thumbnail."""
    classes: list[int]
    """Indices of the classes in its mask."""
    photo: str
    """Data URI."""
    mask: str | None
    """Data URI of the class colors, transparent where void; None without a mask."""


@dataclass
class SplitContent:
    """What a split contains; K is the number of classes."""

    name: str
    labelled: bool
    pixels: np.ndarray
    """(K,) int64 pixels of each class."""
    occurrences: np.ndarray
    """(K,) int64 images in which a class occurs."""
    void: int = 0
    """Void pixels."""
    images: int = 0
    """Number of images that could be read."""
    errors: list[str] = field(default_factory=list)
    """The messages for those that could not."""


@dataclass
class DatasetContent:
    """What the splits of a dataset contain."""

    labels: LabelSet
    splits: list[SplitContent] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Images of all splits by (width, height)."""
    thumbnails: list[Thumbnail] = field(default_factory=list)


def collect(
    splits: Sequence[Split], limit: int, on_progress: Callable[[int], None]
) -> DatasetContent:
    """Read every image and mask of the splits, in threads.

    Args:
        splits: of one dataset.
        limit: largest number of thumbnails; of more images, those with the smallest SHA-256 of
            their name are chosen, which is the same choice each time.
        on_progress: called with the number of images read.
    """
    labels = splits[0].labels
    content = DatasetContent(labels)
    chosen = _choose(splits, limit)
    done = 0
    for number, split in enumerate(splits):
        numbers = np.zeros((2, len(labels)), np.int64)
        part = SplitContent(split.name, split.labelled, *numbers)
        content.splits.append(part)
        look = partial(_look, split, number, chosen)
        for result in map_in_threads(look, range(len(split)), available_cores(), _AHEAD):
            done += 1
            on_progress(done)
            if isinstance(result, str):
                part.errors.append(result)
                continue
            counts, size, thumbnail = result
            part.images += 1
            part.pixels += counts[: len(labels)]
            part.occurrences += counts[: len(labels)] > 0
            part.void += int(counts[VOID])
            content.sizes[size] += 1
            if thumbnail is not None:
                content.thumbnails.append(thumbnail)
    return content


def _choose(splits: Sequence[Split], limit: int) -> set[tuple[int, int]]:
    """(split, index) of the images with a thumbnail."""
    all_images = [(n, i) for n, split in enumerate(splits) for i in range(len(split))]

    def digest(image: tuple[int, int]) -> bytes:
        number, index = image
        name = f"{splits[number].name}/{splits[number].samples[index].stem}"
        return hashlib.sha256(os.fsencode(name)).digest()

    if len(all_images) <= limit:
        return {*all_images}
    return {*sorted(all_images, key=digest)[:limit]}


def _look(
    split: Split, number: int, chosen: set[tuple[int, int]], index: int
) -> tuple[np.ndarray, tuple[int, int], Thumbnail | None] | str:
    """Pixels by class index, (width, height), and the thumbnail; or why it can't be read."""
    try:
        image, mask = split.read(index)
    except UserError as error:
        return str(error)
    counts = np.zeros(256, np.int64) if mask is None else histogram(mask)
    size = image.shape[1], image.shape[0]
    if (number, index) not in chosen:
        return counts, size, None
    small, indices = reduced(
        image, np.zeros(size[::-1], np.uint8) if mask is None else mask, THUMBNAIL
    )
    thumbnail = Thumbnail(
        split.samples[index].stem,
        number,
        size,
        (small.shape[1], small.shape[0]),
        np.flatnonzero(counts[: len(split.labels)]).tolist(),
        data_uri(Image.fromarray(small).save, "webp", quality=70),
        None if mask is None else palette_png(indices, split.labels.colors, VOID),
    )
    return counts, size, thumbnail
