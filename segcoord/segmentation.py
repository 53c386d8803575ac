"""Segmentation as a task to train: model, data, loss and score."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcoord.config import Config
from segcoord.data.layouts import Split
from segcoord.data.loader import TrainSet
from segcoord.data.transforms import TrainTransform
from segcoord.evaluation import evaluate
from segcoord.export.examples import draw_examples
from segcoord.labels import VOID
from segcoord.metrics import Scores
from segcoord.model import SegmentationModel


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the pixels that count; 0, not NaN, where none does.

    With weights it is the weighted mean, as PyTorch's own: each pixel's loss times its class's
    weight, divided by the sum of these weights.

    Args:
        logits: (N, K, H, W) float.
        target: (N, H, W) uint8 class indices, 255 for void.
        weights: (K,) float, by class, on the logits' device.
    """
    target = target.long()
    total = F.cross_entropy(logits, target, weights, ignore_index=VOID, reduction="sum")
    if weights is None:
        return total / (target != VOID).sum().clamp(min=1)
    of_value = F.pad(weights, (0, VOID + 1 - len(weights)))  # void weighs nothing
    counted = of_value[target].sum()
    return total / torch.where(counted > 0, counted, 1)


class SegmentationLoss(nn.Module):
    """What is trained: the model and its loss, as one module that devices can share.

    Args:
        model: whose parameters are trained.
        class_weights: (K,) float32; None where all count alike.
    """

    class_weights: Tensor | None

    def __init__(self, model: SegmentationModel, class_weights: Tensor | None) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss, a scalar, of {"image": (N, h, w, 3) uint8, "mask": (N, h, w) uint8}."""
        logits = self.model(self.model.normalize(batch["image"]))  # (N, K, h, w)
        return cross_entropy(logits, batch["mask"], self.class_weights)


class Segmentation:
    """A Task of segcoord.training.

    Args:
        config: of the run.
        model: at its start.
        splits: for training and for validation.
        class_weights: (K,) float32, in the loss; None where all count alike.
    """

    columns = ("miou", "pixel_accuracy", "mean_accuracy")

    def __init__(
        self,
        config: Config,
        model: SegmentationModel,
        splits: tuple[Split, Split],
        class_weights: Tensor | None = None,
    ) -> None:
        self.config, self.model = config, model
        self.module = SegmentationLoss(model, class_weights)
        train_split, self.val_split = splits
        transform = TrainTransform(config.data, tuple(model.mean.flatten().tolist()))
        self.train_set = TrainSet(train_split, transform, config.train.seed)
        self.val_images = len(self.val_split)
        self.scores: Scores | None = None  # of the last validation

    def parameter_groups(self) -> list[dict]:
        """The encoder, at its own learning rate factor, and the rest."""
        encoder = list(self.model.net.encoder.parameters())
        rest = [p for n, p in self.model.named_parameters() if not n.startswith("net.encoder.")]
        return [
            {"params": encoder, "factor": self.config.train.encoder_lr_factor},
            {"params": rest, "factor": 1.0},
        ]

    def validate(self, model: SegmentationModel, on_image: Callable[[], None]) -> dict[str, float]:
        """The scores over the whole validation split at full size."""
        self.scores = evaluate(
            model, self.val_split, self.config.data.workers, lambda *_: on_image()
        )
        return {name: getattr(self.scores, name) for name in self.columns}

    def examples(self, model: SegmentationModel) -> np.ndarray:
        """Images of the validation split, their truth and prediction: (H, W, 3) uint8 RGB."""
        return draw_examples(model.eval(), self.val_split)
