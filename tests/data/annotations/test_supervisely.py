"""Supervisely: objects in pixels, bitmaps, datasets, and bad files."""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from export_files import (
    annotation,
    by_name,
    put_json,
    put_text,
    refusal,
    refused_annotation,
    rings,
)
from layout_trees import put_image
from PIL import Image

from segcoord.data.annotations.formats.supervisely import FORMAT
from segcoord.data.annotations.records import ClassName

META = {
    "classes": [
        {"title": "car", "shape": "any", "color": "#FA3203", "id": 12},
        {"title": "tree", "shape": "bitmap", "color": "#00ff80"},
        {"title": "eye", "shape": "point", "color": "#000000", "id": 14},
    ],
    "tags": [],
    "projectType": "images",
}
TRIANGLE = {"exterior": [[1, 0], [4, 0], [4, 3]], "interior": [[[2, 1], [3, 1], [3, 2]]]}


def thing(kind: str, label: str = "car", **geometry: object) -> dict:
    return {"id": 1, "geometryType": kind, "classTitle": label, "tags": [], **geometry}


def polygon(*exterior: list[float]) -> dict:
    return thing("polygon", points={"exterior": [*exterior], "interior": []})


def content(*objects: dict) -> dict:
    return {"description": "", "size": {"height": 4, "width": 6}, "tags": [], "objects": [*objects]}


def put_project(root: Path, *objects: dict, meta: object = META) -> Path:
    """One image in a dataset; returns its annotation."""
    put_json(root / "meta.json", meta)
    put_image(root / "day" / "img" / "a.jpg")
    return put_json(root / "day" / "ann" / "a.jpg.json", content(*objects))


def read_shapes(root: Path, *objects: dict) -> list:
    put_project(root, *objects)
    return annotation(FORMAT.read(root), "day/a")


def test_shapes_by_hand(tmp_path: Path) -> None:
    second = {"exterior": [[0, 0], [1, 0], [1, 1]]}
    shapes = read_shapes(
        tmp_path,
        thing("polygon", points=TRIANGLE),
        polygon([1.25, 0], [4, 0], [4, 3]),
        thing("multipolygon", parts=[TRIANGLE, second]),
        thing("rectangle", points={"exterior": [[3, 2], [1, 0]], "interior": []}),
        thing("rectangle", points={"exterior": [[1.5, 0], [3, 2]], "interior": []}),
        thing("line", points={"exterior": [[0, 0], [5, 3]], "interior": []}),
        thing("point", "eye", points={"exterior": [[0, 0]], "interior": []}),
        thing("graph", nodes={}),
    )
    hole = [[[1.5, 0.5], [4.5, 0.5], [4.5, 3.5]], [[2.5, 1.5], [3.5, 1.5], [3.5, 2.5]]]
    assert rings(shapes) == [
        ("car", hole),  # points are the centers of pixels
        ("car", [[[1.25, 0], [4, 0], [4, 3]]]),  # continuous already
        ("car", hole),
        ("car", [[[0.5, 0.5], [1.5, 0.5], [1.5, 1.5]]]),
        ("car", [[[1, 0], [4, 0], [4, 3], [1, 3]]]),  # with the pixels of both corners
        ("car", [[[1.5, 0], [3, 0], [3, 2], [1.5, 2]]]),
        ("car", [[[0.5, 0.5], [5.5, 3.5]]]),
    ]
    assert [shape.stroke for shape in shapes] == [0] * 6 + [1]
    export = FORMAT.read(tmp_path)
    assert export.skipped == {"objects of type point": 1, "objects of type graph": 1}
    assert export.classes == [ClassName("car", (250, 50, 3), 12), ClassName("tree", (0, 255, 128))]
    (record,) = export.records
    assert (record.image, record.size, record.split) == (tmp_path / "day/img/a.jpg", (4, 6), None)


def test_datasets(tmp_path: Path) -> None:
    """A dataset within another, images without annotation, without objects, and gone."""
    square = polygon([0, 0], [1, 0], [1, 1])
    put_project(tmp_path, square)
    put_json(tmp_path / "day/datasets/late/ann/a.png.json", content(square))
    put_image(tmp_path / "day/datasets/late/img/a.PNG")
    put_json(tmp_path / "night/ann/caf\u00e9.json", content())  # of an old export
    put_image(tmp_path / "night/img/cafe\u0301.jpg")
    put_image(tmp_path / "night/img/b.jpg")
    put_json(tmp_path / "night/ann/gone.jpg.json", content(square))
    put_json(tmp_path / "night/img_info/a.jpg.json", {})
    put_image(tmp_path / "night/masks_human/b.png")
    records = by_name(FORMAT.read(tmp_path))
    assert {name: record.content is None for name, record in records.items()} == {
        "day/a": False,
        "day/late/a": False,
        "night/caf\u00e9": True,
        "night/b": True,
        "night/gone": False,
    }
    assert records["day/late/a"].image == tmp_path / "day/datasets/late/img/a.PNG"
    assert records["night/caf\u00e9"].image == tmp_path / "night/img/cafe\u0301.jpg"
    assert records["night/gone"].image == tmp_path / "night/img/gone.jpg"
    assert records["night/gone"].where == str(tmp_path / "night/ann/gone.jpg.json")


def test_a_single_dataset(tmp_path: Path) -> None:
    put_json(tmp_path / "meta.json", META)
    put_image(tmp_path / "img/a.jpg")
    put_json(tmp_path / "ann/a.jpg.json", content(polygon([0, 0], [1, 0], [1, 1])))
    assert FORMAT.recognize(tmp_path) == "meta.json and ann"
    assert [*by_name(FORMAT.read(tmp_path))] == ["a"]


