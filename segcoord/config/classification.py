"""Settings of a run that trains an image classifier, the backbone of a later segmentation model."""

from dataclasses import dataclass
from typing import ClassVar

from segcoord.config.base import TaskConfig, require
from segcoord.config.optim import OptimConfig


@dataclass
class ClassifierConfig:
    """Encoder and classifier."""

    encoder: str = "mobilenetv2_ca_100"
    """timm name of the encoder; segcoord's own are named FAMILY_ATTENTION_WIDTH."""
    reduction: int | None = None
    """Channel reduction ratio of the attention blocks; null for the default of each."""
    drop_rate: float = 0.1
    """Dropout probability before the classifier."""

    def check(self) -> None:
        """Raises UserError for values out of range."""
        ratio = self.reduction
        require(ratio is None or ratio > 0, "model.reduction", ratio, "at least 1, or null")
        rate = self.drop_rate
        require(0 <= rate < 1, "model.drop_rate", rate, "0 up to below 1")


@dataclass
class ImageFolderConfig:
    """Images in one folder per class, like ImageNet: ROOT/SPLIT/CLASS/*.JPEG."""

    root: str
    """Folder of the dataset."""
    train_split: str = "train"
    """Subfolder of root to train on, or several joined with +, for example train+val."""
    val_split: str = "val"
    """Subfolder of root to validate on; may be joined too."""
    crop_size: int = 224
    """Height and width of the network's input in pixels."""
    resize: int = 256
    """Validation images: length of the shorter side, in pixels, before the center crop."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the area of a random training crop, relative to the image."""
    ratio: tuple[float, float] = (0.75, 1.3333)
    """Range of the aspect ratio (width / height) of a random training crop."""
    flip: bool = True
    """Random horizontal flip."""
    workers: int = 2
    """Data loading processes; 0 to load in the main process."""

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of a training crop."""
        return self.crop_size, self.crop_size

    def check(self) -> None:
        """Raises UserError for values out of range and combinations that can't work."""
        low, high = self.scale
        require(0 < low <= high <= 1, "data.scale", [low, high], "0 < the smaller <= larger <= 1")
        low, high = self.ratio
        ok = 0 < low <= high < float("inf")
        require(ok, "data.ratio", [low, high], "the smaller above 0, then the larger")
        require(self.crop_size >= 32, "data.crop_size", self.crop_size, "at least 32")
        expected = f"at least data.crop_size, {self.crop_size}"
        require(self.resize >= self.crop_size, "data.resize", self.resize, expected)
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")


@dataclass
class ClassificationConfig(TaskConfig):
    """A run that trains an encoder to classify images."""

    task: ClassVar[str] = "classification"
    headline: ClassVar[str] = "top1"
    model: ClassifierConfig
    data: ImageFolderConfig
    train: OptimConfig
