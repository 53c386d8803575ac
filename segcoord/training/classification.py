"""The classification task: pretrains a backbone for segmentation."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcoord.config.schema import ClassificationConfig
from segcoord.data.image_folder import ClassTrainDataset, ClassValDataset, ImageFolders
from segcoord.data.loader import WorkerLoader
from segcoord.data.transforms import CenterTransform, ClassTransform
from segcoord.models.classifier import Classifier
from segcoord.utils.distributed import rank_indices

VAL_BATCH = 64


class ClassificationLoss(nn.Module):
    """The training module: the model and its loss, wrapped together for DistributedDataParallel."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy, a scalar, for {"image": (N, h, w, 3) uint8, "label": (N,) int64}."""
        return F.cross_entropy(self.model(self.model.normalize(batch["image"])), batch["label"])


class ClassificationTask:
    """The `Task` that trains an image classifier; `folders` are for training and validation."""

    columns = ("top1", "top5")

    def __init__(
        self,
        config: ClassificationConfig,
        model: Classifier,
        folders: tuple[ImageFolders, ImageFolders],
    ) -> None:
        self.config, self.model = config, model
        self.module = ClassificationLoss(model)
        transform = ClassTransform(config.data)
        self.train_set = ClassTrainDataset(folders[0], transform, config.train.seed)
        self.val_set = ClassValDataset(folders[1], CenterTransform(config.data))
        self.val_images = len(self.val_set)

    def parameter_groups(self) -> list[dict]:
        """One group with all parameters."""
        return [{"params": list(self.model.parameters()), "factor": 1.0}]

    def validate(self, model: Classifier, on_image: Callable[[], None]) -> dict[str, float]:
        """Top-1 and top-5 accuracy on the validation images, 0..1."""
        from torchmetrics.classification import MulticlassAccuracy  # takes seconds

        model.eval()
        device = model.mean.device
        num_classes = len(model.classes)
        metrics = [
            MulticlassAccuracy(num_classes, top_k=min(k, num_classes), average="micro").to(device)
            for k in (1, 5)
        ]
        loader = WorkerLoader(
            self.val_set,
            sampler=rank_indices(self.val_images),
            batch_size=VAL_BATCH,
            num_workers=self.config.data.workers,
            pin_memory=device.type == "cuda",
        )
        for batch in loader:
            images, label = (batch[k].to(device, non_blocking=True) for k in ("image", "label"))
            with torch.inference_mode():
                logits = model(model.normalize(images))
                for metric in metrics:
                    metric.update(logits, label)
            for _ in batch["label"]:
                on_image()
        return dict(zip(self.columns, (metric.compute().item() for metric in metrics)))

    def examples(self, model: Classifier) -> None:
        """Return None: classification has no visualization."""
