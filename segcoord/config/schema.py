"""Every setting of a run, typed, with the checks of its values. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal

import yaml

from segcoord.config.decoders import decoder_settings
from segcoord.utils.errors import UserError


@dataclass
class ModelConfig:
    """The network.

    Args:
        encoder: backbone by its timm name; ours are family_attention_width.
        reduction: how many times the attention squeezes its channels; null for its own default.
        output_stride: 16 or 8: how many pixels one cell of the last feature covers; pan takes 16
            or 32, unet and fpn 32.
        decoder: deeplabv3, deeplabv3plus, unet, fpn or pan.
        atrous_rates: three ASPP rates; null for (6, 12, 18) at stride 16 and (12, 24, 36) at 8.
        aspp_dropout: probability of dropping a value after the ASPP's projection; null for 0.1.
        encoder_weights: null to start at random; imagenet for the authors' or timm's; or a file.
    """

    encoder: str = "mobilenetv2_ca_100"
    reduction: int | None = None
    output_stride: int = 16
    decoder: str = "deeplabv3"
    atrous_rates: list[int] | None = None
    aspp_dropout: float | None = None
    encoder_weights: str | None = None

    def check(self) -> None:
        """Raises UserError for values that can't work."""
        squeeze = self.reduction
        _require(squeeze is None or squeeze > 0, "model.reduction", squeeze, "at least 1, or null")
        try:
            decoder_settings(self.decoder, self.output_stride, self.atrous_rates, self.aspp_dropout)
        except UserError as error:
            raise UserError(f"model.{error}") from None
        dropout = self.aspp_dropout
        fine = dropout is None or 0 <= dropout < 1
        _require(fine, "model.aspp_dropout", dropout, "0 up to below 1, or null")


@dataclass
class ClassConfig:
    """One class of an own dataset.

    Args:
        name: shown in every table.
        color: RGB, 0 to 255, for palettes and overlays.
        id: its value in the mask files; null for its position in the list.
    """

    name: str
    color: list[int]
    id: int | None = None


@dataclass
class DataConfig:
    """The images, their labels, and what training does to them.

    Args:
        layout: how the files lie: voc, cityscapes, or folder (images and masks paired by stem).
        root: folder of the dataset; for voc the one that holds VOCdevkit, or VOC2012 itself.
        classes: own classes, for folder and for own data in a voc tree; null for the dataset's.
        void_ids: mask values that count for nothing, besides 255.
        images: folder layout only: where a split's images lie below root.
        masks: folder layout only: where a split's masks lie below root.
        train_split: name of the split to train on; trainaug reads SegmentationClassAug.
        val_split: name of the split that is scored.
        crop_size: height and width of a training crop, in pixels.
        scale: smallest and largest random scale of a training image.
        flip: mirror half of the training images.
        color_jitter: strength of random brightness, contrast and saturation; 0 for none.
        augmentation: YAML file of an albumentations pipeline, written by `albumentations.save`, for
            image and mask after the crop; null for none.
        workers: processes that load training images; 0 to load in the training process.
        pack: auto to read a split from its pack where `segcoord data pack` made one; off to read
            the files; or the folder that holds the packs.
    """

    layout: Literal["voc", "cityscapes", "folder"]
    root: str
    classes: list[ClassConfig] | None = None
    void_ids: list[int] = field(default_factory=list)
    images: str | None = None
    masks: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    crop_size: tuple[int, int] = (513, 513)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    color_jitter: float = 0.2
    augmentation: str | None = None
    workers: int = 2
    pack: str = "auto"

    def check(self) -> None:
        """Raises UserError for values that can't work, alone or together."""
        low, high = self.scale
        _require(0 < low <= high, "data.scale", [low, high], "the smaller above 0, then the larger")
        jitter = self.color_jitter
        _require(0 <= jitter < 1, "data.color_jitter", jitter, "0 up to below 1")
        _require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        _require(bool(self.pack), "data.pack", repr(self.pack), "auto, off or a folder")
        own_folders = [self.images, self.masks]
        _require(
            self.layout == "folder" or own_folders == [None, None],
            "data.images and data.masks",
            own_folders,
            f"null, for layout {self.layout} has its own folders",
        )
        _require(
            self.layout != "folder" or self.classes is not None,
            "data.classes",
            None,
            "a list of classes with name and color, which layout folder needs",
        )
        _require(
            self.layout != "cityscapes" or (self.classes is None and not self.void_ids),
            "data.classes and data.void_ids",
            "own ones",
            "null and [], for layout cityscapes has its 19; own data goes with voc or folder",
        )


