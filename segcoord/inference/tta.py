"""Test-time augmentation: scales, horizontal flip and overlapping tiles.

Each view of the image is predicted on its own. Its logits are upsampled bilinearly
(align_corners=False) from the network's stride to the image's size in one step. Where tiles
overlap, their logits are averaged, weighted by the distance to the tile's edge, so that no tile
begins or ends abruptly. The softmax probabilities of all views are then averaged, as in DeepLab
(tensorflow/models, deeplab/model.py: predict_labels_multi_scale) and mmsegmentation
(models/segmentors/seg_tta.py), which upsample in two steps. Images are scaled as in training:
bilinearly, without antialiasing.

Only logits at the network's stride are kept, and only those of the tiles that the current rows of
the image need. They are upsampled and averaged a few rows at a time, because the logits of all
pixels need 160 MB for 19 classes at 1024x2048.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from segcoord.inference.scales_and_tiles import Views, scaled_size
from segcoord.models.segmentation import SegmentationModel

BAND = 2**20  # logits upsampled at a time: a few megabytes, which fit in the cache
GPU_BAND = 2**26  # 256 MB: enough for one launch
MIN_ROWS = 8  # of the image, upsampled at a time: fewer cost more than a full cache does


@dataclass(frozen=True)
class _Interpolation:
    """Linear interpolation along one axis, for the n pixels of the image that a tile covers.

    Its tensors are on the CPU, where their values are read without waiting for a GPU.
    """

    start: int
    stop: int
    low: Tensor  # (n,) int64, the logit before each pixel
    high: Tensor  # (n,) int64, the logit after it
    fraction: Tensor  # (n,) float32, how close the pixel is to the logit after it
    weight: Tensor  # (n,) float32, of this tile; those of all tiles sum to 1 at each pixel
    is_copy: bool  # True if each pixel is the next logit

    def crop(self, start: int, stop: int) -> _Interpolation:
        """Restrict it to those pixels of a range that the tile covers."""
        start, stop = max(start, self.start), min(stop, self.stop)
        inside = slice(start - self.start, stop - self.start)
        low, high, fraction = self.low[inside], self.high[inside], self.fraction[inside]
        return replace(
            self,
            start=start,
            stop=stop,
            low=low,
            high=high,
            fraction=fraction,
            weight=self.weight[inside],
        )

    def shifted(self, first: int) -> _Interpolation:
        """The same for logits without the first ones."""
        return replace(self, low=self.low - first, high=self.high - first)

    def columns(self, x: Tensor) -> Tensor:
        """(K, h, w) -> (K, h, n)."""
        if self.is_copy:
            return x[:, :, int(self.low[0]) : int(self.high[-1]) + 1]
        low, high, fraction = (_on(x, t) for t in (self.low, self.high, self.fraction))
        return torch.lerp(x[:, :, low], x[:, :, high], fraction)

    def rows(self, x: Tensor) -> Tensor:
        """(K, h, w) -> (K, n, w)."""
        if self.is_copy:
            return x[:, int(self.low[0]) : int(self.high[-1]) + 1]
        low, high, fraction = (_on(x, t) for t in (self.low, self.high, self.fraction))
        return torch.lerp(x[:, low], x[:, high], fraction[:, None])


def _on(x: Tensor, tensor: Tensor) -> Tensor:
    """Move a tensor to the device of `x`."""
    return tensor.to(x.device, non_blocking=True)


@dataclass(frozen=True)
class _Span:
    """The tiles of one row or column of the grid, along one axis."""

    tile: slice  # in the scaled image
    start: int  # of the pixels of the image whose centers are in the tile
    stop: int
    centers: np.ndarray  # (n,) float64, of these pixels, from the start of the tile
    weight: np.ndarray  # (n,) float32, of the tile

    @property
    def length(self) -> int:
        """Of the tile."""
        return self.tile.stop - self.tile.start

    def interpolation(self, coarse: int, padded: int) -> _Interpolation:
        """Interpolation from `coarse` logits, which cover the tile padded to `padded` pixels."""
        position = (self.centers * (coarse / padded) - 0.5).clip(0, coarse - 1)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, coarse - 1)
        fraction = (position - low).astype(np.float32)
        is_copy = not fraction.any() and bool((np.diff(low) == 1).all())
        high = low if is_copy else high
        tensors = map(torch.from_numpy, (low, high, fraction, self.weight))
        return _Interpolation(self.start, self.stop, *tensors, is_copy)


def _spans(length: int, scaled: int, tiles: list[slice], *, flipped: bool) -> list[_Span]:
    """The tiles along one axis that contain the center of a pixel.

    Args:
        length: of the image.
        scaled: length of the scaled image.
        tiles: ranges in the scaled image.
        flipped: whether the scaled image was flipped along this axis.
    """
    centers = (np.arange(length) + 0.5) * (scaled / length)  # of the pixels, in the scaled image
    ranges = [np.searchsorted(centers, [tile.start, tile.stop]).tolist() for tile in tiles]
    weights, total = [], np.zeros(length)
    for tile, (start, stop) in zip(tiles, ranges):
        weight = np.full(stop - start, float(scaled))  # the image's border is no edge of a tile
        if tile.start > 0:
            weight = np.minimum(weight, centers[start:stop] - tile.start)
        if tile.stop < scaled:
            weight = np.minimum(weight, tile.stop - centers[start:stop])
        weight = np.maximum(weight, 1e-3)  # at the edge itself, where another tile may be missing
        total[start:stop] += weight
        weights.append(weight)
    spans = []
    for tile, (start, stop), weight in zip(tiles, ranges, weights):
        weight = (weight / total[start:stop]).astype(np.float32)
        inside = centers[start:stop] - tile.start
        if flipped:
            start, stop, inside, weight = length - stop, length - start, inside[::-1], weight[::-1]
        if start < stop:
            spans.append(_Span(tile, start, stop, inside.copy(), weight.copy()))
    return spans


@dataclass
class _TileRow:
    """The logits of a row of tiles, each (K, h, w) at the network's stride."""

    tiles: list[Tensor]
    rows: _Interpolation
    columns: list[_Interpolation]

    def drop_before(self, start: int) -> None:
        """Free the logits that the image's rows from `start` don't need."""
        rows = self.rows.crop(start, self.rows.stop)
        first = int(rows.low[0])
        self.tiles = [logits[:, first:].clone() for logits in self.tiles]
        self.rows = rows.shifted(first)

    def upsampled(self, start: int, stop: int, width: int) -> tuple[_Interpolation, Tensor]:
        """The rows of a range that these tiles cover, and their logits (K, rows, width)."""
        rows = self.rows.crop(start, stop)
        first, last = int(rows.low[0]), int(rows.high[-1])
        rows = rows.shifted(first)
        tiles = [logits[:, first : last + 1] for logits in self.tiles]
        if len(tiles) == 1:
            return rows, rows.rows(self.columns[0].columns(tiles[0]))
        k, h = tiles[0].shape[:2]
        total = tiles[0].new_zeros(k, h, width)
        for columns, logits in zip(self.columns, tiles):
            part = total[:, :, columns.start : columns.stop]
            part.addcmul_(columns.columns(logits), _on(logits, columns.weight))
        return rows, rows.rows(total)


