"""Segmentation as a task to train: model, data, loss and score."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segcoord.config.schema import Config, TrainConfig
from segcoord.data.loader import TrainDataset
from segcoord.data.split import Split
from segcoord.data.transforms import TrainTransform
from segcoord.evaluation.evaluate import evaluate
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.sheet import draw_examples
from segcoord.models.auxiliary_head import AuxiliaryHead
from segcoord.models.segmentation import SegmentationModel
from segcoord.training.losses import cross_entropy, dice_loss, lovasz_loss
from segcoord.utils.errors import UserError


class SegmentationLoss(nn.Module):
    """What is trained: the model and its loss, as one module that devices can share.

    The auxiliary head is a part of this module and not of the model, so nothing that is evaluated,
    saved as a result or exported has it.

    Args:
        model: whose parameters are trained.
        settings: which terms the loss has, and whether the encoder's norms are frozen.
        class_weights: (K,) float32, in the cross-entropy; None where all count alike.

    Raises:
        UserError: a setting that this model can't take.
    """

    class_weights: Tensor | None

    def __init__(
        self, model: SegmentationModel, settings: TrainConfig, class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.auxiliary: AuxiliaryHead | None = None
        num_classes = len(model.labels)
        if settings.aux_weight:
            # The last stage but one, of stride 16 where the output stride isn't 8.
            channels = model.net.encoder.out_channels[-2]
            self.auxiliary = AuxiliaryHead(channels, num_classes)
        self.checked = False  # whether the norms to be frozen have statistics
        if settings.lovasz_weight and num_classes < 2:
            raise UserError(
                f"train.lovasz_weight: found {settings.lovasz_weight} with a single class, "
                "expected 0: this loss needs at least 2 classes"
            )
        if settings.freeze_batch_norm and not self._encoder_norms():
            raise UserError(
                f"train.freeze_batch_norm: found true, expected false: {model.spec['encoder']} has "
                "no batch norm"
            )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss, a float32 scalar.

        Args:
            batch: {"image": (N, h, w, 3) uint8, "mask": (N, h, w) uint8}.
        """
        images, target = self.model.normalize(batch["image"]), batch["mask"]
        if self.auxiliary is None:
            logits, second = self.model(images), None  # (N, K, h, w)
        else:
            logits, features = self.model.logits_and_features(images)
            second = self.auxiliary(features[-2])  # (N, K, h', w')
            second = self.model.upsample(second, *target.shape[1:])  # (N, K, h, w)
        with torch.autocast(logits.device.type, enabled=False):
            loss = self._loss(logits.float(), target)
            if second is not None:
                loss = loss + self.settings.aux_weight * self._cross_entropy(second.float(), target)
        return loss

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        settings, loss = self.settings, self._cross_entropy(logits, target)
        if settings.dice_weight:
            loss = loss + settings.dice_weight * dice_loss(logits, target)
        if settings.lovasz_weight:
            loss = loss + settings.lovasz_weight * lovasz_loss(logits, target)
        return loss

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        settings = self.settings
        return cross_entropy(
            logits, target, self.class_weights, settings.label_smoothing, settings.ohem
        )

    def train(self, mode: bool = True) -> SegmentationLoss:
        """As every module's; but frozen norms stay as they are in evaluation.

        Raises:
            UserError: norms to be frozen that have no statistics yet.
        """
        super().train(mode)
        if mode and self.settings.freeze_batch_norm:
            norms = self._encoder_norms()
            self._check_statistics(norms)
            for norm in norms.values():
                norm.eval()
        return self

    def _encoder_norms(self) -> dict[str, _BatchNorm]:
        modules = self.model.net.encoder.named_modules()
        return {name: m for name, m in modules if isinstance(m, _BatchNorm)}

    def _check_statistics(self, norms: dict[str, _BatchNorm]) -> None:
        if self.checked:
            return
        new = [name for name, norm in norms.items() if (norm.running_var == 1).all()]
        if new:
            raise UserError(
                f"train.freeze_batch_norm: found true, but {len(new)} of the encoder's "
                f"{len(norms)} batch norms start anew and have no statistics that could be frozen "
                f"({new[0]} the first); expected weights for all of them, by model.encoder_weights "
                "or --init-from"
            )
        self.checked = True


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
        self.module = SegmentationLoss(model, config.train, class_weights)
        train_split, self.val_split = splits
        transform = TrainTransform(config.data, tuple(model.mean.flatten().tolist()))
        self.train_set = TrainDataset(train_split, transform, config.train.seed)
        self.val_images = len(self.val_split)
        self.scores: Scores | None = None  # of the last validation

    def parameter_groups(self) -> list[dict]:
        """The encoder, at its own learning rate factor, and the rest."""
        encoder = list(self.model.net.encoder.parameters())
        rest = [
            parameter
            for name, parameter in self.module.named_parameters()
            if not name.startswith("model.net.encoder.")
        ]
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
