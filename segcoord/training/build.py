"""TODO."""

from __future__ import annotations

import warnings

import torch

from segcoord.config.schema import ClassificationConfig, Config
from segcoord.data.checks.run import check_for_training
from segcoord.data.class_weights import class_weights
from segcoord.data.image_folder import check_folders, find_folders
from segcoord.data.layouts import find_split, label_set
from segcoord.data.pack.reader import pixel_source, with_pack
from segcoord.models.classifier import create_classifier
from segcoord.models.factory import create_model
from segcoord.training.classification import Classification
from segcoord.training.segmentation import Segmentation
from segcoord.utils.console import console, progress_bar
from segcoord.utils.errors import UserError


def build_segmentation(config: Config, *, fresh: bool, offline: bool, check: bool) -> Segmentation:
    settings, labels = config.model, label_set(config.data)
    given = config.train.class_weights
    if isinstance(given, list) and len(given) != len(labels):
        raise UserError(
            f"train.class_weights: found {len(given)} numbers, expected {len(labels)}, one for "
            f"each class in the order {', '.join(labels.names)}"
        )
    splits = tuple(
        with_pack(find_split(config.data, name), config.data)
        for name in (config.data.train_split, config.data.val_split)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of new tensors: `run_training` tells it all
        model = create_model(
            settings.encoder,
            len(labels),
            settings.output_stride,
            settings.atrous_rates,
            settings.aspp_dropout,
            decoder=settings.decoder,
            reduction=settings.reduction,
            encoder_weights=settings.encoder_weights if fresh else None,
            offline=offline,
            labels=labels,
        )
    checks = check_for_training(splits, config.data) if check else None
    weights = None
    if checks and given is not None:
        weights = given if isinstance(given, list) else class_weights(checks[0], given)
        weights = torch.tensor(weights, dtype=torch.float32)
    for split in splits:
        console.print(f"{split.name}: read from {pixel_source(split, config.data)}")
    return Segmentation(config, model, splits, weights)


def build_classification(config: ClassificationConfig, *, check: bool) -> Classification:
    folders = find_folders(config.data)
    settings = config.model
    model = create_classifier(
        settings.encoder, folders[0].classes, settings.reduction, settings.drop_rate
    )
    if check:
        with progress_bar() as bar:
            task = bar.add_task("check", total=sum(len(split.samples) for split in folders))
            check_folders(folders, lambda: bar.advance(task))
    if config.data.train_split == config.data.val_split:
        console.print("Trained and scored on the same images: no score.", style="bold red")
    for split in folders:
        console.print(f"{split.name}: {len(split.samples)} images of {len(split.classes)} classes")
    return Classification(config, model, folders)