class View:
    """One view of an image, predicted from top to bottom, tile row by tile row.

    Args:
        model: in eval mode.
        image: (H, W, 3) uint8 RGB.
        scale: of the image, from `views`.
        flipped: whether to flip it.
        views: gives the tiles.
    """

    def __init__(
        self, model: SegmentationModel, image: np.ndarray, scale: float, flipped: bool, views: Views
    ) -> None:
        size = image.shape[:2]
        scaled = scaled_size(size, scale)
        if scaled != size:
            whole = np.asarray(image)
            image = cv2.resize(whole, scaled[::-1], interpolation=cv2.INTER_LINEAR)
        rows, columns = views.tiles(scaled)
        self.model, self.size, self.scale = model, size, scale
        self._image, self._flipped = image, flipped
        self._rows = _spans(size[0], scaled[0], rows, flipped=False)
        self._columns = _spans(size[1], scaled[1], columns, flipped=flipped)
        self._live: list[_TileRow] = []  # predicted and still needed

    def band(self, start: int, stop: int) -> Tensor:
        """(K, stop - start, W) logits of a range of rows; ranges must be ascending."""
        self._live = [row for row in self._live if row.rows.stop > start]
        while self._rows and self._rows[0].start < stop:
            for row in self._live:
                row.drop_before(start)
            self._live.append(self._predict_row(self._rows.pop(0)))
        parts = [row.upsampled(start, stop, self.size[1]) for row in self._live]
        if len(parts) == 1:
            return parts[0][1]
        logits = parts[0][1]
        total = logits.new_zeros(len(logits), stop - start, self.size[1])
        for rows, logits in parts:
            part = total[:, rows.start - start : rows.stop - start]
            part.addcmul_(logits, _on(logits, rows.weight)[:, None])
        return total

    def whole(self) -> Tensor | None:
        """(K, h, w) logits at the network's stride, if a single tile covers the image."""
        if len(self._rows) + len(self._live) > 1 or len(self._columns) > 1:
            return None
        if not self._live:
            self._live.append(self._predict_row(self._rows.pop()))
        return self._live[0].tiles[0]

    def _predict_row(self, span: _Span) -> _TileRow:
        tiles = [self._logits(span, columns) for columns in self._columns]
        padded = [self.model.padded_size(span.length, columns.length) for columns in self._columns]
        rows = span.interpolation(tiles[0].shape[1], padded[0][0])
        columns = [
            columns.interpolation(logits.shape[2], width)
            for columns, logits, (_, width) in zip(self._columns, tiles, padded)
        ]
        return _TileRow(tiles, rows, columns)

    def _logits(self, rows: _Span, columns: _Span) -> Tensor:
        model, tile = self.model, columns.tile
        if self._flipped:
            length = self._image.shape[1]
            crop = cv2.flip(self._image[rows.tile, length - tile.stop : length - tile.start], 1)
        else:
            crop = self._image[rows.tile, tile]
        # PyTorch warns of arrays that are not writable, as those of a memory-mapped pack.
        crop = np.require(crop, requirements="CW")
        batch = torch.from_numpy(crop).unsqueeze(0).to(model.mean.device, non_blocking=True)
        return model.logits_at_stride(model.normalize(batch))[0].float().contiguous()


