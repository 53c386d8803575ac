"""The classes of imported datasets."""

from __future__ import annotations

import pytest

from segcoord.config.schema import ClassConfig
from segcoord.data.annotations.classes import ClassMap, map_classes
from segcoord.data.annotations.rasterize import UNLABELLED
from segcoord.data.annotations.records import ClassName
from segcoord.utils.errors import UserError


def mapped(
    *names: str, chosen: list[str] | None = None, unlabelled="background", **more
) -> ClassMap:
    classes = [ClassName(name) for name in names]
    return map_classes(classes, chosen, unlabelled, **more)


def test_background_is_the_first_class_or_void() -> None:
    classes = mapped("car", "person")
    assert classes.names == ("background", "car", "person")
    assert classes.indices == {"car": 1, "person": 2}
    assert classes.unlabelled == 0 and classes.colors[0] == (0, 0, 0)
    classes = mapped("car", "person", unlabelled="void")
    assert classes.names == ("car", "person") and classes.unlabelled == 255


@pytest.mark.parametrize("name", ["_background_", "Background"])
def test_a_class_that_is_called_background_is_the_one_of_unlabelled_pixels(name: str) -> None:
    classes = mapped("car", name)
    assert classes.names == (name, "car")
    assert classes.indices[name] == classes.unlabelled == 0


def test_the_name_that_the_tool_gives_unlabelled_pixels() -> None:
    classes = mapped("car", "nothing", background="nothing")
    assert classes.names == ("nothing", "car") and classes.unlabelled == 0
    assert classes.indices == {"car": 1, "nothing": UNLABELLED}
    classes = mapped("car", "nothing", "bus", background="nothing", unlabelled="void")
    assert classes.names == ("car", "bus")
    assert classes.indices["nothing"] == UNLABELLED
    assert classes.left_out == ()


def test_ids_order_the_classes() -> None:
    classes = [ClassName("b", id=7), ClassName("a", id=3), ClassName("b", id=7)]
    assert map_classes(classes, None, "void").names == ("a", "b")


def test_classes_are_chosen_merged_renamed_and_ignored() -> None:
    chosen = ["car,truck=vehicle", "person", "blur=void"]
    classes = mapped("person", "car", "truck", "blur", "dog", chosen=chosen)
    assert classes.names == ("background", "vehicle", "person")
    expected = {"person": 2, "car": 1, "truck": 1, "blur": 255, "dog": UNLABELLED}
    assert classes.indices == expected
    assert classes.left_out == ("dog",)


def test_a_name_with_a_comma_or_an_equals_sign_is_a_name() -> None:
    classes = mapped("wall, brick", "a=b", "c", chosen=["wall, brick", "a=b"])
    assert classes.names == ("background", "wall, brick", "a=b")
    assert mapped("wall, brick", "c", chosen=["wall, brick=wall"]).names[1] == "wall"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["cra"], r"no class 'cra'; did you mean car\?; its classes: car, bus"),
        (["car", "car=x"], "found 'car' twice"),
        (["car,bus"], 'NAMES=NEW to merge: "car,bus=NEW"'),
        (["car="], "expected a name after the ="),
    ],
)
def test_wrong_choices_are_named(chosen: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mapped("car", "bus", chosen=chosen)


def test_names_that_differ_in_case_or_spaces_are_merged_on_request() -> None:
    names = ("Car", "car", "traffic light", "trafficlight ", "bus")
    with pytest.raises(UserError) as caught:
        mapped(*names)
    message = str(caught.value)
    assert "'Car' and 'car'; 'traffic light' and 'trafficlight '" in message
    proposal = "--classes bus Car,car=Car 'traffic light,trafficlight =traffic light'"
    assert proposal in message
    chosen = ["bus", "Car,car=Car", "traffic light,trafficlight =traffic light"]
    assert mapped(*names, chosen=chosen).names[1:] == ("bus", "Car", "traffic light")
    assert mapped("Car", "car", chosen=["Car", "car"]).names[1:] == ("Car", "car")
    with pytest.raises(UserError, match="'Car' and 'car'"):
        mapped("Car", "car", "bus", chosen=["car", "bus"])


def test_classes_of_the_dataset_before_keep_their_ids_and_colors() -> None:
    previous = [ClassConfig("background"), ClassConfig("car", [1, 2, 3]), ClassConfig("bike")]
    classes = mapped("bus", "car", previous=previous)
    assert classes.names == ("background", "car", "bike", "bus")
    assert classes.indices == {"bus": 3, "car": 1}
    assert classes.colors[1] == (1, 2, 3)
    assert classes.kept == ("bike",)


def test_colors_of_the_tool_are_kept_where_they_differ() -> None:
    given = [ClassName("a", (9, 9, 9)), ClassName("b", (9, 9, 9)), ClassName("c", (224, 224, 192))]
    colors = map_classes(given, None, "background").colors
    assert colors[1] == (9, 9, 9)
    assert len({*colors, (224, 224, 192)}) == 5


def test_a_single_class_without_background_can_not_be_learned() -> None:
    with pytest.raises(UserError, match=r"found 1 class \(car\) and no background"):
        mapped("car", unlabelled="void")
    with pytest.raises(UserError, match="found 301 classes, expected at most 253"):
        mapped(*map(str, range(300)))
