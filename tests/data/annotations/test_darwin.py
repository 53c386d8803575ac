"""V7 Darwin JSON: polygons with holes, mask layers, both versions, and bad values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from export_files import (
    SQUARE,
    annotation,
    by_name,
    darwin_points,
    darwin_tree,
    put_json,
    rings,
)
from layout_trees import put_image

from segcoord.data.annotations.formats.darwin import FORMAT
from segcoord.utils.errors import UserError

FILE = "releases/latest/annotations/street/a.json"
RING = [[1, 1], [3, 1], [3, 3], [1, 3]]
HOLE = [1.5, 1.5, 2.5, 1.5, 2.5, 2.5]


def layer(runs: list[int], mapping: dict[str, int]) -> dict:
    values = {"dense_rle": runs, "mask_annotation_ids_mapping": mapping, "total_pixels": 24}
    return {"id": "r", "name": "__raster_layer__", "raster_layer": values}


def mask(key: str, name: str) -> dict:
    return {"id": key, "name": name, "mask": {}}


def test_polygon_with_a_hole_and_what_is_left_out(tmp_path: Path) -> None:
    box = {"name": "box", "bounding_box": {"x": 0, "y": 0, "w": 1, "h": 1}}
    paths = [darwin_points(*SQUARE), darwin_points(*HOLE), darwin_points(0, 0, 1, 1)]
    polygon = {"name": "car", "polygon": {"paths": paths}, "bounding_box": {}}
    thin = {"name": "wire", "polygon": {"paths": paths[2:]}}
    export = FORMAT.read(darwin_tree(tmp_path, polygon, box, thin, {"name": "rain", "tag": {}}))
    hole = [[1.5, 1.5], [2.5, 1.5], [2.5, 2.5]]
    assert rings(annotation(export, "street/a")) == [("car", [RING, hole])]
    assert [c.name for c in export.classes] == ["car"]
    assert export.records[0].size == (4, 6)
    assert export.skipped == {
        "bounding boxes without a polygon": 1,
        "polygons with fewer than 3 points": 1,
        "tags": 1,
    }


def test_mask_layer_is_decoded_by_rows(tmp_path: Path) -> None:
    """7 pixels of nothing, so that the masks begin at column 1 of row 1."""
    runs = [0, 7, 2, 2, 5, 1, 0, 14]
    annotations = [
        mask("m", "road"),
        mask("n", "car"),
        mask("o", "empty"),
        layer(runs, {"m": 2, "n": 5}),
    ]
    export = FORMAT.read(darwin_tree(tmp_path, *annotations))
    found = annotation(export, "street/a")
    assert [(s.label, s.mask.tolist(), s.offset) for s in found] == [
        ("road", [[True, True]], (1, 1)),
        ("car", [[True]], (3, 1)),
    ]
    assert [c.name for c in export.classes] == ["car", "road"]
    assert export.skipped == {"masks without pixels": 1}


def test_version_1_beside_its_images(tmp_path: Path) -> None:
    complex_polygon = {"path": [darwin_points(*SQUARE), darwin_points(*HOLE)]}
    data = {
        "dataset": "streets",
        "image": {"filename": "1.jpg", "original_filename": "a.PNG", "width": 6, "height": 4},
        "annotations": [
            {"name": "car", "complex_polygon": complex_polygon},
            {"name": "road", "polygon": {"path": darwin_points(*SQUARE)}},
        ],
    }
    put_json(tmp_path / "a.json", data)
    put_image(tmp_path / "a.png")
    assert FORMAT.recognize(tmp_path) == "a.json of Darwin 1.0"
    export = FORMAT.read(tmp_path)
    shapes = rings(annotation(export, "a"))
    assert [(label, len(own)) for label, own in shapes] == [("car", 2), ("road", 1)]
    assert shapes[1][1] == [RING]


def test_items_without_region_and_videos(tmp_path: Path) -> None:
    data = json.loads((darwin_tree(tmp_path) / FILE).read_text())
    for name, kind in (("b.jpg", "image"), ("c.mp4", "video"), ("d.jpg", "image")):
        slot = {"type": kind, "width": 6, "height": 4}
        item = {"name": name, "path": "/", "slots": [slot]}
        other = data | {"item": item, "annotations": []}
        put_json((tmp_path / FILE).parent / f"{name}.json", other)
    put_image(tmp_path / "images/b.jpg")
    export = FORMAT.read(tmp_path)
    assert by_name(export)["b"].content is None
    assert export.skipped == {
        "items of the type video": 1,
        "images that are not there, such as d.jpg": 1,
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            [layer([0, 7, 1, 2], {}), mask("m", "car")],
            "raster_layer: dense_rle: found 9 pixels, expected 24: the image is 6x4",
        ),
        ([layer([0, 20, 3, 4], {"m": 1}), mask("m", "car")], "the number 3 is not in"),
        ([layer([0, 20, 1, 4], {"x": 1})], "found 'x', the id of no mask"),
        ([layer([0, 20, 1], {"m": 1})], "expected pairs of whole numbers"),
    ],
)
def test_bad_layers_name_file_and_key(tmp_path: Path, wrong: list, message: str) -> None:
    polygon = {"name": "car", "polygon": {"paths": [darwin_points(*SQUARE)]}}
    export = FORMAT.read(darwin_tree(tmp_path, *wrong, polygon))
    with pytest.raises(UserError, match=r"a\.json: annotations\[0\]\.raster_layer: ") as caught:
        annotation(export, "street/a")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"x": 3.0', '"x": NaN', "annotations[0].polygon: found"),
        ('"x": 3.0', '"z": 3.0', "expected a list of finite numbers"),
        ('"name": "car"', '"name": 3', "annotations[0]: name: found 3, expected text"),
        ('"/street"', '"/../street"', "expected names within the folder of the images"),
        ('"slots"', '"slot"', "found no item with slots"),
        ("]}", "", "not valid JSON at line 1, column"),
    ],
)
def test_bad_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    """The error is that of the image with the file's name; without such an image, of the import."""
    path = darwin_tree(tmp_path) / FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    export = FORMAT.read(tmp_path)
    with pytest.raises(UserError, match=r"a\.json: ") as caught:
        annotation(export, "street/a")
    assert message in str(caught.value)
    (tmp_path / "images/street/a.jpg").rename(tmp_path / "images/b.jpg")
    with pytest.raises(UserError) as again:
        FORMAT.read(tmp_path)
    assert str(again.value) == str(caught.value)


def test_several_releases_and_two_annotations(tmp_path: Path) -> None:
    path = darwin_tree(tmp_path) / FILE
    twin = path.with_name("twin.json")
    twin.write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"twin\.json: a second annotation of .*a\.jpg"):
        FORMAT.read(tmp_path)
    twin.unlink()
    (tmp_path / "releases/latest").rename(tmp_path / "releases/v1")
    assert len(FORMAT.read(tmp_path).records) == 1
    (tmp_path / "releases/v2/annotations").mkdir(parents=True)
    with pytest.raises(UserError, match="found the releases v1, v2"):
        FORMAT.read(tmp_path)
