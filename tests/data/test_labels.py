"""Color maps and id tables, compared with the published ones."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segcoord.config.schema import ClassConfig
from segcoord.data.custom_labels import custom_labels, palette
from segcoord.data.labels import (
    CITYSCAPES,
    CITYSCAPES_TRAIN_IDS,
    UNKNOWN,
    VOC,
    VOID,
    LabelClass,
    LabelSet,
    binary_labels,
    numbered_labels,
    voc_colors,
)
from segcoord.utils.errors import UserError

RANDOM = settings(derandomize=True, deadline=None, max_examples=30)

# Names: VOCcode/VOCinit.m; colors: the output of VOClabelcolormap(21) in the VOC 2012 devkit.
DEVKIT = {
    "background": (0, 0, 0),
    "aeroplane": (128, 0, 0),
    "bicycle": (0, 128, 0),
    "bird": (128, 128, 0),
    "boat": (0, 0, 128),
    "bottle": (128, 0, 128),
    "bus": (0, 128, 128),
    "car": (128, 128, 128),
    "cat": (64, 0, 0),
    "chair": (192, 0, 0),
    "cow": (64, 128, 0),
    "diningtable": (192, 128, 0),
    "dog": (64, 0, 128),
    "horse": (192, 0, 128),
    "motorbike": (64, 128, 128),
    "person": (192, 128, 128),
    "pottedplant": (0, 64, 0),
    "sheep": (128, 64, 0),
    "sofa": (0, 192, 0),
    "train": (128, 192, 0),
    "tvmonitor": (0, 64, 128),
}

# id, name, train id (255: ignored), color: cityscapesscripts/helpers/labels.py. Its 35th entry,
# license plate, has id -1, which an 8-bit mask can't hold.
OFFICIAL = [
    (0, "unlabeled", 255, (0, 0, 0)),
    (1, "ego vehicle", 255, (0, 0, 0)),
    (2, "rectification border", 255, (0, 0, 0)),
    (3, "out of roi", 255, (0, 0, 0)),
    (4, "static", 255, (0, 0, 0)),
    (5, "dynamic", 255, (111, 74, 0)),
    (6, "ground", 255, (81, 0, 81)),
    (7, "road", 0, (128, 64, 128)),
    (8, "sidewalk", 1, (244, 35, 232)),
    (9, "parking", 255, (250, 170, 160)),
    (10, "rail track", 255, (230, 150, 140)),
    (11, "building", 2, (70, 70, 70)),
    (12, "wall", 3, (102, 102, 156)),
    (13, "fence", 4, (190, 153, 153)),
    (14, "guard rail", 255, (180, 165, 180)),
    (15, "bridge", 255, (150, 100, 100)),
    (16, "tunnel", 255, (150, 120, 90)),
    (17, "pole", 5, (153, 153, 153)),
    (18, "polegroup", 255, (153, 153, 153)),
    (19, "traffic light", 6, (250, 170, 30)),
    (20, "traffic sign", 7, (220, 220, 0)),
    (21, "vegetation", 8, (107, 142, 35)),
    (22, "terrain", 9, (152, 251, 152)),
    (23, "sky", 10, (70, 130, 180)),
    (24, "person", 11, (220, 20, 60)),
    (25, "rider", 12, (255, 0, 0)),
    (26, "car", 13, (0, 0, 142)),
    (27, "truck", 14, (0, 0, 70)),
    (28, "bus", 15, (0, 60, 100)),
    (29, "caravan", 255, (0, 0, 90)),
    (30, "trailer", 255, (0, 0, 110)),
    (31, "train", 16, (0, 80, 100)),
    (32, "motorcycle", 17, (0, 0, 230)),
    (33, "bicycle", 18, (119, 11, 32)),
]


def labels_of(*ids: int, void: tuple[int, ...] = ()) -> LabelSet:
    """Classes with the mask values `ids`, in this order."""
    return LabelSet([LabelClass(f"c{i}", (i, 0, 0), i) for i in ids], void)


@st.composite
def label_sets(draw: st.DrawFn) -> LabelSet:
    """Classes with any distinct mask values, and void ids from the remaining values."""
    values = draw(st.lists(st.integers(0, 254), unique=True, min_size=1, max_size=254))
    classes = draw(st.integers(1, len(values)))
    colors = draw(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=4))
    return LabelSet(
        [LabelClass(f"c{n}", colors[n % len(colors)], v) for n, v in enumerate(values[:classes])],
        values[classes:] + draw(st.sampled_from([[], [VOID]])),
    )


# -- VOC


def test_voc_matches_the_devkit_in_names_colors_and_order() -> None:
    assert {c.name: c.color for c in VOC.classes} == DEVKIT
    assert VOC.names == list(DEVKIT)
    assert [c.id for c in VOC.classes] == list(range(21))
    assert VOC.void_ids == ()


def test_all_256_voc_colors_are_distinct_and_the_last_is_void() -> None:
    colors = voc_colors(256)
    assert colors[:21] == list(DEVKIT.values())
    assert colors[255] == (224, 224, 192)  # the devkit's void color, at object borders
    assert len(set(colors)) == 256


def test_colors_by_index_have_a_void_color() -> None:
    np.testing.assert_array_equal(VOC.colors[:21], list(DEVKIT.values()))
    assert (VOC.colors[21:] == (224, 224, 192)).all()
    assert VOC.colors.dtype == np.uint8
    assert VOC.colors.shape == (256, 3)


def test_numbered_labels_have_placeholder_names_and_voc_colors() -> None:
    labels = numbered_labels(3)
    assert labels.names == ["class_0", "class_1", "class_2"]
    assert [c.id for c in labels.classes] == [0, 1, 2]
    assert [c.color for c in labels.classes] == [(0, 0, 0), (128, 0, 0), (0, 128, 0)]


# -- Cityscapes


def test_cityscapes_matches_the_official_table() -> None:
    assert len(OFFICIAL) == 34
    assert len(CITYSCAPES) == 19
    for value, name, train_id, color in OFFICIAL:
        assert CITYSCAPES.to_index[value] == train_id, name
        if train_id != 255:
            assert CITYSCAPES.to_value[train_id] == value  # as the evaluation server expects
            assert CITYSCAPES.classes[train_id] == LabelClass(name, color, value)
        else:
            assert value in CITYSCAPES.void_ids, name
            assert name not in CITYSCAPES.names
    assert (CITYSCAPES.to_index[34:255] == UNKNOWN).all()
    assert CITYSCAPES.to_index[255] == VOID


def test_cityscapes_train_ids_are_the_same_classes() -> None:
    assert CITYSCAPES_TRAIN_IDS.names == CITYSCAPES.names
    np.testing.assert_array_equal(CITYSCAPES_TRAIN_IDS.colors, CITYSCAPES.colors)
    np.testing.assert_array_equal(CITYSCAPES_TRAIN_IDS.to_index[:19], np.arange(19))
    # No value above 18 is void, so that label ids in a train id mask are an error.
    assert (CITYSCAPES_TRAIN_IDS.to_index[19:255] == UNKNOWN).all()


# -- any label set


@RANDOM
@given(label_sets())
def test_to_value_and_to_index_are_inverse(labels: LabelSet) -> None:
    k = len(labels)
    np.testing.assert_array_equal(labels.to_index[labels.to_value[:k]], np.arange(k))
    assert (labels.to_value[k:] == VOID).all()
    assert labels.to_index[VOID] == VOID
    assert labels.to_index.shape == labels.to_value.shape == (256,)
    assert labels.to_index.dtype == labels.to_value.dtype == np.uint8


@RANDOM
@given(label_sets())
def test_every_mask_value_is_a_class_void_or_unknown(labels: LabelSet) -> None:
    index_of = {c.id: index for index, c in enumerate(labels.classes)}
    for value in range(255):
        expected = VOID if value in labels.void_ids else index_of.get(value, UNKNOWN)
        assert labels.to_index[value] == expected


@RANDOM
@given(label_sets())
def test_labels_survive_a_round_trip_through_json(labels: LabelSet) -> None:
    restored = LabelSet.from_dict(json.loads(json.dumps(labels.to_dict())))
    assert restored == labels
    assert restored.classes == labels.classes
    np.testing.assert_array_equal(restored.to_index, labels.to_index)


def test_label_sets_are_equal_only_if_every_field_is() -> None:
    labels = labels_of(0, 1, void=(7,))
    assert labels == labels_of(0, 1, void=(7, 7, 255))  # a set that always includes 255
    assert labels != labels_of(1, 0, void=(7,))
    assert labels != labels_of(0, 1)
    assert labels != LabelSet([LabelClass("x", (0, 0, 0), 0), labels.classes[1]], (7,))
    assert labels != labels.to_dict()


def test_254_classes_are_supported() -> None:
    labels = labels_of(*range(254))
    np.testing.assert_array_equal(labels.to_index, [*range(254), UNKNOWN, VOID])


@pytest.mark.parametrize("n", [0, 255, 256, 300])
def test_too_few_or_too_many_classes_are_rejected(n: int) -> None:
    classes = [LabelClass(f"c{i}", (0, 0, 0), i % 255) for i in range(n)]
    with pytest.raises(UserError, match=f"found {n}, expected 1 to 254"):
        LabelSet(classes)


@pytest.mark.parametrize(
    ("classes", "void_ids", "message"),
    [
        (
            [("a", 3), ("b", 3), ("c", 4)],
            (),
            r"duplicate mask value \(id\): 3; each must be unique",
        ),
        ([("a", 3), ("b", 4)], (4,), r"duplicate mask value \(id\): 4;"),
        ([("a", 1), ("b", 2), ("a", 3)], (), "duplicate name: a;"),
        ([("a", 255)], (255,), r"duplicate mask value \(id\): 255;"),
        ([("a", -1)], (), "'a': id -1, expected 0 to 65535"),
        ([("a", 65536)], (), "'a': id 65536, expected 0 to 65535"),
    ],
)
def test_invalid_names_and_ids_are_rejected(
    classes: list[tuple[str, int]], void_ids: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        LabelSet([LabelClass(name, (0, 0, 0), value) for name, value in classes], void_ids)


@pytest.mark.parametrize("color", [(0, 0), (0, 0, 0, 0), (0, 256, 0), (-1, 0, 0)])
def test_invalid_colors_are_rejected(color: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"'a': color .* expected three values from 0 to 255"):
        LabelSet([LabelClass("a", color, 0)])


@pytest.mark.parametrize("void_id", [65536, -1, -300])
def test_void_ids_out_of_range_are_rejected(void_id: int) -> None:
    with pytest.raises(UserError, match=rf"void_ids: found \[{void_id}\], expected"):
        labels_of(0, 1, void=(void_id,))


# -- 255 as a class, several and large ids, binary segmentation


def test_255_is_void_unless_a_class_has_it() -> None:
    assert labels_of(0, 1).to_index[255] == VOID
    labels = labels_of(0, 255, void=(7,))
    assert labels.to_index[[0, 255, 7]].tolist() == [0, 1, VOID]
    assert labels.to_value[[0, 1, VOID]].tolist() == [0, 255, 7]  # what is void is read as void
    assert labels.has_void and not labels_of(0, 255).has_void


def test_large_and_several_ids() -> None:
    labels = LabelSet([LabelClass("a", (0, 0, 0), 0, (2, 300)), LabelClass("b", (1, 1, 1), 65535)])
    assert labels.to_index.shape == (65536,) and labels.to_value.dtype == np.uint16
    values = np.array([0, 2, 300, 65535, 255, 1], np.uint16)
    assert labels.indices(values).tolist() == [0, 0, 0, 1, VOID, UNKNOWN]
    assert labels.indices(np.array([0, 2, 255], np.uint8)).tolist() == [0, 0, VOID]
    assert labels.to_dict()["classes"][0]["id"] == [0, 2, 300]
    restored = LabelSet.from_dict(json.loads(json.dumps(labels.to_dict())))
    assert restored == labels and restored.classes == labels.classes


def test_binary_labels_survive_a_round_trip() -> None:
    labels = binary_labels("crack", (230, 159, 0), [3])
    restored = LabelSet.from_dict(json.loads(json.dumps(labels.to_dict())))
    assert restored.binary and restored == labels
    np.testing.assert_array_equal(restored.to_index, labels.to_index)
    assert labels.to_value[:2].tolist() == [0, 255]
    assert "binary" not in labels_of(0, 1).to_dict()  # as older versions wrote it


# -- colors for classes without one


def seen_with(colors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, 3) CIELAB of (N, 3) uint8 RGB, seen with a kind of color blindness."""
    linear = np.where(colors <= 10, colors / 255 / 12.92, ((colors / 255 + 0.055) / 1.055) ** 2.4)
    linear = (linear @ matrix.T).clip(0, 1).astype(np.float32)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(srgb[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]


def test_chosen_colors_differ_also_for_the_color_blind() -> None:
    """Machado et al. 2009, severity 1: normal, protan, deutan and tritan vision."""
    matrices = [
        [1, 0, 0, 0, 1, 0, 0, 0, 1],
        [
            *(0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216),
            -0.003882,
            -0.048116,
            1.051998,
        ],
        [
            *(0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413),
            -0.011820,
            0.042940,
            0.968881,
        ],
        [
            *(1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602),
            0.004733,
            0.691367,
            0.303900,
        ],
    ]
    chosen = np.array(list(palette()))
    assert len({tuple(c) for c in chosen.tolist()}) == len(chosen) == 254
    for count, distance in ((16, 15), (32, 11), (64, 8)):
        for matrix in matrices:
            lab = seen_with(chosen[:count], np.reshape(matrix, (3, 3)))
            distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 999 * np.eye(count)
            assert distances.min() > distance
    labels = custom_labels([ClassConfig("a"), ClassConfig("b", chosen[0].tolist())], [])
    assert [c.color for c in labels.classes] == [tuple(chosen[1]), tuple(chosen[0])]
    assert not labels.colors_given


def test_more_classes_than_colors_are_an_error() -> None:
    with pytest.raises(UserError, match="found 255, expected 1 to 254"):
        custom_labels([ClassConfig(str(i)) for i in range(255)], [])