MASK = np.array([[1, 1, 1], [1, 0, 0]], np.uint8)


def png(mode: str) -> bytes:
    """MASK as a PNG; "P" is what Supervisely writes."""
    image = Image.fromarray(MASK)
    options: dict = {}
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 255, 255])
        options = {"transparency": 0}
    elif mode == "RGBA":
        image = Image.fromarray(np.dstack([MASK * 0 + 9] * 3 + [MASK * 200]))
    elif mode == "RGB":
        image = Image.fromarray(np.dstack([MASK * 0, MASK, MASK * 0]))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def bitmap(data: bytes | str, *origin: object) -> dict:
    data = base64.b64encode(data).decode() if isinstance(data, bytes) else data
    return thing("bitmap", "tree", bitmap={"data": data, "origin": [*origin]})


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "RGB", "plain"])
def test_bitmap(tmp_path: Path, mode: str) -> None:
    data = png("P") if mode == "plain" else zlib.compress(png(mode))
    (shape,) = read_shapes(tmp_path, bitmap(data, 3, 1))
    assert (shape.label, shape.offset) == ("tree", (3, 1))
    assert shape.mask.dtype == bool
    np.testing.assert_array_equal(shape.mask, MASK == 1)


def test_too_large_bitmap(tmp_path: Path) -> None:
    put_project(tmp_path, bitmap(zlib.compress(png("P")), 0, 0))
    found = refused_annotation(FORMAT.read(tmp_path), "day/a", (1, 6))
    assert "found a bitmap of 3x2 pixels, expected one within the image of 6x1." in found


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (bitmap(zlib.compress(png("P"))[:-30], 0, 0), "bitmap, data: found data that are no PNG"),
        (
            bitmap(zlib.compress(png("P")[:-30]), 0, 0),
            "found data that are no PNG in base64, or cut",
        ),
        (bitmap(zlib.compress(bytes(10**6)), 0, 0), "found data that are no PNG"),
        (bitmap("caf\u00e9", 0, 0), "found data that are no PNG"),
        (bitmap("", 0, 0), "found data that are no PNG"),
        (bitmap(b"", 0), "bitmap, origin: found [0], expected [column, row]."),
        (bitmap(b"", 0, 0.5), "bitmap, origin: found [0, 0.5]"),
        (thing("bitmap"), "objects[0]: bitmap: found nothing, expected an object."),
        (
            thing("polygon", points=[[0, 0]]),
            "objects[0]: points: found [[0, 0]], expected an object.",
        ),
        (polygon([0, 0], [1]), "points, exterior: found [[0, 0], [1]], expected points"),
        (
            thing("polygon", points={"exterior": [], "interior": [[0, 0]]}),
            "points, interior[0]: found [0, 0], expected points",
        ),
        (
            thing("rectangle", points={"exterior": [[0, 0]]}),
            "points, exterior: found 1 points, expected two corners.",
        ),
    ],
)
def test_bad_object(tmp_path: Path, thing: dict, message: str) -> None:
    path = put_project(tmp_path, thing)
    found = refused_annotation(FORMAT.read(tmp_path), "day/a")
    assert found.startswith(f"{path}: objects[0]")
    assert message in found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "found [], expected an object."),
        ({"size": {"height": 4, "width": 6}}, "objects: found nothing, expected a list."),
        ({"size": {"height": "4"}, "objects": []}, "size: height: found '4', expected an integer."),
        (
            content(thing("polygon", "bus")),
            "objects[0], classTitle: found the class 'bus', expected",
        ),
        (content({"classTitle": "car"}), "objects[0]: geometryType: found nothing"),
        (content(3), "objects[0]: found 3, expected an object with 'classTitle'."),
    ],
)
def test_bad_annotation(tmp_path: Path, data: object, message: str) -> None:
    path = put_project(tmp_path)
    put_json(path, data)
    found = refused_annotation(FORMAT.read(tmp_path), "day/a")
    assert found.startswith(f"{path}: ")
    assert message in found


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"classes": [], "projectType": "videos"}, "found a project of 'videos', expected images."),
        ({"classes": {}}, "classes: found {}, expected a list."),
        ({"classes": [{"shape": "any"}]}, "classes[0]: title: found nothing, expected text"),
        (
            {"classes": [{"title": "car", "shape": "any", "color": "red"}]},
            "classes[0], color: found 'red', expected a color such as #FF8000.",
        ),
    ],
)
def test_bad_meta(tmp_path: Path, meta: dict, message: str) -> None:
    put_project(tmp_path, meta=meta)
    found = refusal(FORMAT, tmp_path)
    assert found.startswith(str(tmp_path / "meta.json"))
    assert message in found


def test_truncated_files(tmp_path: Path) -> None:
    path = put_project(tmp_path)
    path.write_text(path.read_text()[:-9])
    found = refused_annotation(FORMAT.read(tmp_path), "day/a")
    assert found.startswith(f"{path}: JSON that is cut short after ")
    meta = put_text(tmp_path / "meta.json", (tmp_path / "meta.json").read_text()[:-9])
    assert refusal(FORMAT, tmp_path).startswith(f"{meta}: JSON that is cut short after ")


def test_recognize(tmp_path: Path) -> None:
    put_json(tmp_path / "meta.json", META)
    assert FORMAT.recognize(tmp_path) is None
    assert "found no images, expected DATASET/ann and DATASET/img." in refusal(FORMAT, tmp_path)
    put_text(tmp_path / "day/datasets/late/ann/a.jpg.json", "{}")
    assert FORMAT.recognize(tmp_path) == "meta.json and day/datasets/late/ann"
    put_json(tmp_path / "meta.json", {"info": "other"})
    assert FORMAT.recognize(tmp_path) is None
