"""The losses of segmentation, each a mean over what counts, on one process or on many.

Shapes: N batch, K classes, H and W of the crop. Logits are (N, K, H, W) float32; targets are
(N, H, W) uint8 class indices, 255 for void, which counts in none of them. Where nothing counts a
loss is 0 with a gradient of 0, never NaN.

Under torch.distributed each process gets its own share, so scaled that the mean over the processes
is the loss of the whole batch: DistributedDataParallel, which takes the mean of the gradients, then
follows the same gradient as one process with all images, however void lies in their shares.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss, LovaszLoss
from torch import Tensor

from segcoord.data.labels import VOID

_DICE = DiceLoss("multiclass", ignore_index=VOID)
_LOVASZ = LovaszLoss("multiclass", ignore_index=VOID)


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    hard: tuple[float, float] | None = None,
) -> Tensor:
    """Mean cross-entropy over the pixels that count, as PyTorch's own with each of its options.

    Args:
        logits, target: see above.
        weights: (K,) float, by class; the mean is then weighted with them.
        label_smoothing: share of the target that goes to all classes alike, 0..1.
        hard: (threshold, least) of `hard_pixels`, if they alone shall count.
    """
    target = target.long()
    if hard is not None:
        target = torch.where(hard_pixels(logits, target, *hard), target, VOID)
    total = F.cross_entropy(
        logits,
        target,
        weights,
        ignore_index=VOID,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    if weights is None:
        return _mean(total, (target != VOID).sum())
    of_value = F.pad(weights, (0, VOID + 1 - len(weights)))  # void weighs nothing
    return _mean(total, of_value[target].sum())


@torch.no_grad()
def hard_pixels(logits: Tensor, target: Tensor, threshold: float, least: float) -> Tensor:
    """Which pixels online hard example mining keeps.

    Those whose true class has a probability below the threshold; where these are fewer than
    the least share, that share of the pixels with the lowest probabilities. The rule of
    mmsegmentation's OHEMPixelSampler and of OhemCELoss (CoinCheung/BiSeNet), whose share it is;
    each process applies it to its own images, as they do.

    Args:
        logits, target: see above.
        threshold: 0..1; with 0 the least share alone is kept.
        least: of the pixels that are not void, above 0 up to 1.

    Returns:
        (N, H, W) bool, False for void.
    """
    target = target.long()
    counted = target != VOID
    losses = F.cross_entropy(logits, target, ignore_index=VOID, reduction="none")
    probability = torch.where(counted, losses.neg().exp(), 2)  # void comes last
    count = (counted.sum() * least).ceil().long().clamp(min=1)
    # The place stays a tensor: to read its number would wait for the device.
    highest = probability.flatten().sort().values.gather(0, count.view(1) - 1)
    return counted & ((probability < threshold) | (probability <= highest))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """smp's soft Dice loss: 1 - 2 |p t| / (|p| + |t|) by class over the batch, the mean over K.

    A class that the batch doesn't have gives 0 to that mean. Milletari, Navab, Ahmadi, "V-Net",
    arXiv 1606.04797, with |p| where they have squares. Several processes take the mean of theirs,
    leaving out those that have void alone.

    Args:
        logits, target: see above.
    """
    return _mean(_DICE(logits, target.long()), (target != VOID).any().long())


@torch.compiler.disable  # its shapes depend on how many pixels count
def lovasz_loss(logits: Tensor, target: Tensor) -> Tensor:
    """smp's Lovasz-Softmax loss over the batch, the mean over the classes that the batch has.

    Berman, Triki, Blaschko, "The Lovasz-Softmax loss", CVPR 2018, arXiv 1705.08790. Several
    processes take the mean of theirs, leaving out those that have void alone.

    Args:
        logits, target: see above; K is at least 2.
    """
    loss = _LOVASZ(logits, target).sum()  # smp's is empty, not 0, where no pixel counts
    return _mean(loss, (target != VOID).any().long())


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """total / count; of several processes each its part of (sum of totals) / (sum of counts)."""
    if dist.is_available() and dist.is_initialized():
        count = count.clone()
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return total / torch.where(count > 0, count, 1) * (count > 0)
