"""Classes of the pixels from several views of an image: other scales, mirrored, in tiles.

Each view is an image of its own to the network. Its logits are upsampled bilinearly
(align_corners=False) from their stride to the image's own size, in one step; where its tiles
overlap, their mean is taken; and the softmax probabilities of all views are averaged. So do DeepLab
(tensorflow/models, deeplab/model.py: predict_labels_multi_scale) and mmsegmentation
(models/segmentors/seg_tta.py, slide_inference), which upsample in two steps.

The images are scaled as those that the network was trained on: bilinearly, with no antialiasing.

What is kept of the views is their logits at the network's stride. They are upsampled and averaged
a few rows at a time, so that the memory needed does not depend on the number of classes times the
size of the image, which is 160 MB for 19 classes at 1024x2048.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from segcoord.inference.views import Views, scaled_size
from segcoord.models.segmentation import SegmentationModel

BAND = 2**20  # logits that are upsampled at a time: some megabytes, which stay in the cache


@dataclass(frozen=True)
class _Line:
    """Along rows or columns: which pixels of the image a tile covers, and what makes each of them.

    Args:
        start, stop: of the pixels.
        low, high: (stop - start,) int64, the coarse pixels before and behind each.
        share: (stop - start,) float32, of the one behind.
    """

    start: int
    stop: int
    low: Tensor
    high: Tensor
    share: Tensor

    def part(self, start: int, stop: int) -> _Line | None:
        """What lies between two pixels of the image; None where nothing does."""
        start, stop = max(start, self.start), min(stop, self.stop)
        if start >= stop:
            return None
        inside = slice(start - self.start, stop - self.start)
        return _Line(start, stop, self.low[inside], self.high[inside], self.share[inside])


@dataclass(frozen=True)
class _Tile:
    """The logits of a tile, (K, h, w) at the network's stride, and where they lie in the image."""

    logits: Tensor
    rows: _Line
    columns: _Line

    def upsampled(self, start: int, stop: int) -> tuple[slice, slice, Tensor] | None:
        """Rows and columns of the image, and their logits (K, rows, columns); see `_Line.part`."""
        rows, columns = self.rows.part(start, stop), self.columns
        if rows is None:
            return None
        first, last = int(rows.low[0]), int(rows.high[-1])
        x = self.logits[:, first : last + 1]  # (K, h', w): what the rows are made of
        x = torch.lerp(x[:, :, columns.low], x[:, :, columns.high], columns.share)
        x = torch.lerp(x[:, rows.low - first], x[:, rows.high - first], rows.share[:, None])
        return slice(rows.start, rows.stop), slice(columns.start, columns.stop), x


ViewLogits = list[_Tile]
"""What one view of an image gave."""


def predict_views(model: SegmentationModel, image: np.ndarray, views: Views) -> list[ViewLogits]:
    """The network's logits of each view, at its stride.

    Args:
        model: in eval mode.
        image: (H, W, 3) uint8 RGB.
        views: what to look at.
    """
    return [
        _predict_view(model, image, scale, mirrored, views)
        for scale in views.scales
        for mirrored in (False, True)[: 1 + views.flip]
    ]


def average_classes(looks: list[ViewLogits], size: tuple[int, int]) -> Tensor:
    """The class with the highest probability, averaged over the views, at every pixel.

    Args:
        looks: of `predict_views`. Of a single one the logits decide: its probabilities, which have
            the same order, might be equal where the logits differ.
        size: (H, W) of the image.

    Returns:
        (H, W) uint8 on the model's device, the first class where several are equal.
    """
    classes = torch.empty(size, dtype=torch.uint8, device=looks[0][0].logits.device)
    for rows, bands in _bands(looks, size):
        total = bands[0] if len(bands) == 1 else sum(band.softmax(0) for band in bands)
        classes[rows] = total.max(0).indices  # thrice as fast as argmax in this layout
    return classes


def average_probabilities(looks: list[ViewLogits], size: tuple[int, int]) -> Tensor:
    """The softmax probabilities of all views, averaged in float32, at every pixel.

    Returns:
        (K, H, W) float16 on the CPU.
    """
    found = torch.empty(len(looks[0][0].logits), *size, dtype=torch.float16)
    for rows, bands in _bands(looks, size):
        total = sum(band.softmax(0) for band in bands)
        found[:, rows] = total.div_(len(bands)).half().cpu()
    return found


def _bands(looks: list[ViewLogits], size: tuple[int, int]) -> Iterator[tuple[slice, list[Tensor]]]:
    """Some rows of the image, and each view's logits (K, rows, W) of them."""
    height, width = size
    rows = max(1, BAND // (len(looks[0][0].logits) * width))
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        yield slice(start, stop), [_band(tiles, start, stop, width) for tiles in looks]


def _predict_view(
    model: SegmentationModel, image: np.ndarray, scale: float, mirrored: bool, views: Views
) -> ViewLogits:
    size = image.shape[:2]
    scaled = scaled_size(size, scale)
    pixels = image
    if scaled != size:
        pixels = cv2.resize(image, scaled[::-1], interpolation=cv2.INTER_LINEAR)
    if mirrored:
        pixels = cv2.flip(pixels, 1)
    found = []
    for place in views.tiles(scaled):
        tile = torch.from_numpy(np.ascontiguousarray(pixels[place])).unsqueeze(0)
        logits = model.logits_at_stride(model.normalize(tile.to(model.mean.device)))[0].float()
        padded = model.padded_size(*tile.shape[1:3])
        rows, columns = (
            _line(*lengths, mirrored=mirrored and axis == 1, device=logits.device)
            for axis, lengths in enumerate(zip(size, scaled, place, logits.shape[1:], padded))
        )
        if rows is not None and columns is not None:
            found.append(_Tile(logits.contiguous(), rows, columns))
    return found


def _line(
    length: int,
    scaled: int,
    place: slice,
    coarse: int,
    padded: int,
    *,
    mirrored: bool,
    device: torch.device,
) -> _Line | None:
    """Along one axis; None where the tile lies between two pixels of the image.

    Args:
        length: of the image.
        scaled: of the scaled image.
        place: of the tile in that.
        coarse: of the tile's logits.
        padded: of what the network saw, which they stand for.
        mirrored: whether the scaled image was.
        device: of the logits.
    """
    centres = (np.arange(length) + 0.5) * (scaled / length)  # of the pixels, in the scaled image
    start, stop = np.searchsorted(centres, [place.start, place.stop]).tolist()
    if start == stop:
        return None
    among = (centres[start:stop] - place.start) * (coarse / padded) - 0.5
    among = among.clip(0, coarse - 1)
    if mirrored:
        start, stop, among = length - stop, length - start, among[::-1]
    low = np.floor(among).astype(np.int64)
    high = np.minimum(low + 1, coarse - 1)
    share = (among - low).astype(np.float32)
    return _Line(start, stop, *(torch.from_numpy(x).to(device) for x in (low, high, share)))


def _band(tiles: ViewLogits, start: int, stop: int, width: int) -> Tensor:
    """(K, stop - start, width): the logits of some rows of the image, averaged over tiles."""
    if len(tiles) == 1:
        return tiles[0].upsampled(start, stop)[2]
    logits = tiles[0].logits
    total = logits.new_zeros(len(logits), stop - start, width)
    count = logits.new_zeros(stop - start, width)
    for tile in tiles:
        found = tile.upsampled(start, stop)
        if found is not None:
            rows, columns, logits = found
            rows = slice(rows.start - start, rows.stop - start)
            total[:, rows, columns] += logits
            count[rows, columns] += 1
    return total.div_(count)
