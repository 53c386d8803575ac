"""One image in, one mask out; no dataset, no trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from segcoord.inference.fast_argmax import predict_classes
from segcoord.inference.photo import read_photo
from segcoord.inference.tta import ViewLogits, average_classes, average_probabilities, predict_views
from segcoord.inference.views import Views
from segcoord.models.segmentation import SegmentationModel

SINGLE_VIEW = Views()


@torch.inference_mode()
def predict(
    model: SegmentationModel, image: np.ndarray | str | Path, views: Views = SINGLE_VIEW
) -> np.ndarray:
    """The most likely class of every pixel, at the image's own size.

    Args:
        model: from `create_model` or `load`; it is put in eval mode for the call.
        image: (H, W, 3) uint8 RGB, or the path of a photo of any kind, which is then turned upright
            by its EXIF orientation; `segcoord.photos` has how it is read.
        views: scales, flip and tiles, over which the probabilities are averaged; by default the
            whole image is looked at once.

    Returns:
        (H, W) uint8 class indices.

    Raises:
        ValueError: an array of another shape or dtype, or no array.
        UserError: a file that can't be read.
    """
    image = _pixels(image)
    with _eval_mode(model):
        return _classes(model, image, predict_views(model, image, views), views)


@torch.inference_mode()
def predict_probabilities(
    model: SegmentationModel, image: np.ndarray | str | Path, views: Views = SINGLE_VIEW
) -> tuple[np.ndarray, np.ndarray]:
    """As `predict`, with the probability of each class at every pixel.

    Args:
        model, image, views: as of `predict`.

    Returns:
        (H, W) uint8, what `predict` returns; (K, H, W) float16, softmax probabilities, averaged in
        float32 over the views. Rounded to float16, several may be equal where the former differ.
    """
    image = _pixels(image)
    with _eval_mode(model):
        looks = predict_views(model, image, views)
        probabilities = average_probabilities(looks, image.shape[:2])
        return _classes(model, image, looks, views), probabilities.numpy()


def _pixels(image: np.ndarray | str | Path) -> np.ndarray:
    if isinstance(image, (str, Path)):
        image = read_photo(Path(image)).pixels
    if not isinstance(image, np.ndarray):
        raise ValueError(f"expected (H, W, 3) uint8 RGB or a path, found {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"expected (H, W, 3) uint8 RGB, found {image.shape} {image.dtype}")
    return image


@contextmanager
def _eval_mode(model: SegmentationModel) -> Iterator[None]:
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _classes(
    model: SegmentationModel, image: np.ndarray, looks: list[ViewLogits], views: Views
) -> np.ndarray:
    """(H, W) uint8 of what was seen of an image."""
    size = image.shape[:2]
    if views.scales != (1.0,) or len(looks) > 1 or len(looks[0]) > 1:
        return average_classes(looks, size).cpu().numpy()
    logits = looks[0][0].logits.unsqueeze(0)  # (1, K, h, w)
    return predict_classes(logits, model.padded_size(*size), size)[0].cpu().numpy()
