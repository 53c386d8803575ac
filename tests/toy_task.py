"""A task whose steps are easy to compute."""

from __future__ import annotations

from pathlib import Path

import torch

from segcoord.config.schema import DataConfig, ModelConfig, SegmentationConfig, TrainConfig
from segcoord.models.segmentation import ImageModel
from segcoord.training.fabric import training_fabric
from segcoord.training.loop import train as train_task


class Toy:
    """A Task without batch norm, whose steps are easy to compute."""

    columns = ("score",)
    val_images = 0

    def __init__(self, **settings: object) -> None:
        defaults = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 0.5}
        defaults |= {"max_steps": 1, "batch_size": 4, "accelerator": "cpu"}
        train = TrainConfig(**defaults | settings)
        self.config = SegmentationConfig(
            ModelConfig(), DataConfig("voc", "nowhere", workers=0), train
        )
        torch.manual_seed(0)
        self.model = ImageModel(torch.nn.Conv2d(3, 2, 1), {}, [0.0] * 3, [1.0] * 3)
        self.module = self.model.net
        self.module.forward = self.loss
        self.train_set = self

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        return torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(key[1]))

    def path(self, index: int) -> Path:
        return Path(f"image{index}.png")

    def source(self, key: tuple[int, int]) -> Path:
        return self.path(key[1])

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        weight, bias = self.module.weight, self.module.bias
        return torch.nn.functional.conv2d(batch, weight, bias).square().mean()

    def parameter_groups(self) -> list[dict]:
        return [{"params": list(self.model.parameters()), "factor": 1.0}]

    def validate(self, model: ImageModel, on_image) -> dict[str, float]:
        return {"score": 0.5}

    def examples(self, model: ImageModel) -> None:
        """No visualization."""

    def step(self, folder: Path) -> dict[str, torch.Tensor]:
        """Train; returns the decrease of the weights."""
        before = {k: v.clone() for k, v in self.model.state_dict().items()}
        folder.mkdir(parents=True)
        train_task(self, folder, training_fabric(self.config.train))
        return {k: v - self.model.state_dict()[k] for k, v in before.items()}
