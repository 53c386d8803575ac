"""Class names, colors, and the mapping between mask values and class indices. Imports no torch.

mask value   the pixel value in a mask file (VOC: the class index; Cityscapes: the label id)
class index  0..K-1, as predicted by the network and counted by the metrics
void         class index 255, ignored by the loss and the metrics
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from segcoord.utils.errors import UserError

VOID = 255
UNKNOWN = 254  # in LabelSet.to_index: a mask value that is neither a class nor void


@dataclass(frozen=True)
class LabelClass:
    """One class: its name, display color (RGB, 0..255) and value in mask files."""

    name: str
    color: tuple[int, int, int]
    id: int


class LabelSet:
    """The classes of a dataset, ordered by class index.

    Args:
        classes: 1 to 254 classes with distinct names and mask values.
        void_ids: mask values to ignore, in addition to 255.

    Attributes:
        to_index: (256,) uint8, class index of each mask value, or VOID or UNKNOWN.
        to_value: (256,) uint8, mask value of each class index, VOID elsewhere.

    Raises:
        UserError: no class or too many, a duplicate name or mask value, a mask value or color
            outside its range.
    """

    def __init__(self, classes: Sequence[LabelClass], void_ids: Sequence[int] = ()) -> None:
        self.classes = tuple(classes)
        self.void_ids = tuple(sorted({*void_ids} - {VOID}))
        self._check()
        ids = [c.id for c in self.classes]
        self.to_index = np.full(256, UNKNOWN, np.uint8)
        self.to_index[[VOID, *self.void_ids]] = VOID
        self.to_index[ids] = np.arange(len(ids))
        self.to_value = np.full(256, VOID, np.uint8)
        self.to_value[: len(ids)] = ids

    def _check(self) -> None:
        if not 1 <= len(self.classes) <= UNKNOWN:
            raise UserError(f"classes: found {len(self.classes)}, expected 1 to {UNKNOWN}")
        for what, values in (
            ("name", [c.name for c in self.classes]),
            ("mask value (id)", [c.id for c in self.classes] + list(self.void_ids)),
        ):
            duplicates = sorted({str(v) for v in values if values.count(v) > 1})
            if duplicates:
                raise UserError(
                    f"classes: duplicate {what}: {', '.join(duplicates)}; each must be unique"
                )
        outside = [v for v in self.void_ids if not 0 <= v < VOID]
        if outside:
            raise UserError(f"void_ids: found {outside}, expected mask values from 0 to 255")
        for c in self.classes:
            if not 0 <= c.id < VOID:
                raise UserError(f"class {c.name!r}: id {c.id}, expected 0 to 254 (255 is void)")
            if len(c.color) != 3 or not all(0 <= v <= 255 for v in c.color):
                raise UserError(
                    f"class {c.name!r}: color {c.color}, expected three values from 0 to 255"
                )

    def __len__(self) -> int:
        return len(self.classes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSet) and self.to_dict() == other.to_dict()

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.classes]

    @property
    def colors(self) -> np.ndarray:
        """(256, 3) uint8 RGB by class index; void and unused indices have VOC's void color."""
        table = np.full((256, 3), (224, 224, 192), np.uint8)
        table[: len(self)] = [c.color for c in self.classes]
        return table

    def to_dict(self) -> dict:
        """Return plain lists, strings and integers, for checkpoints and YAML."""
        classes = [asdict(c) | {"color": list(c.color)} for c in self.classes]
        return {"classes": classes, "void_ids": list(self.void_ids)}

    @classmethod
    def from_dict(cls, config: dict) -> LabelSet:
        """Inverse of `to_dict`."""
        classes = [LabelClass(c["name"], tuple(c["color"]), c["id"]) for c in config["classes"]]
        return cls(classes, config["void_ids"])


def voc_colors(n: int) -> list[tuple[int, int, int]]:
    """The Pascal VOC color map: the index's bits, spread over R, G and B from the top bit down.

    Source: VOCcode/VOClabelcolormap.m of the VOC 2012 development kit.
    """

    def value(index: int, channel: int) -> int:
        return sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))

    return [(value(i, 0), value(i, 1), value(i, 2)) for i in range(n)]


def numbered_labels(num_classes: int) -> LabelSet:
    """Placeholder labels: class_0, class_1, ... in VOC's colors."""
    colors = voc_colors(num_classes)
    return LabelSet([LabelClass(f"class_{i}", c, i) for i, c in enumerate(colors)])


# fmt: off
_VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)
# fmt: on
VOC = LabelSet([LabelClass(n, c, i) for i, (n, c) in enumerate(zip(_VOC_NAMES, voc_colors(21)))])

# The 19 evaluated classes of the 34 label ids, in train id order.
# Source: cityscapesscripts/helpers/labels.py.
CITYSCAPES = LabelSet(
    [
        LabelClass("road", (128, 64, 128), 7),
        LabelClass("sidewalk", (244, 35, 232), 8),
        LabelClass("building", (70, 70, 70), 11),
        LabelClass("wall", (102, 102, 156), 12),
        LabelClass("fence", (190, 153, 153), 13),
        LabelClass("pole", (153, 153, 153), 17),
        LabelClass("traffic light", (250, 170, 30), 19),
        LabelClass("traffic sign", (220, 220, 0), 20),
        LabelClass("vegetation", (107, 142, 35), 21),
        LabelClass("terrain", (152, 251, 152), 22),
        LabelClass("sky", (70, 130, 180), 23),
        LabelClass("person", (220, 20, 60), 24),
        LabelClass("rider", (255, 0, 0), 25),
        LabelClass("car", (0, 0, 142), 26),
        LabelClass("truck", (0, 0, 70), 27),
        LabelClass("bus", (0, 60, 100), 28),
        LabelClass("train", (0, 80, 100), 31),
        LabelClass("motorcycle", (0, 0, 230), 32),
        LabelClass("bicycle", (119, 11, 32), 33),
    ],
    void_ids=[0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30],
)
CITYSCAPES_TRAIN_IDS = LabelSet(
    [LabelClass(c.name, c.color, i) for i, c in enumerate(CITYSCAPES.classes)]
)
"""The same classes in masks of train ids (`*_labelTrainIds.png`)."""
