"""Argmax of bilinearly upsampled logits, without upsampling all of them.

The result is bit-identical to
`F.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(1)` on channels_last
logits (other layouts round differently, which can change the class where two logits are almost
equal), for these reasons:

- Between four neighboring coarse pixels (a cell), an upsampled logit is a convex combination of the
  four. A class that another class, or a mean of others, exceeds at all four corners wins nowhere in
  the cell. Most cells have one candidate left and are filled with it.
- `F.interpolate` rounds four products and three sums, so its error is at most 4 * 2**-24 of the
  largest logit. Where two classes differ by more than twice that, any arithmetic finds the same
  order. `MARGIN` is twice that bound again.
- Where they differ by less, `F.interpolate` itself is applied to the coarse pixels around the cell.
  It computes the same values there as on the whole map, because the weights of strides that are
  powers of two are exact in float32. The same holds for tiles of rows, which are faster if many
  classes compete in many cells.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

MARGIN = 2.0**-20  # relative to the largest logit
NORMAL_RANGE = (1e-30, 1e37)  # of the largest logit, so that products and sums stay normal
CHUNK = 2**18  # values computed at a time: a few megabytes, which fit in the cache
TILE = 2**22  # logits in a tile of rows
_CHANNELS_LAST = torch.channels_last


@torch.no_grad()
def predict_classes(logits: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The class with the highest logit at every pixel, the first if several are equal.

    Args:
        logits: (N, K, h, w) at the network's stride, with K at most 256.
        padded: (H', W') to upsample to.
        size: (H, W) of the image, the upper left part of the padded size.

    Returns:
        (N, H, W) uint8, contiguous, on the device of the logits.

    Raises:
        ValueError: more than 256 classes.
    """
    k, h, w = logits.shape[1:]
    if k > 256:
        raise ValueError(f"{k} classes, expected at most 256, which uint8 holds")
    stride = padded[0] // h
    # For 3 or fewer channels, PyTorch's kernel depends on the size, so parts may round differently.
    supported = logits.dtype == torch.float32 and logits.device.type == "cpu" and k > 3
    if not supported or padded != (h * stride, w * stride) or stride & (stride - 1):
        classes = _upsample(logits, padded).argmax(1).to(torch.uint8)
        return classes[:, : size[0], : size[1]].contiguous()
    out = torch.empty(len(logits), *size, dtype=torch.uint8)
    for image, image_out in zip(logits.split(1), out):
        classes = _argmax_by_cells(image[0], stride) if stride > 1 else None
        if classes is None:
            classes = _argmax_by_rows(image, stride)
        image_out.copy_(classes[: size[0], : size[1]])
    return out


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    logits = logits.contiguous(memory_format=_CHANNELS_LAST)
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _argmax_by_rows(logits: Tensor, stride: int) -> Tensor:
    """(1, K, h, w) -> (h * stride, w * stride) uint8: upsample and argmax, tile by tile of rows."""
    k, h, w = logits.shape[1:]
    out = torch.empty(h * stride, w * stride, dtype=torch.uint8)
    rows = max(1, TILE // (k * stride * stride * w))
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        first, last = max(top - 1, 0), min(bottom + 1, h)  # adjacent rows contribute
        up = _upsample(logits[:, :, first:last], ((last - first) * stride, w * stride))
        up = up[0, :, (top - first) * stride : (bottom - first) * stride]
        out[top * stride : bottom * stride] = up.argmax(0)
    return out


def _argmax_by_cells(logits: Tensor, stride: int) -> Tensor | None:
    """(K, h, w) -> (h * stride, w * stride) uint8; None if tiles of rows are faster.

    The map is replicated by one pixel on each side. The (h + 1, w + 1) cells then also cover the
    area outside the outermost pixel centers.
    """
    k, h, w = logits.shape
    largest = float(logits.abs().amax())
    if not NORMAL_RANGE[0] <= largest <= NORMAL_RANGE[1]:  # also for NaN
        return None
    margin = largest * MARGIN
    padded = F.pad(logits[None], (1, 1, 1, 1), mode="replicate")[0]
    padded = padded.permute(1, 2, 0).contiguous()  # (h + 2, w + 2, K)
    highest, winner = padded.max(-1)
    close = (padded >= (highest - margin).unsqueeze(-1)).sum(-1) > 1  # (h + 2, w + 2)
    winners = _corners(winner)  # (h + 1, w + 1, 4)
    mixed = (winners != winners[..., :1]).any(-1) | _corners(close).any(-1)
    cells = winners[..., 0].to(torch.uint8).reshape(-1, 1).repeat(1, stride * stride)

    index = mixed.flatten().nonzero()[:, 0]  # of the M cells with several candidates
    pixel = torch.arange(padded[..., 0].numel()).view(h + 2, w + 2)
    values = padded.view(-1, k)[_corners(pixel).view(-1, 4)[index]]  # (M, 4, K)
    candidates = _candidates(values, winners.view(-1, 4)[index], margin)  # (M, K) bool
    if candidates.sum() > k * mixed.numel() // 2:
        return None
    cells[index], unsure = _argmax_of_candidates(values, candidates, stride, margin)
    index = index[unsure]
    if len(index) > mixed.numel() // 8:
        return None
    for part in index.split(max(1, CHUNK // (k * stride * stride))):
        cells[part] = _recompute(logits, part // (w + 1), part % (w + 1), stride)

    # Copy up to 8 pixels at once.
    word = {2: torch.int16, 4: torch.int32}.get(stride, torch.int64)
    image = cells.view(h + 1, w + 1, stride, stride).view(word).permute(0, 2, 1, 3)
    image = image.reshape((h + 1) * stride, -1).view(torch.uint8)
    half = stride // 2
    return image[half : half + h * stride, half : half + w * stride]


def _corners(x: Tensor) -> Tensor:
    """(h + 2, w + 2) -> (h + 1, w + 1, 4): the corners of each cell, row by row."""
    return torch.stack([x[:-1, :-1], x[:-1, 1:], x[1:, :-1], x[1:, 1:]], -1)


def _candidates(values: Tensor, winners: Tensor, margin: float) -> Tensor:
    """The classes that may win somewhere in a cell.

    Args:
        values: (M, 4, K) logits at the corners.
        winners: (M, 4) class with the highest logit at each corner.
        margin: a class is eliminated if it is exceeded by more than this at all corners.

    Returns:
        (M, K) bool.
    """
    rivals = values.gather(2, winners.unsqueeze(1).expand(-1, 4, -1))  # (M, 4, 4)
    # A winner may be low at the other corners, where the mean of all winners is high.
    rivals = torch.cat([rivals, rivals.mean(-1, keepdim=True)], -1)
    eliminated = torch.zeros_like(values[:, 0], dtype=torch.bool)
    for rival in rivals.split(1, dim=-1):
        eliminated |= (rival - values).amin(1) > margin
    return ~eliminated


def _argmax_of_candidates(
    values: Tensor, candidates: Tensor, stride: int, margin: float
) -> tuple[Tensor, Tensor]:
    """The winner at each pixel of a cell, (M, stride ** 2) uint8, and (M,) bool if it is unsure.

    Computed in float64, whose rounding is negligible relative to the margin and which no PyTorch
    setting replaces by a lower precision.

    Args:
        values, margin: see `_candidates`.
        candidates: (M, K) bool.
        stride: of the network.
    """
    t = (torch.arange(stride, dtype=torch.float64) + 0.5) / stride
    t = torch.stack([1 - t, t])  # (2, stride)
    weights = torch.einsum("ay,bx->abyx", t, t).view(4, -1)
    classes = torch.empty(len(values), stride * stride, dtype=torch.uint8)
    unsure = torch.zeros(len(values), dtype=torch.bool)
    by_class = values.transpose(1, 2)  # (M, K, 4)
    counts = candidates.sum(1)
    for n in counts.unique().tolist():
        cells = (counts == n).nonzero()[:, 0]
        for part in cells.split(max(1, CHUNK // (n * stride * stride))):
            indices = candidates[part].nonzero()[:, 1].view(-1, n)
            corners = by_class[part].gather(1, indices.unsqueeze(-1).expand(-1, -1, 4))
            up = (corners.view(-1, 4).double() @ weights).view(-1, n, stride * stride)
            indices = indices.to(torch.uint8)
            best, winner = up[:, 0], indices[:, :1]
            for i in range(1, n):
                difference = up[:, i] - best
                unsure[part] |= difference.abs().amin(1) <= margin
                winner = torch.where(difference > 0, indices[:, i : i + 1], winner)
                best = torch.maximum(best, up[:, i])
            classes[part] = winner
    return classes, unsure


def _recompute(logits: Tensor, row: Tensor, column: Tensor, stride: int) -> Tensor:
    """Upsample with `F.interpolate` and take the argmax in single cells.

    Args:
        logits: (K, h, w).
        row, column: (M,) of each cell, 0..h and 0..w.
        stride: of the network.

    Returns:
        (M, stride ** 2) uint8, with arbitrary classes outside the image.
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
