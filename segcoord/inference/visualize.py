"""Visualize masks: overlays, legends, and sheets of several images."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from segcoord.data.labels import VOID, LabelSet
from segcoord.utils.files import atomic_write
from segcoord.utils.fonts import load_font, warn_of_missing_fonts

PAPER, INK = (255, 255, 255), (32, 32, 32)


def blend(
    image: np.ndarray, indices: np.ndarray, labels: LabelSet, opacity: float = 0.6
) -> np.ndarray:
    """Blend class colors over the image, except where the mask is void.

    Args:
        image: (H, W, 3) uint8 RGB.
        indices: (H, W) uint8 class indices, 255 for void.
        labels: the classes' colors.
        opacity: of the colors, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    mixed = cv2.addWeighted(labels.colors[indices], opacity, image, 1 - opacity, 0)
    np.copyto(mixed, image, where=(indices == VOID)[..., None])
    return mixed


def legend(labels: LabelSet, shown: Sequence[int], width: int, size: int = 14) -> np.ndarray:
    """Draw a box in the color of each class in `shown`, with its name.

    Returns:
        (h, width, 3) uint8 RGB, as high as the lines need.
    """
    warn_of_missing_fonts(labels.names)
    entries, x, y = [], size // 2, size // 2
    for index in shown:
        name = labels.names[index]
        font = load_font(name, size)
        entry_width = round(1.6 * size + font.getlength(name) + size)
        if x > size and x + entry_width > width:
            x, y = size // 2, y + round(1.6 * size)
        entries.append((x, y, tuple(labels.classes[index].color), name, font))
        x += entry_width
    strip = Image.new("RGB", (width, y + round(1.7 * size)), PAPER)
    draw = ImageDraw.Draw(strip)
    for x, y, color, name, font in entries:
        draw.rectangle((x, y, x + size, y + size), fill=color, outline=INK)
        draw.text((x + round(1.5 * size), y + size / 2), name, INK, font, anchor="lm")
    return np.asarray(strip)


def overlay(image: np.ndarray, indices: np.ndarray, labels: LabelSet) -> np.ndarray:
    """The blend, with a legend of its classes below; as wide as the image."""
    shown = [i for i in np.unique(indices).tolist() if i != VOID]
    strip = legend(labels, shown, image.shape[1], max(11, image.shape[1] // 45))
    return np.concatenate([blend(image, indices, labels), strip])


def reduced(image: np.ndarray, indices: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image and its classes down to at most `longest` pixels on the longer side.

    Args:
        image: (H, W, 3) uint8 RGB.
        indices: (H, W) uint8 class indices.
        longest: length of the longer side.
    """
    factor = longest / max(indices.shape)
    if factor >= 1:
        return image, indices
    size = tuple(max(1, round(n * factor)) for n in indices.shape[::-1])
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image, cv2.resize(indices, size, interpolation=cv2.INTER_NEAREST_EXACT)


def sheet(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], labels: LabelSet, width: int = 360
) -> np.ndarray:
    """Draw rows of pictures under column titles, with a legend of all classes below.

    Args:
        rows: one (H, W, 3) uint8 picture per title in each row.
        titles: of the columns.
        labels: the classes of the legend.
        width: of a column, in pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    gap, size = 8, 16
    heights = [round(max(p.shape[0] / p.shape[1] for p in row) * width) for row in rows]
    total = gap + len(titles) * (width + gap)
    strip = legend(labels, range(len(labels)), total, size)
    top = 2 * size
    page = Image.new("RGB", (total, top + sum(heights) + gap * len(rows) + strip.shape[0]), PAPER)
    draw = ImageDraw.Draw(page)
    y = top
    for column, title in enumerate(titles):
        place = (gap + column * (width + gap), top / 2)
        draw.text(place, title, INK, load_font(title, size), anchor="lm")
    for row, height in zip(rows, heights):
        for column, picture in enumerate(row):
            scaled_height = round(picture.shape[0] / picture.shape[1] * width)
            scaled = Image.fromarray(picture).resize(
                (width, scaled_height), Image.Resampling.LANCZOS
            )
            page.paste(scaled, (gap + column * (width + gap), y))
        y += height + gap
    page.paste(Image.fromarray(strip), (0, y))
    return np.asarray(page)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as JPEG for .jpg and .jpeg, else as PNG."""
    kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
    with atomic_write(path) as temporary:
        # Pillow's default compress_level of 6 takes 4 times as long and saves an eighth.
        Image.fromarray(picture).save(temporary, format=kind, quality=92, compress_level=2)