def views_of(model: SegmentationModel, image: np.ndarray, views: Views) -> list[View]:
    """The views of an image.

    Args:
        model: in eval mode.
        image: (H, W, 3) uint8 RGB.
        views: scales, flip and tiles.
    """
    return [
        View(model, image, scale, flipped, views)
        for scale in views.scales
        for flipped in (False, True)[: 1 + views.flip]
    ]


def average_classes(views: list[View]) -> Tensor:
    """The class with the highest probability, averaged over the views, at every pixel.

    Args:
        views: from `views_of`, used once. For a single view, the argmax of the logits is taken,
            since rounding can make probabilities equal where logits differ.

    Returns:
        (H, W) uint8 on the model's device; the first class if several are equal.
    """
    classes = _empty_classes(views)
    for rows, bands in _bands(views):
        total = bands[0] if len(bands) == 1 else sum(band.softmax(0) for band in bands)
        classes[rows] = total.max(0).indices  # three times as fast as argmax in this layout
    return classes


def average_probabilities(
    views: list[View], classes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`average_classes`, with the softmax probabilities averaged over the views in float32.

    Args:
        views: from `views_of`, used once.
        classes: (H, W) uint8, returned as they are if they are known already.

    Returns:
        (H, W) uint8 classes on the model's device; (K, H, W) float16 probabilities on the CPU.
    """
    known = classes is not None
    classes = classes if known else _empty_classes(views)
    probabilities = torch.empty(len(views[0].model.labels), *classes.shape, dtype=torch.float16)
    for rows, bands in _bands(views):
        total = sum(band.softmax(0) for band in bands)
        if not known:
            classes[rows] = (bands[0] if len(bands) == 1 else total).max(0).indices
        probabilities[:, rows] = total.div_(len(bands)).half().cpu()
    return classes, probabilities


def _empty_classes(views: list[View]) -> Tensor:
    return torch.empty(views[0].size, dtype=torch.uint8, device=views[0].model.mean.device)


def _bands(views: list[View]) -> Iterator[tuple[slice, list[Tensor]]]:
    """Ranges of rows of the image, with each view's logits (K, rows, W)."""
    height, width = views[0].size
    model = views[0].model
    band = BAND if model.mean.device.type == "cpu" else GPU_BAND
    step = max(MIN_ROWS, band // (len(model.labels) * width))
    for start in range(0, height, step):
        stop = min(start + step, height)
        yield slice(start, stop), [view.band(start, stop) for view in views]
