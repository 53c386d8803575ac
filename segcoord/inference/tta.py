"""Test-time augmentation: scales, horizontal flip and overlapping tiles.

Each view of the image is predicted on its own. Its logits are upsampled bilinearly
(align_corners=False) from the network's stride to the image's size in one step, and averaged where
tiles overlap. The softmax probabilities of all views are then averaged, as in DeepLab
(tensorflow/models, deeplab/model.py: predict_labels_multi_scale) and mmsegmentation
(models/segmentors/seg_tta.py, slide_inference), which upsample in two steps. Images are scaled as
in training: bilinearly, without antialiasing.

Only the logits at the network's stride are kept. They are upsampled and averaged a few rows at a
time, because the logits of all pixels need 160 MB for 19 classes at 1024x2048.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from segcoord.inference.scales_and_tiles import Views, scaled_size
from segcoord.models.segmentation import SegmentationModel

BAND = 2**20  # logits upsampled at a time: a few megabytes, which fit in the cache
GPU_BAND = 2**26  # 256 MB: enough for one launch


@dataclass(frozen=True)
class _Interpolation:
    """Linear interpolation along one axis, for the n pixels of the image that a tile covers."""

    start: int
    stop: int
    low: Tensor  # (n,) int64 on the CPU, the logit before each pixel
    high: Tensor  # (n,) int64 on the CPU, the logit after it
    weight: Tensor  # (n,) float32 on the CPU, of the logit after it

    def crop(self, start: int, stop: int) -> _Interpolation | None:
        """Restrict it to a range of pixels; None if no pixel is left."""
        start, stop = max(start, self.start), min(stop, self.stop)
        if start >= stop:
            return None
        inside = slice(start - self.start, stop - self.start)
        return _Interpolation(start, stop, self.low[inside], self.high[inside], self.weight[inside])

    def on(self, device: torch.device, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """`low` and `high`, counted from the logit `first`, and `weight` on a device."""
        tensors = (self.low - first, self.high - first, self.weight)
        return tuple(tensor.to(device, non_blocking=True) for tensor in tensors)


@dataclass(frozen=True)
class _Tile:
    """The logits of a tile, (K, h, w) at the network's stride, and their place in the image."""

    logits: Tensor
    rows: _Interpolation
    columns: _Interpolation

    def upsampled(self, start: int, stop: int) -> tuple[slice, slice, Tensor] | None:
        """The tile's rows within a range: rows, columns, and logits (K, rows, columns)."""
        rows, columns = self.rows.crop(start, stop), self.columns
        if rows is None:
            return None
        first, last = int(rows.low[0]), int(rows.high[-1])
        x = self.logits[:, first : last + 1]  # (K, h', w)
        low, high, weight = columns.on(x.device)
        x = torch.lerp(x[:, :, low], x[:, :, high], weight)
        low, high, weight = rows.on(x.device, first)
        x = torch.lerp(x[:, low], x[:, high], weight[:, None])
        return slice(rows.start, rows.stop), slice(columns.start, columns.stop), x


ViewLogits = list[_Tile]
"""The tiles of one view of an image."""


def predict_views(model: SegmentationModel, image: np.ndarray, views: Views) -> list[ViewLogits]:
    """The network's logits of each view, at its stride.

    Args:
        model: in eval mode.
        image: (H, W, 3) uint8 RGB.
        views: scales, flip and tiles.
    """
    return [
        _predict_view(model, image, scale, flipped, views)
        for scale in views.scales
        for flipped in (False, True)[: 1 + views.flip]
    ]


def average_classes(view_logits: list[ViewLogits], size: tuple[int, int]) -> Tensor:
    """The class with the highest probability, averaged over the views, at every pixel.

    Args:
        view_logits: from `predict_views`. For a single view, the argmax of the logits is taken,
            since rounding can make probabilities equal where logits differ.
        size: (H, W) of the image.

    Returns:
        (H, W) uint8 on the model's device; the first class if several are equal.
    """
    classes = torch.empty(size, dtype=torch.uint8, device=view_logits[0][0].logits.device)
    for rows, bands in _bands(view_logits, size):
        total = bands[0] if len(bands) == 1 else sum(band.softmax(0) for band in bands)
        classes[rows] = total.max(0).indices  # three times as fast as argmax in this layout
    return classes


