"""The protocols that the training loop needs: an indexed dataset, and a task to train."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import nn

from segcoord.config.schema import ClassificationConfig, SegmentationConfig
from segcoord.models.segmentation import ImageModel


class IndexedDataset(Protocol):
    """A dataset keyed by (epoch, index); the key and the seed alone determine the augmentation."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> dict: ...

    def path(self, index: int) -> Path:
        """The image file of an index, for the digest of the training images."""

    def source(self, key: tuple[int, int]) -> Path:
        """The image file of an (epoch, index), for error messages."""


class Task(Protocol):
    """What the loop trains: a model with its data, loss and metric."""

    config: SegmentationConfig | ClassificationConfig
    model: ImageModel
    """The model that is validated and saved."""
    module: nn.Module
    """The training module: wraps the model, maps a collated batch to a scalar loss."""
    train_set: IndexedDataset
    columns: Sequence[str]
    """Names of the scores that `validate` returns; the first one selects best.ckpt."""
    val_images: int

    def parameter_groups(self) -> list[dict]:
        """Parameter groups for the optimizer; "factor" multiplies the learning rate of a group."""

    def validate(self, model: ImageModel, on_image: Callable[[], None]) -> dict[str, float]:
        """Evaluate on the whole validation split.

        Several processes each predict a part of the images and all return the same scores.

        Args:
            model: The model to evaluate.
            on_image: Called after each image.

        Returns:
            The scores by name, 0..1.
        """

    def examples(self, model: ImageModel) -> np.ndarray | None:
        """Draw some predictions: (H, W, 3) uint8 RGB, or None if the task has no visualization."""