@dataclass
class OptimConfig:
    """The optimisation, of whatever task.

    Args:
        max_steps: optimiser steps in all; the schedule ends with them.
        batch_size: images in a step, over all devices and parts of it; lr belongs to this number.
        accumulate: parts in which a device takes its share of a step, one after the other, for
            less memory; batch norm sees one part at a time.
        optimizer: sgd (with momentum) or adamw.
        lr: learning rate at the first step.
        momentum: of sgd; must be null with adamw.
        weight_decay: on weights and, as in the papers, on biases and norms too.
        schedule: poly or cosine, both from lr at the first step to 0 after the last.
        poly_power: with poly the rate at step t is lr * (1 - t / max_steps) ** poly_power; must be
            null with cosine.
        warmup_steps: steps over which the rate rises in a line to what the schedule says.
        clip_grad_norm: largest norm of all gradients together; null for none.
        ema_decay: of the weights' moving average, which is then what is scored and saved as the
            result; null for none.
        val_interval: steps between validations; one follows the last step in any case.
        patience: validations in a row without a better score after which a run ends; null for
            never.
        seed: of every random draw: weights, order, augmentation, dropout.
        accelerator: auto, cpu, cuda or mps.
        devices: of each node; null for one, or for as many as torchrun started.
        num_nodes: machines, each of which starts the same command.
        sync_bn: with several devices, take batch norm's statistics over all of them.
        precision: fp32, bf16 or fp16 where it is safe (autocast); auto for bf16 on a GPU that has
            it and fp32 elsewhere.
        compile: by torch.compile, which takes minutes before the first step.
        gradient_checkpointing: compute the encoder's features a second time in the backward pass,
            for less memory.
        stop_if_unsaved: end a run that can't be saved, for a full disk say, where it would warn and
            go on.
        loggers: of wandb (Weights & Biases) and mlflow, those that are told the numbers too.
    """

    max_steps: int
    batch_size: int = 16
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.007
    momentum: float | None = 0.9
    weight_decay: float = 4e-5
    schedule: Literal["poly", "cosine"] = "poly"
    poly_power: float | None = 0.9
    warmup_steps: int = 0
    clip_grad_norm: float | None = None
    ema_decay: float | None = None
    val_interval: int = 1000
    patience: int | None = None
    seed: int = 0
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int | None = None
    num_nodes: int = 1
    sync_bn: bool = True
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    stop_if_unsaved: bool = False
    loggers: list[Literal["wandb", "mlflow"]] = field(default_factory=list)

    def check(self) -> None:
        """Raises UserError for values that can't work, alone or together."""
        for key in ("max_steps", "lr", "val_interval", "accumulate", "num_nodes"):
            _require(getattr(self, key) > 0, f"train.{key}", getattr(self, key), "above 0")
        for key in ("clip_grad_norm", "patience", "devices"):
            found = getattr(self, key)
            _require(found is None or found > 0, f"train.{key}", found, "above 0, or null")
        decay = self.ema_decay
        fine = decay is None or 0 < decay < 1
        _require(fine, "train.ema_decay", decay, "above 0 and below 1, 0.999 say, or null")
        for key in ("weight_decay", "seed", "warmup_steps"):
            _require(getattr(self, key) >= 0, f"train.{key}", getattr(self, key), "0 or more")
        _require(self.seed < 2**63, "train.seed", self.seed, "below 2**63")
        _require(
            self.batch_size % self.accumulate == 0 and self.batch_size >= 2 * self.accumulate,
            "train.batch_size",
            self.batch_size,
            f"a multiple of train.accumulate, {self.accumulate}, and at least twice that: batch "
            "norm can't train on the one value per channel that global pooling leaves of a single "
            "image",
        )
        _require(
            self.warmup_steps <= self.max_steps,
            "train.warmup_steps",
            self.warmup_steps,
            f"at most train.max_steps, {self.max_steps}",
        )
        given = self.momentum is not None
        ok = given and self.momentum >= 0 if self.optimizer == "sgd" else not given
        _require(ok, "train.momentum", self.momentum, "0 or more with sgd, null with adamw")
        given = self.poly_power is not None
        ok = given and self.poly_power >= 0 if self.schedule == "poly" else not given
        _require(ok, "train.poly_power", self.poly_power, "0 or more with poly, null with cosine")
        once = len(set(self.loggers)) == len(self.loggers)
        _require(once, "train.loggers", self.loggers, "each at most once")


