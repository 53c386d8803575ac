"""Write predictions: masks as PNGs in the dataset's own format, probabilities as .npz."""

from pathlib import Path

import numpy as np
from PIL import Image

from segcoord.data.labels import LabelSet, voc_colors
from segcoord.data.mask_reader import StoredMask
from segcoord.utils.files import atomic_write


def mask_image(indices: np.ndarray, labels: LabelSet, palette: bool) -> Image.Image:
    """Convert class indices to an image of the dataset's mask values.

    Args:
        indices: (H, W) uint8 class indices, 255 for void.
        labels: map class indices to mask values.
        palette: True for a palette image, whose pixels are mask values displayed in the class
            colors (VOC); False for a gray image (Cityscapes label ids). Masks of binary
            segmentation, 0 and 255, and of ids above 255, in 16 bits, are always gray.
    """
    values = labels.to_value[indices]
    image = Image.fromarray(values)
    if palette and not labels.binary and values.dtype == np.uint8:
        colors = np.array(voc_colors(256), np.uint8)  # for values that belong to no class
        colors[labels.to_value[::-1]] = labels.colors[::-1]  # the last entry of a value wins
        image.putpalette(colors.ravel().tolist())
    return image


def write_mask(path: Path, indices: np.ndarray, labels: LabelSet, palette: bool) -> None:
    """Write class indices as a PNG of the dataset's mask values; arguments as in `mask_image`."""
    with atomic_write(path) as temporary:
        mask_image(indices, labels, palette).save(temporary, format="PNG")


def write_stored_mask(path: Path, mask: StoredMask) -> None:
    """Write the values, palette indices or colors of a mask as a PNG that is read as the same."""
    image = Image.fromarray(mask.pixels)
    if mask.palette is not None:
        image.putpalette(mask.palette.ravel().tolist())
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")


def resize_nearest(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, ...) pixels of any dtype to a size (H, W) by nearest neighbor."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(pixels.shape, size)
    )
    return pixels[rows[:, None], columns]


def write_probabilities(path: Path, probabilities: np.ndarray, labels: LabelSet) -> None:
    """Write a .npz with `probabilities` (K, H, W) float16 and the class `names` (K,)."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, probabilities=probabilities, names=np.array(labels.names))
