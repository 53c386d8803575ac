"""Mean IoU as a torchmetrics Metric, for training loops of your own."""

import torch
from torch import Tensor
from torchmetrics import Metric

from segcoord.evaluation.metrics import Scores, confusion_matrix, require_ignore_index


class MeanIoU(Metric):
    """Accumulates a confusion matrix; `compute` returns the mIoU, float64 in 0..1.

    The state is summed across processes. A class in neither truth nor prediction is left out of the
    mean; without any class, the mean is NaN. `scores()` returns all other scores.

    Args:
        num_classes: K.
        ignore_index: ignored value of the target; K to 255.

    Raises:
        ValueError: `num_classes` outside 1 to 255, or `ignore_index` outside K to 255.
    """

    full_state_update = False
    higher_is_better = True
    confusion: Tensor

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__()
        if not 1 <= num_classes <= 255:
            raise ValueError(f"num_classes={num_classes}, expected 1 to 255")
        require_ignore_index(ignore_index, num_classes)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        empty = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("confusion", empty, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Counts one image or batch; arguments and errors as in `confusion_matrix`."""
        self.confusion += confusion_matrix(preds, target, self.num_classes, self.ignore_index)

    def compute(self) -> Tensor:
        return torch.tensor(self.scores().miou, dtype=torch.float64)

    def scores(self) -> Scores:
        """All scores of the images counted so far in this process."""
        return Scores(self.confusion.cpu().numpy())