@dataclass
class TrainConfig(OptimConfig):
    """The optimisation of a segmentation model. docs/recipes.md says what each setting is good for.

    Args:
        encoder_lr_factor: the encoder's learning rate as a multiple of lr.
        class_weights: of the classes in the cross-entropy: inverse, enet or median, from their
            frequency in the training split; or a number for each class; null for none.
        label_smoothing: share of each pixel's target that goes to all classes alike; 0 for none.
        ohem_threshold: online hard example mining: only pixels whose true class has a probability
            below this count in the cross-entropy, 0.7 say; null for all pixels.
        ohem_min_kept: share of the labelled pixels that count at least, the hardest; null for 1/16;
            must be null without ohem_threshold.
        dice_weight: of the Dice loss, which is added to the cross-entropy; 0 for none.
        lovasz_weight: of the Lovasz-Softmax loss, which is added likewise; 0 for none.
        aux_weight: of the cross-entropy of an auxiliary head on the encoder's last feature but one,
            0.4 say; 0 for no head. What is saved as best.ckpt has no such head in any case.
        freeze_batch_norm: keep the mean and variance of the encoder's batch norms as they are.
    """

    encoder_lr_factor: float = 1.0
    class_weights: Literal["inverse", "enet", "median"] | list[float] | None = None
    label_smoothing: float = 0.0
    ohem_threshold: float | None = None
    ohem_min_kept: float | None = None
    dice_weight: float = 0.0
    lovasz_weight: float = 0.0
    aux_weight: float = 0.0
    freeze_batch_norm: bool = False

    @property
    def ohem(self) -> tuple[float, float] | None:
        """The threshold and the least share that is kept; None where all pixels count."""
        if self.ohem_threshold is None:
            return None
        return self.ohem_threshold, 1 / 16 if self.ohem_min_kept is None else self.ohem_min_kept

    def check(self) -> None:
        """Raises UserError for values that can't work, alone or together."""
        super().check()
        factor = self.encoder_lr_factor
        _require(factor >= 0, "train.encoder_lr_factor", factor, "0 or more")
        weights = self.class_weights
        fine = not isinstance(weights, list) or (  # bounds that float32 holds with room
            all(w == 0 or 1e-6 <= w <= 1e6 for w in weights) and any(weights)
        )
        expected = "numbers from 1e-6 to 1e6 or 0, not all of them 0"
        _require(fine, "train.class_weights", weights, expected)
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "train.label_smoothing", smoothing, "0 up to below 1")
        threshold, least = self.ohem_threshold, self.ohem_min_kept
        fine = threshold is None or 0 <= threshold < 1
        _require(fine, "train.ohem_threshold", threshold, "0 up to below 1, or null")
        fine = least is None or (threshold is not None and 0 < least <= 1)
        expected = "above 0 up to 1 with train.ohem_threshold, null without"
        _require(fine, "train.ohem_min_kept", least, expected)
        for key in ("dice_weight", "lovasz_weight", "aux_weight"):
            weight = getattr(self, key)
            _require(0 <= weight < float("inf"), f"train.{key}", weight, "0 or more")


