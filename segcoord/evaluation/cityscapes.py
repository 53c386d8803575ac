"""Cityscapes scores: IoU of the categories, and iIoU, which weights each instance equally.

Definitions and tables: cityscapesscripts/evaluation/evalPixelLevelSemanticLabeling.py and
cityscapesscripts/helpers/labels.py (mcordts/cityscapesScripts), which prints iIoU as nIoU.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segcoord.data.corruption import DECODE_ERRORS
from segcoord.data.labels import CITYSCAPES, VOID
from segcoord.data.split import Sample, Split
from segcoord.evaluation.metrics import Scores, divide, mean, or_none
from segcoord.utils.console import console
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
AVERAGE_SIZES = {  # pixels per instance, over the dataset
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
"""The scored classes with instances."""

VOID_INSTANCE_IDS = (29, 30)
"""Label ids of caravan and trailer, which have instances but are ignored."""

_K, _C = len(CITYSCAPES), len(CATEGORIES)
_MEMBERS = np.array([[n in names for n in CITYSCAPES.names] for names in CATEGORIES.values()])
_CATEGORY_OF = np.full(256, _C)  # class index -> category; void is in none of them
_CATEGORY_OF[:_K] = _MEMBERS.argmax(0)
_SIZES = np.array([AVERAGE_SIZES.get(name, np.nan) for name in CITYSCAPES.names])  # (19,)
_HAS_INSTANCES = np.isfinite(_SIZES)
_CATEGORY_HAS_INSTANCES = ~(_MEMBERS & ~_HAS_INSTANCES).any(1)  # (7,): human and vehicle


class InstanceWeights:
    """Weighted true positives and false negatives of instances.

    Each pixel of an instance weighs the average size of its class over the instance's size.

    Attributes:
        weights: (2, 19 + 7) float64, true positives and false negatives, by class and then by
            category.
    """

    def __init__(self) -> None:
        self.weights = np.zeros((2, _K + _C))

    def update(self, prediction: np.ndarray, instances: np.ndarray) -> None:
        """Counts one image.

        Args:
            prediction: (H, W) uint8 class indices, 255 for void.
            instances: (H, W) integers, 1000 * label id + number for an instance's pixels, from
                `read_instances`.
        """
        inside = instances > 1000
        predicted = prediction[inside]
        ids, inverse, sizes = np.unique(instances[inside], return_inverse=True, return_counts=True)
        classes = CITYSCAPES.to_index[ids // 1000]  # (I,)
        scored = classes != VOID
        classes[~scored] = 0
        pixel_weight = np.where(scored, _SIZES[classes] / sizes, 0.0)  # (I,)
        categories = _CATEGORY_OF[classes]
        same_class = predicted == classes[inverse]
        same_category = _CATEGORY_OF[predicted] == categories[inverse]
        for offset, length, groups, correct in (
            (0, _K, classes, same_class),
            (_K, _C, categories, same_category),
        ):
            found = np.bincount(inverse, correct, len(ids))
            for row, pixels in zip(self.weights[:, offset:], (found, sizes - found)):
                row[:length] += np.bincount(groups, pixels * pixel_weight, length)

    def add_image(self, sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        """An `ImageCallback` that reads the instance file of a sample and counts the image."""
        self.update(prediction, read_instances(instances_path(sample), prediction.shape))


def instance_weights(split: Split) -> InstanceWeights | None:
    """The iIoU metric; None, with a note, unless every mask has an instance file beside it."""
    if not split.labelled:
        return None
    missing = [p for p in map(instances_path, split.samples) if not p.is_file()]
    if not missing:
        return InstanceWeights()
    console.print(
        f"iIoU is left out: {len(missing)} of {len(split)} masks have no instance file beside "
        f"them, such as {missing[0].name}"
    )
    return None


@dataclass(frozen=True)
class CityscapesScores:
    """Scores by category and instance; NaN where undefined.

    Args:
        confusion: (19, 19) or (19, 20) int64 pixel counts, as in `Scores`.
        weights: (2, 26) float64 from `InstanceWeights`; None without instance files.
    """

    confusion: np.ndarray
    weights: np.ndarray | None = None

    @property
    def categories(self) -> Scores:
        """Scores of the 7 categories, in the order of CATEGORIES."""
        by_class = _MEMBERS.astype(np.int64) @ self.confusion
        return Scores(np.hstack([by_class[:, :_K] @ _MEMBERS.T, by_class[:, _K:]]))

    @property
    def class_iiou(self) -> np.ndarray | None:
        """(19,) float64; NaN for classes without instances."""
        return self._iiou(Scores(self.confusion), slice(_K), _HAS_INSTANCES)

    @property
    def category_iiou(self) -> np.ndarray | None:
        """(7,) float64; NaN except for human and vehicle."""
        return self._iiou(self.categories, slice(_K, None), _CATEGORY_HAS_INSTANCES)

    def _iiou(self, scores: Scores, part: slice, mask: np.ndarray) -> np.ndarray | None:
        if self.weights is None:
            return None
        true_positives, false_negatives = self.weights[:, part]
        false_positives = scores.predicted - scores.confusion.diagonal()
        union = true_positives + false_negatives + false_positives
        return np.where(mask, divide(true_positives, union), np.nan)

    def to_dict(self) -> dict:
        """For JSON: {"category_miou", "categories": [{"name", "iou"}]}.

        With instances also "iiou" and "category_iiou" (means), "iiou" per category, and "classes".
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
    """Path of the instance file beside a sample's mask; it may not exist."""
    frame = sample.mask.name.rpartition("_gtFine_")[0]
    return sample.mask.with_name(f"{frame}_gtFine_instanceIds.png")


def read_instances(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Reads an instance file: (H, W) int32, label id or 1000 * label id + number for instances.

    Raises:
        UserError: a file that can't be read, or with another size or other ids.
    """
    try:
        with Image.open(path) as image:
            instances = np.array(image)
    except DECODE_ERRORS as error:
        raise UserError(f"can't be read as an image: {error}.", path=path) from error
    if instances.shape != size or instances.dtype.kind not in "iu":
        raise UserError(
            f"found {instances.shape} {instances.dtype}, expected {size} integers like its mask",
            path=path,
        )
    instances = instances.astype(np.int32)
    known = {CITYSCAPES.classes[i].id for i in np.flatnonzero(_HAS_INSTANCES)}
    labels = set(np.unique(instances[instances > 1000] // 1000).tolist())
    if other := labels - known - {*VOID_INSTANCE_IDS}:
        raise UserError(
            f"holds an instance of label id {min(other)}, expected instances of only "
            f"{', '.join(str(i) for i in sorted({*known, *VOID_INSTANCE_IDS}))}",
            path=path,
        )
    return instances
