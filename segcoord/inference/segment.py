"""The function with which `segcoord predict` predicts an image: an exported file or a model."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse import Namespace

from segcoord.data.labels import LabelSet
from segcoord.inference.mask_file import open_mask_file
from segcoord.inference.scales_and_tiles import Views
from segcoord.inference.strips import PhotoStrips

Prediction = tuple[np.ndarray, np.ndarray | None]
"""(H, W) uint8 class indices, and (K, H, W) float16 probabilities or None."""

Segment = Callable[[np.ndarray | PhotoStrips, Views], Prediction]
"""Called with an image (H, W, 3) uint8 RGB and its views."""


class Opened(NamedTuple):
    """What predicts, its classes, and the metadata of its checkpoint."""

    segment: Segment
    labels: LabelSet
    checkpoint: dict


def open_segment(args: Namespace, views: Views) -> Opened:
    """Open a checkpoint or an exported folder for the options of `segcoord predict`.

    A folder with an image_to_mask file needs no PyTorch, except for images in tiles.

    Raises:
        UserError: the model can't be loaded on the device or with the runtime.
    """
    opened = None
    if not args.probs and views == Views() and args.device in ("auto", "cpu"):
        opened = open_mask_file(Path(args.checkpoint), args.runtime)
    if opened is None:
        return _open_model(args)
    predict_mask, content = opened
    model = cache(lambda: _open_model(args))

    def segment(image: np.ndarray | PhotoStrips, views: Views) -> Prediction:
        if views != Views():
            return model().segment(image, views)
        return predict_mask(image), None

    return Opened(segment, predict_mask.labels, content["checkpoint"])


def _open_model(args: Namespace) -> Opened:
    # These import PyTorch, which takes seconds.
    from segcoord.inference.load import accelerator_for, load_with_metadata
    from segcoord.inference.predict import predict, predict_probabilities
    from segcoord.utils.devices import find_device

    device = find_device(accelerator_for(args.checkpoint, args.device))
    model, checkpoint = load_with_metadata(args.checkpoint, device, runtime=args.runtime)

    def segment(image: np.ndarray | PhotoStrips, views: Views) -> Prediction:
        if args.probs:
            return predict_probabilities(model, image, views)
        return predict(model, image, views), None

    return Opened(segment, model.labels, checkpoint)