class _Settings:
    def to_yaml(self) -> str:
        plain = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return yaml.safe_dump({"task": self.task, **plain}, sort_keys=False)


@dataclass
class Config(_Settings):
    """A whole run that trains a segmentation model."""

    task: ClassVar[str] = "segmentation"
    headline: ClassVar[str] = "miou"
    model: ModelConfig
    data: DataConfig
    train: TrainConfig

    def check(self) -> None:
        """Raises UserError for values that can't work, alone or together."""
        self.model.check()
        self.data.check()
        self.train.check()
        stride = self.model.output_stride
        _require(
            min(self.data.crop_size) >= stride,
            "data.crop_size",
            list(self.data.crop_size),
            f"at least the output stride, {stride}, in height and width",
        )


@dataclass
class ClassifierConfig:
    """A backbone with its classifier, to be trained before segmentation.

    Args:
        encoder: backbone by its timm name; ours are family_attention_width.
        reduction: how many times the attention squeezes its channels; null for its own default.
        drop_rate: probability of dropping a feature before the classifier.
    """

    encoder: str = "mobilenetv2_ca_100"
    reduction: int | None = None
    drop_rate: float = 0.1

    def check(self) -> None:
        """Raises UserError for values that can't work."""
        squeeze = self.reduction
        _require(squeeze is None or squeeze > 0, "model.reduction", squeeze, "at least 1, or null")
        rate = self.drop_rate
        _require(0 <= rate < 1, "model.drop_rate", rate, "0 up to below 1")


@dataclass
class ImageFolderConfig:
    """Images in one folder per class, as ImageNet has them: ROOT/SPLIT/CLASS/*.JPEG.

    Args:
        root: folder of the dataset.
        train_split: folder below root to train on.
        val_split: folder below root that is scored.
        crop_size: height and width of what the network sees, in pixels.
        resize: shorter side to which a validation image is scaled before its centre is cropped.
        scale: smallest and largest share of the image's area that a training crop covers.
        ratio: smallest and largest width / height of that crop before it is scaled.
        flip: mirror half of the training images.
        workers: processes that load images; 0 to load in the training process.
    """

    root: str
    train_split: str = "train"
    val_split: str = "val"
    crop_size: int = 224
    resize: int = 256
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    flip: bool = True
    workers: int = 2

    def check(self) -> None:
        """Raises UserError for values that can't work, alone or together."""
        low, high = self.scale
        _require(0 < low <= high <= 1, "data.scale", [low, high], "0 < the smaller <= larger <= 1")
        low, high = self.ratio
        fine = 0 < low <= high < float("inf")
        _require(fine, "data.ratio", [low, high], "the smaller above 0, then the larger")
        _require(self.crop_size >= 32, "data.crop_size", self.crop_size, "at least 32")
        expected = f"at least data.crop_size, {self.crop_size}"
        _require(self.resize >= self.crop_size, "data.resize", self.resize, expected)
        _require(self.workers >= 0, "data.workers", self.workers, "0 or more")


@dataclass
class ClassificationConfig(_Settings):
    """A whole run that trains a backbone to classify images."""

    task: ClassVar[str] = "classification"
    headline: ClassVar[str] = "top1"
    model: ClassifierConfig
    data: ImageFolderConfig
    train: OptimConfig

    def check(self) -> None:
        """Raises UserError for values that can't work, alone or together."""
        self.model.check()
        self.data.check()
        self.train.check()


CONFIGS = {config.task: config for config in (Config, ClassificationConfig)}
GROUPS = ("model", "data", "train")


def _require(ok: bool, key: str, found: object, expected: str) -> None:
    if not ok:
        raise UserError(f"{key}: found {found}, expected {expected}")
