"""The geometry of augmentation: scale, crop and flip are drawn first, then only the crop is read.

To scale a whole image and throw most of it away is what costs; here the pixels of the crop are
computed alone, at the places where they lie in the scaled image. OpenCV's convention gives these
places: the center of pixel x of a scaled image lies at (x + 0.5) * length / scaled_length - 0.5.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from segcoord.data.labels import VOID

Pixels = tuple[np.ndarray, np.ndarray]
"""(P,) rows and (P,) columns of pixels of an image, P at least 1."""


@dataclass(frozen=True)
class Window:
    """One draw.

    Args:
        scaled: (H, W) that the whole image would be scaled to.
        top, left: where the crop begins in the scaled image; below 0 where it begins before it.
        flip: mirror the crop.
    """

    scaled: tuple[int, int]
    top: int
    left: int
    flip: bool


def draw_window(
    size: tuple[int, int],
    crop: tuple[int, int],
    scale: tuple[float, float],
    flip: bool,
    rng: np.random.Generator,
    pixels: Pixels | None = None,
) -> Window:
    """Draws as albumentations' RandomScale, RandomCrop (padding at random) and HorizontalFlip do.

    Args:
        size: (H, W) of the image.
        crop: (h, w) of the crop.
        scale: smallest and largest factor, drawn uniformly.
        flip: whether half of the crops are mirrored.
        rng: what the draw depends on.
        pixels: the crop contains one of them, drawn uniformly among those that the scaled mask has;
            None for a crop anywhere.
    """
    factor = rng.uniform(*scale)
    scaled = (int(size[0] * factor), int(size[1] * factor))
    # Every place that fits is as likely: of the crop in the image, or of the image in the crop.
    rooms = [length - part for length, part in zip(scaled, crop)]
    bounds = [(min(0, room), max(0, room)) for room in rooms]
    if pixels is not None:
        pixel = _draw_pixel(pixels, size, scaled, rng)
        bounds = [
            (max(low, at - part + 1), min(high, at))
            for (low, high), at, part in zip(bounds, pixel, crop)
        ]
    top, left = (int(rng.integers(low, high, endpoint=True)) for low, high in bounds)
    return Window(scaled, top, left, bool(rng.random() < 0.5 and flip))


def _draw_pixel(
    pixels: Pixels,
    size: tuple[int, int],
    scaled: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[int, int]:
    """Draws one of the pixels; returns its row and column in the scaled mask.

    A smaller mask lacks rows and columns of the image. Where it has none of the pixels, the result
    is the place of one of them.
    """
    places, kept = [], True
    for at, length, scaled_length in zip(pixels, size, scaled):
        source = _nearest_source(length, scaled_length, 0, scaled_length)
        place = np.minimum(np.searchsorted(source, at), scaled_length - 1)
        places.append(place)
        kept = kept & (source[place] == at)
    candidates = np.flatnonzero(kept)
    one = rng.choice(candidates) if len(candidates) else rng.integers(len(kept))
    return int(places[0][one]), int(places[1][one])


class _Axis(NamedTuple):
    """Along rows or columns: which part of the crop the image covers, and from where it comes.

    Args:
        inside: part of the crop that the image covers.
        cut: part of the image that is needed.
        first, step: places in the cut of the pixel centers inside: first + i * step.
        nearest: (n,) integer places in the cut of the same pixels, for masks.
    """

    inside: slice
    cut: slice
    first: float
    step: float
    nearest: np.ndarray


def _nearest_source(length: int, scaled: int, start: int, stop: int) -> np.ndarray:
    """The pixels of the image that the centers of scaled pixels lie in, for start..stop."""
    # Of the image's phase: (x + 0.5) * step, but in integers.
    return (2 * np.arange(start, stop) + 1) * length // (2 * scaled)


def _axis(length: int, scaled: int, offset: int, crop: int) -> _Axis:
    start, stop = max(0, offset), min(scaled, offset + crop)  # in the scaled image
    step = length / scaled
    first, last = (start + 0.5) * step - 0.5, (stop - 0.5) * step - 0.5
    nearest = _nearest_source(length, scaled, start, stop)
    low = max(0, int(np.floor(first)))
    high = min(length, int(np.floor(last)) + 2)
    inside = slice(start - offset, stop - offset)
    return _Axis(inside, slice(low, high), first - low, step, nearest - low)


def crop_window(
    image: np.ndarray,
    mask: np.ndarray,
    window: Window,
    crop: tuple[int, int],
    fill: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Resamples the crop alone, the image bilinear and the mask nearest.

    The image differs from scaling it whole by `cv2.resize` (INTER_LINEAR) and cropping by one gray
    level at most, for rounding. The mask has the pixel that each center lies in, as by
    INTER_NEAREST_EXACT or in PIL, which only take the other neighbor where a center lies right
    between two; INTER_NEAREST would shift it by half a pixel of the crop against the image. No
    antialiasing on the way down, as there.

    Args:
        image: (H, W, 3) uint8; only the rows and columns of the crop are touched.
        mask: (H, W) uint8.
        window: the draw.
        crop: (h, w).
        fill: color where the image covers nothing of the crop; the mask is void there.

    Returns:
        image (h, w, 3) uint8 and mask (h, w) uint8, newly allocated.
    """
    rows = _axis(image.shape[0], window.scaled[0], window.top, crop[0])
    columns = _axis(image.shape[1], window.scaled[1], window.left, crop[1])
    if (len(rows.nearest), len(columns.nearest)) == window.scaled:  # all of it lies in the crop
        pixels = cv2.resize(image, window.scaled[::-1], interpolation=cv2.INTER_LINEAR)
    else:
        pixels = _bilinear(image[rows.cut, columns.cut], rows, columns)
    ids = _nearest(mask[rows.cut, columns.cut], rows, columns)
    if ids.shape != crop:
        sides = _uncovered(rows.inside, crop[0]) + _uncovered(columns.inside, crop[1])
        pixels = cv2.copyMakeBorder(pixels, *sides, cv2.BORDER_CONSTANT, value=fill)
        ids = cv2.copyMakeBorder(ids, *sides, cv2.BORDER_CONSTANT, value=VOID)
    if window.flip:
        pixels, ids = cv2.flip(pixels, 1), cv2.flip(ids, 1)
    return pixels, ids


def _uncovered(inside: slice, length: int) -> tuple[int, int]:
    """How much of a side of the crop lies before the image and behind it."""
    return inside.start, length - inside.stop


def _bilinear(cut: np.ndarray, rows: _Axis, columns: _Axis) -> np.ndarray:
    matrix = np.array([[columns.step, 0, columns.first], [0, rows.step, rows.first]])
    size = (len(columns.nearest), len(rows.nearest))
    # cv2.resize, twice as fast, can't begin between two pixels. warpAffine can, since OpenCV 5
    # without rounding places to 1/32 pixel, and with four channels in half the time of three.
    out = cv2.warpAffine(
        cv2.cvtColor(cut, cv2.COLOR_RGB2RGBA),
        matrix,
        size,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.cvtColor(out, cv2.COLOR_RGBA2RGB)


def _nearest(cut: np.ndarray, rows: _Axis, columns: _Axis) -> np.ndarray:
    # Whole rows are copied quickly and single pixels slowly, so of those as few as can be.
    if cut.shape[0] < len(rows.nearest):
        return cut.take(columns.nearest, axis=1, mode="clip").take(rows.nearest, axis=0)
    return cut[rows.nearest].take(columns.nearest, axis=1, mode="clip")
