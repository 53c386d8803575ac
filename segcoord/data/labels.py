"""Class names, colors, and the mapping between mask values and class indices. Imports no torch.

mask value   the pixel value in a mask file (VOC: the class index; Cityscapes: the label id)
class index  0..K-1, as predicted by the network and counted by the metrics
void         class index 255, ignored by the loss and the metrics
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from segcoord.utils.errors import UserError

VOID = 255
UNKNOWN = 254  # in LabelSet.to_index: a mask value that is neither a class nor void
MAX_ID = 65535
READING_RULES = 1
"""Increase it if palette masks, or masks of binary segmentation, are read differently than before.

Then packs of such masks, and the results of data.skip_bad, are out of date.
"""
MaskKind = Literal["gray", "palette", "rgb"]
"""What the pixels of a mask file are: values, indices of palette colors, or colors."""
VOID_COLOR = (224, 224, 192)  # of object borders in VOC's masks


@dataclass(frozen=True)
class LabelClass:
    """One class: its name, display color (RGB, 0..255) and values in mask files.

    `id` is written to masks; `other_ids` are read as the same class.
    """

    name: str
    color: tuple[int, int, int]
    id: int
    other_ids: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        return self.id, *self.other_ids

    @property
    def id_or_ids(self) -> int | list[int]:
        """`id`, or the list of `ids` if there are several, as in `data.classes`."""
        return list(self.ids) if self.other_ids else self.id


class LabelSet:
    """The classes of a dataset, ordered by class index.

    Args:
        classes: 1 to 254 classes with distinct names and mask values.
        void_ids: mask values to ignore. 255 is always one of them, unless a class has it.
        binary: two classes, background and foreground: each mask value that is neither the
            background's nor in `void_ids` is the foreground.
        colors_given: whether the colors are those of masks stored as RGB, not only for display.
        ids_given: whether the ids were chosen, rather than the positions of the classes; then they
            decide about palette masks whose colors contradict their indices.

    Attributes:
        to_index: class index of each mask value, or VOID or UNKNOWN: (256,) uint8, or (65536,) if
            a larger mask value has a meaning.
        to_value: (256,), mask value of each class index, elsewhere a value that is void; uint8, or
            uint16 if a class has a larger mask value.

    Raises:
        UserError: no class or too many, a duplicate name or mask value, a mask value or color
            outside its range.
    """

    def __init__(
        self,
        classes: Sequence[LabelClass],
        void_ids: Sequence[int] = (),
        *,
        binary: bool = False,
        colors_given: bool = True,
        ids_given: bool = True,
    ) -> None:
        self.classes = tuple(classes)
        self.binary, self.colors_given, self.ids_given = binary, colors_given, ids_given
        ids = {value for c in self.classes for value in c.ids}
        self.void_ids = tuple(sorted({*void_ids} - (set() if VOID in ids else {VOID})))
        self._check()
        largest = MAX_ID if binary else max(*ids, *self.void_ids, VOID)
        self.to_index = np.full(256 if largest <= VOID else MAX_ID + 1, UNKNOWN, np.uint8)
        if binary:
            self.to_index[:] = 1
        voids = [*self.void_ids] + [VOID] * (VOID not in ids)
        self.to_index[voids] = VOID
        for index, c in enumerate(self.classes):
            self.to_index[list(c.ids)] = index
        written = [c.id for c in self.classes]
        dtype = np.uint8 if max(written) <= VOID else np.uint16
        small = [v for v in voids if v <= np.iinfo(dtype).max]
        self.to_value = np.full(256, VOID if VOID in voids or not small else small[0], dtype)
        self.to_value[: len(written)] = written

    def _check(self) -> None:
        if not 1 <= len(self.classes) <= UNKNOWN:
            raise UserError(f"data.classes: found {len(self.classes)}, expected 1 to {UNKNOWN}")
        ids = [value for c in self.classes for value in c.ids]
        for what, values in (
            ("name", [c.name for c in self.classes]),
            ("mask value (id)", ids + list(self.void_ids)),
        ):
            duplicates = sorted({str(v) for v in values if values.count(v) > 1})
            if duplicates:
                raise UserError(
                    f"data.classes: duplicate {what}: {', '.join(duplicates)}; each must be unique"
                )
        outside = [v for v in self.void_ids if not 0 <= v <= MAX_ID]
        if outside:
            raise UserError(
                f"data.void_ids: found {outside}, expected mask values from 0 to {MAX_ID}"
            )
        for c in self.classes:
            for value in c.ids:
                if not 0 <= value <= MAX_ID:
                    raise UserError(f"class {c.name!r}: id {value}, expected 0 to {MAX_ID}")
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
        table = np.full((256, 3), VOID_COLOR, np.uint8)
        table[: len(self)] = [c.color for c in self.classes]
        return table

    @property
    def has_void(self) -> bool:
        """Whether a mask value is void."""
        return bool((self.to_index == VOID).any())

    @cached_property
    def checksums(self) -> dict[MaskKind, int]:
        """CRC-32 of all that decides how masks become class indices, by the kind of mask."""
        by_value, by_color = zlib.crc32(self.to_index), self.color_checksum
        by_both = zlib.crc32(self.to_index, by_color)
        if self.binary:
            by_value, by_both = (zlib.crc32(bytes([READING_RULES]), c) for c in (by_value, by_both))
        palette_colors = self.colors_given and not self.ids_given
        by_palette = zlib.crc32(bytes([READING_RULES]), by_both)
        return {
            "gray": by_value,
            "palette": by_palette if self.binary or palette_colors else by_value,
            # Without given colors, equal channels hold values.
            "rgb": by_color if self.colors_given else by_both,
        }

    @cached_property
    def color_checksum(self) -> int:
        """CRC-32 of the class colors, and of whether they were given."""
        return zlib.crc32(self.colors, int(self.colors_given) + 1)

    def indices(self, values: np.ndarray) -> np.ndarray:
        """Map mask values, uint8 or uint16 of any shape, to uint8 class indices."""
        if values.dtype == np.uint8:
            import cv2  # slow, and all commands import this module

            return cv2.LUT(values, self.table(256))
        return self.table(MAX_ID + 1)[values]

    def table(self, length: int) -> np.ndarray:
        """`to_index` cut or extended to a length: (length,) uint8."""
        table = np.full(length, UNKNOWN, np.uint8)
        table[: len(self.to_index)] = self.to_index[:length]
        return table

    def to_dict(self) -> dict:
        """Return plain lists, strings and integers, for checkpoints and YAML.

        The `id` of a class with several mask values is their list, the one to write first.
        """
        classes = [
            {
                "name": c.name,
                "color": list(c.color),
                "id": c.id_or_ids,
            }
            for c in self.classes
        ]
        return {"classes": classes, "void_ids": list(self.void_ids)} | (
            {"binary": True} if self.binary else {}
        )

    @classmethod
    def from_dict(cls, config: dict) -> LabelSet:
        """Inverse of `to_dict`, which leaves out `colors_given` and `ids_given`."""
        classes = [
            LabelClass(c["name"], tuple(c["color"]), *split_ids(c["id"])) for c in config["classes"]
        ]
        return cls(classes, config["void_ids"], binary=config.get("binary", False))


def split_ids(ids: int | Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """The `id` and `other_ids` of a class from one mask value or a list of them."""
    return (ids, ()) if isinstance(ids, int) else (ids[0], tuple(ids[1:]))


BINARY_VALUE = 255
"""Mask value of the foreground in the masks that a binary model writes."""


def binary_labels(
    name: str, color: tuple[int, int, int], void_ids: Sequence[int] = (), colors_given: bool = True
) -> LabelSet:
    """Classes of binary segmentation: background is mask value 0, all others are the foreground.

    Args:
        name: of the foreground.
        color: of the foreground.
        void_ids: mask values to ignore; 255 is foreground unless it is one of them.
        colors_given: as in `LabelSet`.

    Raises:
        UserError: as for `LabelSet`; 0 among the void ids.
    """
    if 0 in void_ids:
        raise UserError(
            "data.void_ids: found 0, which is background in binary segmentation (one class without "
            "an id); remove it, or list all classes with their ids"
        )
    value = next(v for v in (BINARY_VALUE, 1, 2) if v not in void_ids)
    background = LabelClass("background", (0, 0, 0), 0)
    return LabelSet(
        [background, LabelClass(name, color, value)],
        void_ids,
        binary=True,
        colors_given=colors_given,
        ids_given=False,
    )


@lru_cache
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
