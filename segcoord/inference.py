"""One image in, one mask out; no dataset, no trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from segcoord.averaging import predict_averaged
from segcoord.data.reading import read_image
from segcoord.model import SegmentationModel
from segcoord.upsampling import predict_classes
from segcoord.views import Views

ONE_LOOK = Views()


@torch.inference_mode()
def predict(
    model: SegmentationModel, image: np.ndarray | str | Path, views: Views = ONE_LOOK
) -> np.ndarray:
    """The most likely class of every pixel, at the image's own size.

    Args:
        model: from `create_model` or `load`; it is put in eval mode for the call.
        image: (H, W, 3) uint8 RGB, or the path of a file.
        views: scales, flip and tiles, over which the probabilities are averaged; by default the
            whole image is looked at once.

    Returns:
        (H, W) uint8 class indices.

    Raises:
        ValueError: an array of another shape or dtype.
        UserError: a file that can't be read.
    """
    if isinstance(image, (str, Path)):
        image = read_image(Path(image))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"expected (H, W, 3) uint8 RGB, found {image.shape} {image.dtype}")
    training = model.training
    if training:
        model.eval()
    try:
        size = image.shape[:2]
        if views.scales != (1.0,) or views.flip or len(views.tiles(size)) > 1:
            return predict_averaged(model, image, views).cpu().numpy()
        batch = torch.from_numpy(np.ascontiguousarray(image)).unsqueeze(0)  # (1, H, W, 3)
        logits = model.logits_at_stride(model.normalize(batch.to(model.mean.device)))
        classes = predict_classes(logits, model.padded_size(*size), size)  # (1, H, W)
        return classes.squeeze(0).cpu().numpy()
    finally:
        if training:
            model.train()
