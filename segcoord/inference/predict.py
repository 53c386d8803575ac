"""Predict the classes of an image."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segcoord.inference.fast_argmax import predict_classes
from segcoord.inference.photo import read_photo
from segcoord.inference.scales_and_tiles import Views
from segcoord.inference.strips import PhotoStrips
from segcoord.inference.tta import View, average_classes, average_probabilities, views_of
from segcoord.models.segmentation import SegmentationModel

SINGLE_VIEW = Views()


@torch.inference_mode()
def predict(
    model: SegmentationModel, image: np.ndarray | str | Path, views: Views = SINGLE_VIEW
) -> np.ndarray:
    """The most likely class of every pixel, at the image's own size.

    Args:
        model: from `create_model` or `load`; put in eval mode during the call.
        image: (H, W, 3) uint8 RGB, or the path of a photo, which is read by
            `segcoord.inference.photo.read_photo` and rotated by its EXIF orientation.
        views: scales, flip and tiles for test-time augmentation; by default the whole image once.

    Returns:
        (H, W) uint8 class indices.

    Raises:
        ValueError: the image is no array, or of another shape or dtype.
        UserError: the file can't be read.
    """
    return predict_on_device(model, _pixels(image), views).cpu().numpy()


@torch.inference_mode()
def predict_on_device(
    model: SegmentationModel, image: np.ndarray, views: Views = SINGLE_VIEW
) -> Tensor:
    """`predict` for an array, without waiting for a GPU: (H, W) uint8 on the model's device."""
    with _eval_mode(model):
        list_of_views = views_of(model, image, views)
        classes = _classes_of_one_tile(list_of_views)
        if classes is None:
            classes = average_classes(list_of_views)
        return classes


@torch.inference_mode()
def predict_probabilities(
    model: SegmentationModel, image: np.ndarray | str | Path, views: Views = SINGLE_VIEW
) -> tuple[np.ndarray, np.ndarray]:
    """`predict`, with the probability of each class at every pixel.

    Returns:
        (H, W) uint8 class indices, those of `predict`; (K, H, W) float16 softmax probabilities,
        averaged over the views in float32. Rounding to float16 can make the largest ones equal.
    """
    image = _pixels(image)
    with _eval_mode(model):
        list_of_views = views_of(model, image, views)
        exact = _classes_of_one_tile(list_of_views)
        classes, probabilities = average_probabilities(list_of_views, exact)
        return classes.cpu().numpy(), probabilities.numpy()


def _pixels(image: np.ndarray | PhotoStrips | str | Path) -> np.ndarray | PhotoStrips:
    if isinstance(image, (str, Path)):
        image = read_photo(Path(image)).pixels
    if not isinstance(image, (np.ndarray, PhotoStrips)):
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


def _classes_of_one_tile(views: list[View]) -> Tensor | None:
    """(H, W) uint8 for a single view of the image as it is, in a single tile; else None."""
    view = views[0]
    logits = view.whole() if len(views) == 1 and view.scale == 1.0 else None
    if logits is None:
        return None
    padded = view.model.padded_size(*view.size)
    return predict_classes(logits.unsqueeze(0), padded, view.size)[0]
