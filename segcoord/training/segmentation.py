"""The segmentation task: model, data, loss and mIoU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segcoord.config.schema import SegmentationConfig, TrainConfig
from segcoord.data.loader import TrainDataset
from segcoord.data.rare_class_sampling import RareClassSampler
from segcoord.data.split import Split
from segcoord.data.transforms import TrainTransform
from segcoord.evaluation.evaluate import evaluate
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.sheet import draw_examples
from segcoord.models.auxiliary_head import AuxiliaryHead
from segcoord.models.segmentation import SegmentationModel
from segcoord.training.losses import cross_entropy, dice_loss, distillation_loss, lovasz_loss
from segcoord.training.teacher import Teacher
from segcoord.utils.errors import UserError


class SegmentationLoss(nn.Module):
    """The training module: the model and its loss, wrapped together for DistributedDataParallel.

    The auxiliary head belongs to this module and not to the model, so evaluation, best.ckpt and
    exports don't have it.

    Args:
        model: The model to train.
        settings: The terms of the loss, and whether the encoder's batch norms are frozen.
        class_weights: (K,) float32 weights for the cross-entropy; None for equal weights.
        teacher: The model of `settings.teacher`; None without that setting.

    Raises:
        ValueError: `teacher` without `settings.teacher`, or the other way round.
        UserError: The model doesn't support a setting.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        model: SegmentationModel,
        settings: TrainConfig,
        class_weights: Tensor | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        if (teacher is None) != (settings.teacher is None):
            raise ValueError(f"teacher: found {teacher} for settings.teacher {settings.teacher}")
        self.model = model
        self.settings = settings
        self.teacher = teacher
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.auxiliary: AuxiliaryHead | None = None
        num_classes = len(model.labels)
        if settings.aux_weight:
            # The second last stage: stride 16, or 8 at output stride 8.
            channels = model.net.encoder.out_channels[-2]
            self.auxiliary = AuxiliaryHead(channels, num_classes)
        self.statistics_checked = False
        if settings.lovasz_weight and num_classes < 2:
            raise UserError(
                f"train.lovasz_weight: found {settings.lovasz_weight} with a single class, "
                "expected 0: the Lovasz loss needs at least 2 classes"
            )
        if settings.freeze_batch_norm and not self._encoder_norms():
            raise UserError(
                f"train.freeze_batch_norm: found true, expected false: {model.spec['encoder']} has "
                "no batch norm"
            )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the loss, a float32 scalar.

        Args:
            batch: {"image": (N, h, w, 3) uint8, "mask": (N, h, w) uint8}.
        """
        teacher_logits = self.teacher(batch["image"]) if self.teacher else None  # (N, K, h, w)
        images, target = self.model.normalize(batch["image"]), batch["mask"]
        if self.auxiliary is None:
            logits, aux_logits = self.model(images), None  # (N, K, h, w)
        else:
            logits, features = self.model.logits_and_features(images)
            aux_logits = self.auxiliary(features[-2])  # (N, K, h', w')
            aux_logits = self.model.upsample(aux_logits, *target.shape[1:])  # (N, K, h, w)
        with torch.autocast(logits.device.type, enabled=False):
            loss = self._loss(logits.float(), target)
            if aux_logits is not None:
                aux_loss = self._cross_entropy(aux_logits.float(), target)
                loss = loss + self.settings.aux_weight * aux_loss
            if (distillation := self.settings.distillation) is not None:
                _, weight, temperature, _ = distillation
                soft_loss = distillation_loss(logits.float(), teacher_logits, target, temperature)
                loss = loss + weight * soft_loss
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
        """Set training mode; frozen batch norms stay in eval mode.

        Raises:
            UserError: A batch norm to freeze has no running statistics yet.
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
        if self.statistics_checked:
            return
        new = [name for name, norm in norms.items() if (norm.running_var == 1).all()]
        if new:
            raise UserError(
                f"train.freeze_batch_norm: found true, but {len(new)} of the encoder's "
                f"{len(norms)} batch norms are newly initialized and have no running statistics to "
                f"freeze ({new[0]} is the first); expected weights for all of them, from "
                "model.encoder_weights or --init-from"
            )
        self.statistics_checked = True


class SegmentationTask:
    """The `Task` that trains a segmentation model; `splits` are for training and validation.

    Class weights and rare classes are None without their settings, and until the main process has
    sent them.
    """

    def __init__(
        self,
        config: SegmentationConfig,
        model: SegmentationModel,
        splits: tuple[Split, Split],
        class_weights: Tensor | None = None,
        rare_classes: RareClassSampler | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.config, self.model = config, model
        self.module = SegmentationLoss(model, config.train, class_weights, teacher)
        train_split, self.val_split = splits
        self.columns = ("miou", "pixel_accuracy", "mean_accuracy")
        if self.val_split.labels.binary:
            self.columns += ("foreground_iou", "foreground_dice")
        transform = TrainTransform(config.data, tuple(model.mean.flatten().tolist()))
        self.train_set = TrainDataset(train_split, transform, config.train.seed, rare_classes)
        self.val_images = len(self.val_split)
        self.scores: Scores | None = None  # of the latest validation

    def parameter_groups(self) -> list[dict]:
        """Two groups: the encoder, with train.encoder_lr_factor, and everything else."""
        encoder = list(self.model.net.encoder.parameters())
        own = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in self.module.parameters() if id(parameter) not in own]
        return [
            {"params": encoder, "factor": self.config.train.encoder_lr_factor},
            {"params": rest, "factor": 1.0},
        ]

    def validate(self, model: SegmentationModel, on_image: Callable[[], None]) -> dict[str, float]:
        """Evaluate on the whole validation split at the images' original size."""
        workers = self.config.data.workers
        self.scores = evaluate(model, self.val_split, workers, lambda *_: on_image())
        return {name: getattr(self.scores, name) for name in self.columns}

    def examples(self, model: SegmentationModel) -> np.ndarray:
        """Draw validation images with ground truth and prediction: (H, W, 3) uint8 RGB."""
        return draw_examples(model.eval(), self.val_split)
