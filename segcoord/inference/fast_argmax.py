"""The class of every pixel from a network's coarse logits, without upsampling every logit.

The reference is `F.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(1)` on
logits in channels_last; in another layout PyTorch rounds otherwise, and where two logits are all
but equal the other may win. The result is the same bit by bit, for these reasons:

- Between four neighbouring coarse pixels (a cell) an upsampled logit is a convex combination of the
  four. A class that another, or a mean of others, exceeds at all four wins nowhere in the cell. In
  most cells one class is left, and the cell is filled.
- `F.interpolate` rounds four products and three sums, so that it is off by at most 4 * 2**-24 of
  the largest logit. Where two classes differ by more than twice that, their order is safe, and it
  may be found by other arithmetic. `MARGIN` is twice the bound again.
- Where they differ by less, `F.interpolate` itself decides, on the coarse pixels around the cell.
  It computes the same there as on the whole map, since strides are powers of two, whose weights
  float32 holds exactly. The same holds for tiles of rows, which are faster where many classes
  compete in many cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 2.0**-20  # of the largest logit
SANE = (1e-30, 1e37)  # largest logits for which no product or sum leaves float32's normal range
CHUNK = 2**18  # values that are worked on at a time: some megabytes, which stay in the cache
TILE = 2**22  # logits of a tile of rows
_CHANNELS_LAST = torch.channels_last


@torch.no_grad()
def predict_classes(logits: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The class with the highest logit at every pixel, the first one where several are equal.

    Args:
        logits: (N, K, h, w), at the network's stride; K at most 256.
        padded: (H', W') that they are upsampled to.
        size: (H, W) of the image, which is the upper left part of that.

    Returns:
        (N, H, W) uint8, contiguous, on the device of the logits.

    Raises:
        ValueError: more classes than uint8 can tell apart.
    """
    k, h, w = logits.shape[1:]
    if k > 256:
        raise ValueError(f"{k} classes, expected at most 256, which uint8 holds")
    stride = padded[0] // h
    # On 3 channels and less PyTorch's kernel depends on the size, so that a part may differ.
    usual = logits.dtype == torch.float32 and logits.device.type == "cpu" and k > 3
    if not usual or padded != (h * stride, w * stride) or stride & (stride - 1):
        classes = _upsample(logits, padded).argmax(1).to(torch.uint8)
        return classes[:, : size[0], : size[1]].contiguous()
    out = torch.empty(len(logits), *size, dtype=torch.uint8)
    for image, result in zip(logits.split(1), out):
        classes = _by_cells(image[0], stride) if stride > 1 else None
        if classes is None:
            classes = _by_rows(image, stride)
        result.copy_(classes[: size[0], : size[1]])
    return out


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    logits = logits.contiguous(memory_format=_CHANNELS_LAST)
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _by_rows(logits: Tensor, stride: int) -> Tensor:
    """(1, K, h, w) -> (h * stride, w * stride) uint8: the reference, a tile of rows at a time."""
    k, h, w = logits.shape[1:]
    out = torch.empty(h * stride, w * stride, dtype=torch.uint8)
    rows = max(1, TILE // (k * stride * stride * w))
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        first, last = max(top - 1, 0), min(bottom + 1, h)  # the rows beside count in
        up = _upsample(logits[:, :, first:last], ((last - first) * stride, w * stride))
        up = up[0, :, (top - first) * stride : (bottom - first) * stride]
        out[top * stride : bottom * stride] = up.argmax(0)
    return out


def _by_cells(logits: Tensor, stride: int) -> Tensor | None:
    """(K, h, w) -> (h * stride, w * stride) uint8; None where tiles of rows are better.

    The map is continued by a pixel on each side, so that the cells, one more than there are pixels
    in both directions, cover what lies beyond the outermost pixels' centres.
    """
    k, h, w = logits.shape
    largest = float(logits.abs().amax())
    if not SANE[0] <= largest <= SANE[1]:  # or NaN
        return None
    margin = largest * MARGIN
    edged = F.pad(logits[None], (1, 1, 1, 1), mode="replicate")[0]
    edged = edged.permute(1, 2, 0).contiguous()  # (h + 2, w + 2, K)
    highest, winner = edged.max(-1)
    close = (edged >= (highest - margin).unsqueeze(-1)).sum(-1) > 1  # (h + 2, w + 2)
    winners = _corners(winner)  # (h + 1, w + 1, 4)
    mixed = (winners != winners[..., :1]).any(-1) | _corners(close).any(-1)
    cells = winners[..., 0].to(torch.uint8).reshape(-1, 1).repeat(1, stride * stride)

    at = mixed.flatten().nonzero()[:, 0]  # the M cells to look into
    place = torch.arange(edged[..., 0].numel()).view(h + 2, w + 2)
    values = edged.view(-1, k)[_corners(place).view(-1, 4)[at]]  # (M, 4, K)
    alive = _alive(values, winners.view(-1, 4)[at], margin)  # (M, K) bool
    if alive.sum() > k * mixed.numel() // 2:
        return None
    cells[at], unsure = _compete(values, alive, stride, margin)
    at = at[unsure]
    if len(at) > mixed.numel() // 8:
        return None
    for part in at.split(max(1, CHUNK // (k * stride * stride))):
        cells[part] = _recompute(logits, part // (w + 1), part % (w + 1), stride)

    word = {2: torch.int16, 4: torch.int32}.get(stride, torch.int64)  # moves 8 pixels at a time
    image = cells.view(h + 1, w + 1, stride, stride).view(word).permute(0, 2, 1, 3)
    image = image.reshape((h + 1) * stride, -1).view(torch.uint8)
    half = stride // 2
    return image[half : half + h * stride, half : half + w * stride]


def _corners(x: Tensor) -> Tensor:
    """(h + 2, w + 2) -> (h + 1, w + 1, 4): each cell's corners, row by row."""
    return torch.stack([x[:-1, :-1], x[:-1, 1:], x[1:, :-1], x[1:, 1:]], -1)


def _alive(values: Tensor, winners: Tensor, margin: float) -> Tensor:
    """Which classes may win somewhere in a cell.

    Args:
        values: (M, 4, K) logits at the corners.
        winners: (M, 4) the class that wins at each corner.
        margin: by which a class must be exceeded at all corners to be out.

    Returns:
        (M, K) bool.
    """
    rivals = values.gather(2, winners.unsqueeze(1).expand(-1, 4, -1))  # (M, 4, 4)
    # Between two winners both may be low at the other's corner, but their mean is not.
    rivals = torch.cat([rivals, rivals.mean(-1, keepdim=True)], -1)
    out = torch.zeros_like(values[:, 0], dtype=torch.bool)
    for rival in rivals.split(1, dim=-1):
        out |= (rival - values).amin(1) > margin
    return ~out


def _compete(values: Tensor, alive: Tensor, stride: int, margin: float) -> tuple[Tensor, Tensor]:
    """Winner of each pixel of a cell, (M, stride ** 2) uint8, and (M,) bool where it isn't sure.

    Arguments as for `_alive`. In float64, whose rounding is nothing beside the margin, and which no
    setting of PyTorch makes coarser.
    """
    t = (torch.arange(stride, dtype=torch.float64) + 0.5) / stride
    t = torch.stack([1 - t, t])  # (2, stride)
    weights = torch.einsum("ay,bx->abyx", t, t).view(4, -1)
    classes = torch.empty(len(values), stride * stride, dtype=torch.uint8)
    unsure = torch.zeros(len(values), dtype=torch.bool)
    by_class = values.transpose(1, 2)  # (M, K, 4)
    counts = alive.sum(1)
    for n in counts.unique().tolist():
        cells = (counts == n).nonzero()[:, 0]
        for part in cells.split(max(1, CHUNK // (n * stride * stride))):
            names = alive[part].nonzero()[:, 1].view(-1, n)
            corners = by_class[part].gather(1, names.unsqueeze(-1).expand(-1, -1, 4))
            up = (corners.view(-1, 4).double() @ weights).view(-1, n, stride * stride)
            names = names.to(torch.uint8)
            best, name = up[:, 0], names[:, :1]
            for i in range(1, n):
                lead = up[:, i] - best
                unsure[part] |= lead.abs().amin(1) <= margin
                name = torch.where(lead > 0, names[:, i : i + 1], name)
                best = torch.maximum(best, up[:, i])
            classes[part] = name
    return classes, unsure


def _recompute(logits: Tensor, row: Tensor, column: Tensor, stride: int) -> Tensor:
    """The reference in single cells.

    Args:
        logits: (K, h, w).
        row, column: (M,) of each cell, 0..h and 0..w.
        stride: s.

    Returns:
        (M, s * s) uint8; any class for what lies outside of the image.
    """
    source, inside = [], []
    for cell, length in ((row, logits.shape[1]), (column, logits.shape[2])):
        size = min(2, length)
        first = (cell - 1).clamp(0, length - size)  # of the coarse pixels around it
        source.append(first.unsqueeze(1) + torch.arange(size))
        within = (cell - first) * stride - stride // 2
        within = within.unsqueeze(1) + torch.arange(stride)
        inside.append(within.clamp(0, size * stride - 1))
    y, x = source
    patches = logits[:, y[:, :, None], x[:, None, :]].transpose(0, 1)  # (M, K, 2, 2)
    up = _upsample(patches, (y.shape[1] * stride, x.shape[1] * stride)).argmax(1)
    y, x = inside
    classes = up[torch.arange(len(up))[:, None, None], y[:, :, None], x[:, None, :]]
    return classes.flatten(1).to(torch.uint8)
