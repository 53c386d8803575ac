"""Cityscapes' further scores: IoU of the categories, and iIoU, where each instance weighs alike.

Definitions and tables: cityscapesscripts/evaluation/evalPixelLevelSemanticLabeling.py and
cityscapesscripts/helpers/labels.py (mcordts/cityscapesScripts), which prints iIoU as nIoU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics import Metric

from segcoord.data.corruption import DECODE_ERRORS
from segcoord.data.labels import CITYSCAPES, VOID
from segcoord.data.split import Sample
from segcoord.evaluation.metrics import Scores, divide, mean, or_none
from segcoord.utils.errors import UserError

CATEGORIES = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
AVERAGE_SIZES = {  # pixels of an instance, over the dataset
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
"""The classes that have instances, and count."""

INSTANCES_OF_VOID = (29, 30)  # caravan and trailer: label ids with instances that don't count
_K, _C = len(CITYSCAPES), len(CATEGORIES)
_BELONGS = np.array([[n in names for n in CITYSCAPES.names] for names in CATEGORIES.values()])
_CATEGORY_OF = _BELONGS.argmax(0)  # (19,) class index -> category
_SIZES = np.array([AVERAGE_SIZES.get(name, np.nan) for name in CITYSCAPES.names])  # (19,)
_WITH_INSTANCES = np.isfinite(_SIZES)
_CATEGORIES_WITH_INSTANCES = ~(_BELONGS & ~_WITH_INSTANCES).any(1)  # (7,): human and vehicle


class InstanceWeights(Metric):
    """Pixels of instances that were found or missed, each times average size / instance's size.

    `compute` gives (2, 19 + 7) float64: found and missed, by class and then by category. The state
    adds up across processes.
    """

    full_state_update = False
    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        empty = torch.zeros(2, _K + _C, dtype=torch.float64)
        self.add_state("weights", empty, dist_reduce_fx="sum")

    def update(self, prediction: np.ndarray, instances: np.ndarray) -> None:
        """Counts one image.

        Args:
            prediction: (H, W) uint8 class indices.
            instances: (H, W) integers, 1000 * label id + number for an instance's pixels, from
                `read_instances`.
        """
        inside = instances > 1000
        predicted = prediction[inside]
        ids, place, sizes = np.unique(instances[inside], return_inverse=True, return_counts=True)
        classes = CITYSCAPES.to_index[ids // 1000]  # (I,)
        counts = classes != VOID
        classes[~counts] = 0
        weight = np.where(counts, _SIZES[classes] / sizes, 0.0)
        same = predicted == classes[place]
        related = _CATEGORY_OF[predicted] == _CATEGORY_OF[classes][place]
        for offset, length, names, right in (
            (0, _K, classes, same),
            (_K, _C, _CATEGORY_OF[classes], related),
        ):
            found = np.bincount(place, right, len(ids))
            for row, pixels in zip(self.weights[:, offset:], (found, sizes - found)):
                row[:length] += torch.from_numpy(np.bincount(names, pixels * weight, length))

    def compute(self) -> Tensor:
        return self.weights


@dataclass(frozen=True)
class CityscapesScores:
    """Scores by category and instance; NaN where there is nothing to divide by.

    Args:
        confusion: (19, 19) int64 pixel counts, as of `Scores`.
        weights: (2, 26) float64 of `InstanceWeights`; None where the instances aren't known.
    """

    confusion: np.ndarray
    weights: np.ndarray | None = None

    @property
    def categories(self) -> Scores:
        """Scores of the 7 categories, in the order of CATEGORIES."""
        return Scores(_BELONGS.astype(np.int64) @ self.confusion @ _BELONGS.T)

    @property
    def class_iiou(self) -> np.ndarray | None:
        """(19,) float64; NaN for classes that have no instances."""
        return self._iiou(self.confusion, slice(_K), _WITH_INSTANCES)

    @property
    def category_iiou(self) -> np.ndarray | None:
        """(7,) float64; NaN but for human and vehicle."""
        confusion = self.categories.confusion
        return self._iiou(confusion, slice(_K, None), _CATEGORIES_WITH_INSTANCES)

    def _iiou(self, confusion: np.ndarray, part: slice, some: np.ndarray) -> np.ndarray | None:
        if self.weights is None:
            return None
        found, missed = self.weights[:, part]
        wrong = confusion.sum(0) - confusion.diagonal()  # what is predicted where it is not
        return np.where(some, divide(found, found + missed + wrong), np.nan)

    def to_dict(self) -> dict:
        """{"category_miou", "categories": [{"name", "iou"}]} for JSON, and where instances are
        known "iiou" and "category_iiou", the means, "iiou" of each category, and "classes".
        """
        scores = self.categories
        names = [{"name": name} for name in CATEGORIES]
        categories = [n | {"iou": or_none(v)} for n, v in zip(names, scores.iou)]
        result = {"category_miou": or_none(scores.miou), "categories": categories}
        if self.weights is None:
            return result
        for category, value in zip(categories, self.category_iiou):
            category["iiou"] = or_none(value)
        return result | {
            "iiou": or_none(mean(self.class_iiou)),
            "category_iiou": or_none(mean(self.category_iiou)),
            "classes": [
                {"name": name, "iiou": or_none(self.class_iiou[CITYSCAPES.names.index(name)])}
                for name in AVERAGE_SIZES
            ],
        }


def instances_path(sample: Sample) -> Path:
    """Where the instances of a labelled sample lie, if they do."""
    frame = sample.mask.name.rpartition("_gtFine_")[0]
    return sample.mask.with_name(f"{frame}_gtFine_instanceIds.png")


def read_instances(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) int32: label id, or 1000 * label id + number where an instance is known.

    Raises:
        UserError: a file that can't be read, has another size or holds other ids.
    """
    try:
        with Image.open(path) as image:
            instances = np.array(image)
    except DECODE_ERRORS as error:
        raise UserError(f"can't be read as an image: {error}.", path=path) from error
    if instances.shape != size or instances.dtype.kind not in "iu":
        raise UserError(
            f"found {instances.shape} {instances.dtype}, expected {size} integers as of its mask",
            path=path,
        )
    instances = instances.astype(np.int32)
    known = {CITYSCAPES.classes[i].id for i in np.flatnonzero(_WITH_INSTANCES)}
    labels = set(np.unique(instances[instances > 1000] // 1000).tolist())
    if other := labels - known - {*INSTANCES_OF_VOID}:
        raise UserError(
            f"holds an instance of label id {min(other)}, expected instances of "
            f"{', '.join(str(i) for i in sorted({*known, *INSTANCES_OF_VOID}))} alone",
            path=path,
        )
    return instances