def average_probabilities(view_logits: list[ViewLogits], size: tuple[int, int]) -> Tensor:
    """The softmax probabilities at every pixel, averaged over the views in float32.

    Returns:
        (K, H, W) float16 on the CPU.
    """
    probabilities = torch.empty(len(view_logits[0][0].logits), *size, dtype=torch.float16)
    for rows, bands in _bands(view_logits, size):
        total = sum(band.softmax(0) for band in bands)
        probabilities[:, rows] = total.div_(len(bands)).half().cpu()
    return probabilities


def _bands(
    view_logits: list[ViewLogits], size: tuple[int, int]
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Ranges of rows of the image, with each view's logits (K, rows, W)."""
    height, width = size
    logits = view_logits[0][0].logits
    band = BAND if logits.device.type == "cpu" else GPU_BAND
    rows = max(1, band // (len(logits) * width))
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        yield slice(start, stop), [_band(tiles, start, stop, width) for tiles in view_logits]


def _predict_view(
    model: SegmentationModel, image: np.ndarray, scale: float, flipped: bool, views: Views
) -> ViewLogits:
    size = image.shape[:2]
    scaled = scaled_size(size, scale)
    pixels = image
    if scaled != size:
        pixels = cv2.resize(image, scaled[::-1], interpolation=cv2.INTER_LINEAR)
    if flipped:
        pixels = cv2.flip(pixels, 1)
    tiles = []
    for tile in views.tiles(scaled):
        # PyTorch warns of arrays that are not writable, as those of a memory-mapped pack.
        crop = torch.from_numpy(np.require(pixels[tile], requirements="CW")).unsqueeze(0)
        crop = crop.to(model.mean.device, non_blocking=True)
        logits = model.logits_at_stride(model.normalize(crop))[0].float()
        padded = model.padded_size(*crop.shape[1:3])
        rows, columns = (
            _interpolation(*lengths, flipped=flipped and axis == 1)
            for axis, lengths in enumerate(zip(size, scaled, tile, logits.shape[1:], padded))
        )
        if rows is not None and columns is not None:
            tiles.append(_Tile(logits.contiguous(), rows, columns))
    return tiles


def _interpolation(
    length: int,
    scaled: int,
    tile: slice,
    coarse: int,
    padded: int,
    *,
    flipped: bool,
) -> _Interpolation | None:
    """Interpolation from a tile's logits along one axis; None if it contains no pixel center.

    Args:
        length: of the image.
        scaled: length of the scaled image.
        tile: range of the tile in the scaled image.
        coarse: number of logits.
        padded: length of the network's input, which the logits cover.
        flipped: whether the scaled image was flipped along this axis.
    """
    centers = (np.arange(length) + 0.5) * (scaled / length)  # of the pixels, in the scaled image
    start, stop = np.searchsorted(centers, [tile.start, tile.stop]).tolist()
    if start == stop:
        return None
    position = (centers[start:stop] - tile.start) * (coarse / padded) - 0.5
    position = position.clip(0, coarse - 1)
    if flipped:
        start, stop, position = length - stop, length - start, position[::-1]
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, coarse - 1)
    weight = (position - low).astype(np.float32)
    return _Interpolation(start, stop, *map(torch.from_numpy, (low, high, weight)))


def _band(tiles: ViewLogits, start: int, stop: int, width: int) -> Tensor:
    """(K, stop - start, width): logits of a range of rows, averaged over tiles."""
    if len(tiles) == 1:
        return tiles[0].upsampled(start, stop)[2]
    logits = tiles[0].logits
    total = logits.new_zeros(len(logits), stop - start, width)
    count = logits.new_zeros(stop - start, width)
    for tile in tiles:
        upsampled = tile.upsampled(start, stop)
        if upsampled is not None:
            rows, columns, logits = upsampled
            rows = slice(rows.start - start, rows.stop - start)
            total[:, rows, columns] += logits
            count[rows, columns] += 1
    return total.div_(count)
