"""Datumaro JSON: polygons, RLE, ellipses, z-order, where images are, and bad values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from export_files import SQUARE, annotation, by_name, datumaro_tree, put_text, rings
from layout_trees import put_image

from segcoord.data.annotations.formats.datumaro import FORMAT
from segcoord.utils.errors import UserError


def shape(kind: str = "polygon", **values: object) -> dict:
    points = {"points": SQUARE} if kind == "polygon" else {}
    return {"type": kind, "label_id": 1, **points, **values}


def change(root: Path, old: str, new: str) -> Path:
    path = root / "annotations" / "train.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return root


def test_polygon_and_classes(tmp_path: Path) -> None:
    export = FORMAT.read(datumaro_tree(tmp_path))
    assert rings(annotation(export, "train/a")) == [("car", [[[1, 1], [3, 1], [3, 3], [1, 3]]])]
    assert [(c.name, c.color, c.id) for c in export.classes] == [
        ("background", None, 0),
        ("car", (9, 8, 7), 1),
    ]
    assert export.background == "background"
    record = export.records[0]
    assert (record.split, record.size) == ("train", (4, 6))
    assert annotation(export, "train/a")[0].order is None


def test_rle_is_decoded_by_columns(tmp_path: Path) -> None:
    """The runs 5, 2, 17 of 4x6 pixels: rows 1 and 2 of column 1."""
    rle = {"counts": "52a0", "size": [4, 6]}
    export = FORMAT.read(datumaro_tree(tmp_path, shape("mask", rle=rle)))
    (found,) = annotation(export, "train/a")
    assert found.mask.tolist() == [[True], [True]]
    assert found.offset == (1, 1)


def test_ellipse_is_within_its_box(tmp_path: Path) -> None:
    export = FORMAT.read(datumaro_tree(tmp_path, shape("ellipse", points=[1, 1, 5, 3])))
    (found,) = annotation(export, "train/a")
    x, y = (found.rings[0] - (3, 2)).T
    assert np.allclose((x / 2) ** 2 + y**2, 1)


def test_z_order_and_what_is_left_out(tmp_path: Path) -> None:
    export = FORMAT.read(
        datumaro_tree(
            tmp_path,
            shape(z_order=2),
            shape("bbox", bbox=[0, 0, 1, 1]),
            shape(z_order=-1, label_id=0),
            shape(points=[1, 1, 2, 2]),
            shape(label_id=None),
            shape(z_order=2, label_id=0),
        )
    )
    shapes = annotation(export, "train/a")
    above = sorted(range(3), key=lambda i: shapes[i].order)
    assert above == [1, 0, 2]  # of the same z-order, the later is on top
    assert export.skipped == {
        "bounding boxes without a polygon": 1,
        "polygons with fewer than 3 points": 1,
        "shapes without a label": 1,
    }


def test_images_of_earlier_versions_and_missing_ones(tmp_path: Path) -> None:
    """Their paths contain the subset, or are those of another machine; suffixes differ in case."""
    path = datumaro_tree(tmp_path) / "annotations" / "train.json"
    data = json.loads(path.read_text())
    item = data["items"][0]
    data["items"] = [
        item | {"id": "b", "image": {"path": "train/b.jpg"}},
        item | {"id": "c", "image": {"path": "/home/me/c.jpg"}, "annotations": []},
        item | {"id": "d", "image": {"path": "d.jpg"}},
    ]
    del data["dm_format_version"]
    path.write_text(json.dumps(data))
    put_image(tmp_path / "images" / "train" / "b.JPG")
    put_image(tmp_path / "images" / "c.png")
    assert "annotations/train.json" in FORMAT.recognize(tmp_path)
    export = FORMAT.read(tmp_path)
    records = by_name(export)
    assert [*records] == ["train/b", "c"]
    assert records["train/b"].image.name == "b.JPG"
    assert records["c"].content is None
    assert export.skipped == {"images that are not there, such as d.jpg": 1}


def test_labels_of_subsets_in_another_order(tmp_path: Path) -> None:
    path = datumaro_tree(tmp_path) / "annotations" / "train.json"
    data = json.loads(path.read_text())
    data["categories"]["label"]["labels"].reverse()
    data["categories"].pop("mask")
    put_text(tmp_path / "annotations" / "default.json", json.dumps(data))
    put_image(tmp_path / "images" / "default" / "a.jpg")
    export = FORMAT.read(tmp_path)
    assert annotation(export, "default/a")[0].label == "background"
    assert annotation(export, "train/a")[0].label == "car"
    assert by_name(export)["default/a"].split is None
    assert {c.name: c.color for c in export.classes} == {"background": None, "car": (9, 8, 7)}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (shape(label_id=7), "annotations[0]: label_id: found 7, expected 0 to 1"),
        (shape(points=[0, 0, 1, float("nan"), 2, 2]), "expected a list of finite numbers"),
        (shape(points=[0, 0, 1, 10**400, 2, 2]), "expected a list of finite numbers"),
        (shape(points=[0, 0, 1, 1, 2, 2, 3]), "annotations[0]: points: found"),
        (shape("mask"), "annotations[0]: rle: found nothing, expected an object"),
        (
            shape("mask", rle={"counts": "52a0", "size": [6, 4]}),
            "rle: size: found [6, 4], expected the image's height and width, [4, 6]",
        ),
        (shape("mask", rle={"counts": "T3", "size": [4, 6]}), "counts: can't be decoded"),
        (shape("ellipse", points=[1, 1]), "expected the 2 corners of an ellipse"),
    ],
)
def test_bad_annotations_name_file_and_key(tmp_path: Path, wrong: dict, message: str) -> None:
    export = FORMAT.read(datumaro_tree(tmp_path, wrong))
    with pytest.raises(UserError, match=r"train\.json: items\[0\] \(a\): ") as caught:
        annotation(export, "train/a")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"items"', '"things"', "items: found nothing, expected a list"),
        ('"id": "a"', '"id": 3', "items[0]: id: found 3, expected text"),
        ('"r": 9', '"r": 999', "expected r, g and b from 0 to 255"),
        ("a.jpg", "../a.jpg", ""),
        ('"size": [4, 6]}}]}', "", "JSON that is cut short after"),
    ],
)
def test_bad_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    root = change(datumaro_tree(tmp_path), old, new)
    if not message:  # a path that leaves the folder is that of another machine: the id counts
        assert FORMAT.read(root).records[0].image == root / "images/train/a.jpg"
        return
    with pytest.raises(UserError) as caught:
        FORMAT.read(root)
    assert message in str(caught.value)


def test_export_without_images_and_image_with_two_annotations(tmp_path: Path) -> None:
    path = datumaro_tree(tmp_path) / "annotations" / "train.json"
    data = json.loads(path.read_text())
    data["items"] *= 2
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"items\[1\] \(a\): a second annotation of"):
        FORMAT.read(tmp_path)
    (tmp_path / "images/train/a.jpg").unlink()
    with pytest.raises(UserError, match="found no image of the 2 that it names, such as a"):
        FORMAT.read(tmp_path)
