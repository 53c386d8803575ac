"""Losses for semantic segmentation: cross-entropy with OHEM, Dice, Lovasz-Softmax, distillation.

Shapes: N batch, K classes, H and W of the crop. Logits are (N, K, H, W) float32; targets are
(N, H, W) uint8 class indices with 255 for void, which every loss ignores. Without a labeled pixel a
loss is 0 with a gradient of 0, never NaN.

Under torch.distributed each process returns its part scaled so that the mean over the processes is
the loss of the whole batch. DistributedDataParallel, which averages gradients, then follows the
gradient of one process with all images, for any distribution of void.
"""

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
    ohem: tuple[float, float] | None = None,
) -> Tensor:
    """Mean cross-entropy over the labeled pixels, as F.cross_entropy with the same options.

    Args:
        weights: (K,) float class weights; the mean is weighted with them.
        label_smoothing: Part of the target spread evenly over all classes, 0..1.
        ohem: (threshold, min_kept) of `ohem_mask`, to restrict the loss to these pixels.
    """
    target = target.long()
    if ohem is not None:
        target = torch.where(ohem_mask(logits, target, *ohem), target, VOID)
    total = F.cross_entropy(
        logits, target, weights, ignore_index=VOID, reduction="sum", label_smoothing=label_smoothing
    )
    if weights is None:
        return _mean(total, (target != VOID).sum())
    weights_by_value = F.pad(weights, (0, VOID + 1 - len(weights)))  # 0 for void
    return _mean(total, weights_by_value[target].sum())


@torch.no_grad()
def ohem_mask(logits: Tensor, target: Tensor, threshold: float, min_kept: float) -> Tensor:
    """Select pixels by online hard example mining (OHEM).

    Keeps the pixels whose true class has a probability below the threshold, and at least the
    fraction `min_kept` of the labeled pixels, those with the lowest probabilities. This is the rule
    of mmsegmentation's OHEMPixelSampler and of OhemCELoss (CoinCheung/BiSeNet), whose minimum is a
    fraction too. As there, each process selects among its own images.

    Args:
        threshold: Probability, 0..1; 0 keeps the fraction `min_kept` alone.
        min_kept: Fraction of the labeled pixels, above 0 up to 1.

    Returns:
        (N, H, W) bool mask, False for void.
    """
    target = target.long()
    labeled = target != VOID
    losses = F.cross_entropy(logits, target, ignore_index=VOID, reduction="none")
    probability = torch.where(labeled, losses.neg().exp(), 2)  # sorts void last
    count = (labeled.sum() * min_kept).ceil().long().clamp(min=1)
    # The index stays a tensor: reading its value would wait for the device.
    highest = probability.flatten().sort().values.gather(0, count.view(1) - 1)
    return labeled & ((probability < threshold) | (probability <= highest))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice loss of smp: 1 - 2 |p t| / (|p| + |t|) per class over the batch, averaged over K.

    A class absent from the batch adds 0 to the mean. Milletari, Navab, Ahmadi, "V-Net",
    arXiv 1606.04797, with |p| instead of its squares. Several processes average their losses,
    without those that have void only.
    """
    return _mean(_DICE(logits, target.long()), (target != VOID).any().long())


@torch.compiler.disable  # its shapes depend on the number of labeled pixels
def lovasz_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Lovasz-Softmax loss of smp over the batch, averaged over the classes present in it.

    Berman, Triki, Blaschko, "The Lovasz-Softmax loss", CVPR 2018, arXiv 1705.08790. K is at least
    2. Several processes average their losses, without those that have void only.
    """
    loss = _LOVASZ(logits, target).sum()  # smp returns an empty tensor without labeled pixels
    return _mean(loss, (target != VOID).any().long())


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float
) -> Tensor:
    """Kullback-Leibler divergence of the model's probabilities from the teacher's, T^2 KL(t || s).

    Both are softmax(logits / T). The mean is over the labeled pixels. T^2 keeps the gradient's size
    for any T: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network",
    arXiv 1503.02531, section 2.

    Args:
        teacher_logits: (N, K, H, W) float32 without a gradient; -inf for a probability of 0.
        target: only says which pixels are labeled.
        temperature: T, above 0.
    """
    labeled = target != VOID
    soft = (teacher_logits / temperature).softmax(1)
    log_p = (logits / temperature).log_softmax(1)
    divergence = F.kl_div(log_p, soft, reduction="none").sum(1)  # (N, H, W)
    total = torch.where(labeled, divergence, 0).sum()
    return temperature**2 * _mean(total, labeled.sum())


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """total / count; of several processes each one's part of (sum of totals) / (sum of counts)."""
    if dist.is_available() and dist.is_initialized():
        count = count.clone()
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return total / torch.where(count > 0, count, 1) * (count > 0)
