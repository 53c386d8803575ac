"""TODO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import nn

from segcoord.config.schema import ClassificationConfig, Config
from segcoord.models.segmentation import ImageModel


class IndexedDataset(Protocol):
    """Samples by (epoch, index), which alone decide about every random draw."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> dict: ...

    def path(self, index: int) -> Path:
        """The file of an image, for messages."""


class Task(Protocol):
    """What is trained: a model, its data, its loss and its score."""

    config: Config | ClassificationConfig
    model: ImageModel
    """What is validated and saved as the result."""
    module: nn.Module
    """What is trained: holds the model; takes a collated batch and returns its loss, a scalar."""
    train_set: IndexedDataset
    columns: Sequence[str]
    """What `validate` returns, the number that decides about best.ckpt first."""
    val_images: int

    def parameter_groups(self) -> list[dict]:
        """Groups for the optimiser, each with its learning rate's "factor"."""

    def validate(self, model: ImageModel, on_image: Callable[[], None]) -> dict[str, float]:
        """Scores the whole validation split, fractions of 1; calls on_image after each image.

        Where several processes train, each predicts its share, and all get the whole's scores.
        """

    def examples(self, model: ImageModel) -> np.ndarray | None:
        """A picture of some predictions, (H, W, 3) uint8 RGB; None where there are none to draw."""
