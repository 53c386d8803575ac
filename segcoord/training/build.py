"""Build the task of a configuration: model, splits, class weights and data checks."""

import warnings
from dataclasses import asdict

import torch

from segcoord.config.base import split_parts
from segcoord.config.schema import ClassificationConfig, SegmentationConfig
from segcoord.data.checks.run import check_for_training
from segcoord.data.class_weights import class_weights
from segcoord.data.custom_augmentation import CustomAugmentation
from segcoord.data.image_folder import check_folders, find_folders
from segcoord.data.layouts import find_split, label_set
from segcoord.data.pack.reader import pixel_source, with_pack
from segcoord.data.rare_class_sampling import RareClassSampler
from segcoord.models.classifier import create_classifier
from segcoord.models.factory import create_model
from segcoord.training.classification import ClassificationTask
from segcoord.training.segmentation import SegmentationTask
from segcoord.training.teacher import Teacher
from segcoord.utils.console import console, progress_bar
from segcoord.utils.errors import UserError


def build_segmentation(
    config: SegmentationConfig, device: torch.device, *, fresh: bool, offline: bool, check: bool
) -> SegmentationTask:
    """Build the segmentation task; its teacher is on the device, its model still on the CPU.

    `fresh` loads model.encoder_weights, which a resumed run doesn't need; `check` checks all images
    and masks, and counts pixels for the class weights and the rare classes. Replaces train.epochs
    with train.max_steps. Raises UserError for unusable data or settings.
    """
    labels, settings = label_set(config.data), asdict(config.model)
    if not fresh:
        settings["encoder_weights"] = None
    weighting = config.train.class_weights
    if isinstance(weighting, list) and len(weighting) != len(labels):
        raise UserError(
            f"train.class_weights: found {len(weighting)} numbers, expected {len(labels)}, one for "
            f"each class in the order {', '.join(labels.names)}"
        )
    splits = tuple(
        with_pack(find_split(config.data, name), config.data)
        for name in (config.data.train_split, config.data.val_split)
    )
    config.train.resolve_epochs(len(splits[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # new tensors: the launch reports them all
        model = create_model(num_classes=len(labels), labels=labels, offline=offline, **settings)
    # Errors in these must not wait for the checks.
    if config.data.augmentation is not None:
        CustomAugmentation(config.data.augmentation, config.data.crop_size)
    teacher = None
    if (distillation := config.train.distillation) is not None:
        teacher = Teacher(distillation, labels, config.data.crop_size, device)
    checks = check_for_training(splits, config.data) if check else None
    weights = None
    if checks and weighting is not None:
        weights = weighting if isinstance(weighting, list) else class_weights(checks[0], weighting)
        weights = torch.tensor(weights, dtype=torch.float32)
    rare_classes = None
    if checks and (probability := config.data.rare_class_sampling):
        rare_classes = RareClassSampler(checks[0].pixels, checks[0].present, probability)
    for split in splits:
        console.print(f"{split.name}: read from {pixel_source(split, config.data)}")
    return SegmentationTask(config, model, splits, weights, rare_classes, teacher)


def build_classification(config: ClassificationConfig, *, check: bool) -> ClassificationTask:
    """Build the classification task; `check` decodes every image first.

    Raises:
        UserError: unusable folders or images.
    """
    folders = find_folders(config.data)
    config.train.resolve_epochs(len(folders[0].samples))
    model = create_classifier(classes=folders[0].classes, **asdict(config.model))
    if check:
        with progress_bar() as bar:
            task = bar.add_task("check", total=sum(len(split.samples) for split in folders))
            check_folders(folders, lambda: bar.advance(task))
    if {*split_parts(config.data.train_split)} & {*split_parts(config.data.val_split)}:
        console.print(
            "Validation images are trained on, so scores on them don't measure generalization.",
            style="bold red",
        )
    for split in folders:
        console.print(f"{split.name}: {len(split.samples)} images of {len(split.classes)} classes")
    return ClassificationTask(config, model, folders)
