"""labelme's JSON files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from export_files import box, labelme, photo, png_text, shape
from helpers import FORMATS
from PIL import Image

from segcoord.data.annotations.formats.labelme import FORMAT
from segcoord.data.annotations.rasterize import UNLABELLED, draw_shapes
from segcoord.data.annotations.records import Export, Record
from segcoord.utils.errors import UserError


def drawn(export: Export, record: Record, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    indices = {c.name: i for i, c in enumerate(export.classes)}
    return draw_shapes(export.annotation(record, size), indices, size, None, Counter())


def test_all_kinds_of_shapes(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    patch = np.array([[1, 0], [1, 1]], np.uint8) * 255
    labelme(
        tmp_path / "a.json",
        shape("polygon", box(0, 0, 10, 10)),
        shape("rectangle", [[30, 10], [20, 0]], "rectangle"),
        shape("circle", [[45, 20], [45, 26]], "circle"),
        shape("line", [[5, 30], [25, 30]], "line"),
        shape("strip", [[35, 35], [55, 35], [55, 30]], "linestrip"),
        shape("mask", [[2, 20], [3, 21]], "mask", mask=png_text(patch)),
        shape("dot", [[1, 1]], "point"),
        shape("__ignore__", box(50, 0, 60, 5)),
    )
    export = FORMAT.read(tmp_path)
    (record,) = export.records
    assert (record.name, record.size) == ("a", (40, 60))
    names = ["circle", "line", "mask", "polygon", "rectangle", "strip"]
    assert [c.name for c in export.classes] == names
    assert export.skipped == {"labelme shapes of type point, which have no area": 1}
    label = drawn(export, record)
    areas = {name: int((label == i).sum()) for i, name in enumerate(names)}
    assert areas["polygon"] == areas["rectangle"] == 100 and areas["mask"] == 3
    assert abs(areas["circle"] - np.pi * 36) < 6
    assert 200 <= areas["line"] <= 330  # 20 pixels long, 10 wide, with ends
    assert (label == 255).sum() == 50
    assert label[20:22, 2:4].tolist() == [[2, UNLABELLED], [2, 2]]


def test_later_shapes_are_on_top_as_in_labelme(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    labelme(tmp_path / "a.json", shape("b", box(2, 2, 4, 4)), shape("a", box(0, 0, 10, 10)))
    export = FORMAT.read(tmp_path)
    assert (drawn(export, export.records[0])[:10, :10] == 0).all()


def test_images_elsewhere_embedded_and_without_annotation(tmp_path: Path) -> None:
    photo(tmp_path / "photos" / "Ä 1.JPG")
    raw = photo(tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").unlink()
    photo(tmp_path / "photos" / "empty.jpg")
    labels = tmp_path / "labels"
    labelme(labels / "one.json", shape("a", box(0, 0, 9, 9)), image="..\\photos\\ä 1.jpg")
    labelme(labels / "two.json", shape("a", box(0, 0, 9, 9)), image="C:\\gone\\x.png", data=raw)
    labelme(labels / "three.json", shape("a", box(0, 0, 9, 9)), image="/gone/y.png")
    export = FORMAT.read(tmp_path)
    by_name = {record.name: record for record in export.records}
    assert by_name["photos/Ä 1"].image == tmp_path / "photos" / "Ä 1.JPG"
    assert export.image(by_name["labels/two"]) == raw
    assert by_name["photos/empty"].content is None
    with pytest.raises(UserError, match=r"its image '/gone/y.png' is not in the folder, and"):
        export.image(by_name["labels/three"])


def test_a_photo_of_another_folder_is_not_taken(tmp_path: Path) -> None:
    raw = photo(tmp_path / "v1" / "1.jpg").read_bytes()
    photo(tmp_path / "v2" / "2.jpg")
    labelme(tmp_path / "v1" / "2.json", shape("a", box(0, 0, 9, 9)))
    labelme(tmp_path / "v2" / "1.json", shape("a", box(0, 0, 9, 9)), image="v2/1.jpg", data=raw)
    labelme(tmp_path / "v3" / "2.json", shape("a", box(0, 0, 9, 9)), data=raw)
    labelme(tmp_path / "v4" / "2.json", shape("a", box(0, 0, 9, 9)), image="gone/2.jpg")
    export = FORMAT.read(tmp_path)
    images = {r.where: r.image.relative_to(tmp_path).as_posix() for r in export.records}
    files = [f"{folder}.json" for folder in ("v1/2", "v2/1", "v3/2")]
    assert [images[str(tmp_path / file)] for file in files] == files
    assert images[str(tmp_path / "v4" / "2.json")] == "v2/2.jpg"
    assert export.skipped == {"images found in another folder than their annotations name": 1}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([{"points": box(0, 0, 1, 1)}], r"shapes\[0\]: found no label"),
        ([shape("a", [[1, 2, 3]])], r"shapes\[0\].points: expected a list of \[x, y\]"),
        ([shape("a", ["x"])], r"shapes\[0\].points: expected a list of \[x, y\]"),
        ([shape("a", [[0, 0]], "circle")], "points: found 1, expected the center"),
        ([shape("a", box(0, 0, 1, 1)[:2], "mask", mask="AA")], "mask: expected a PNG in base64"),
        (
            [shape("a", [[0, 0], [4, 2]], "mask", mask=png_text(np.ones((2, 2), np.uint8)))],
            "mask: found 2x2 pixels, expected 5x3, as its box",
        ),
    ],
)
def test_wrong_shapes_name_the_file_and_the_key(
    shapes: list[dict], message: str, tmp_path: Path
) -> None:
    photo(tmp_path / "a.jpg")
    path = labelme(tmp_path / "a.json", *shapes)
    export = FORMAT.read(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        export.annotation(export.records[0], (40, 60))
    assert str(path) in str(caught.value)


def test_a_file_that_is_cut_short_fails_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        photo(tmp_path / f"{name}.jpg")
        path = labelme(tmp_path / f"{name}.json", shape("x", box(0, 0, 9, 9)))
    path.write_text(path.read_text()[:-40])
    export = FORMAT.read(tmp_path)
    a, b = export.records
    assert b.image == tmp_path / "b.jpg"
    assert len(export.annotation(a, (40, 60))) == 1
    with pytest.raises(UserError, match=r"b.json: JSON that is cut short"):
        export.annotation(b, (40, 60))


def test_recognition_and_exports_without_images(tmp_path: Path) -> None:
    assert FORMAT.recognize(tmp_path) is None
    (tmp_path / "a.json").write_text('{"images": [], "annotations": []}')
    assert FORMAT.recognize(tmp_path) is None
    labelme(tmp_path / "b.json", shape("x", box(0, 0, 9, 9)))
    assert FORMAT.recognize(tmp_path) == "2 JSON files, such as b.json with shapes"
    with pytest.raises(UserError, match="labelme JSON files without its images"):
        FORMAT.read(tmp_path)


@pytest.mark.skipif(not (FORMATS / "labelme").is_dir(), reason=f"no samples at {FORMATS}")
def test_masks_equal_those_that_labelme_exported_up_to_the_boundary() -> None:
    """labelme draws the outline too, so that its shapes are half a pixel larger on all sides."""
    folder = FORMATS / "labelme"
    export = FORMAT.read(folder / "data_annotated")
    names = (folder / "class_names.txt").read_text().split("\n")
    names = [name.strip() for name in names]
    indices = {c.name: names.index(c.name) for c in export.classes}
    assert len(export.records) == 3
    for record in export.records:
        expected = np.array(Image.open(folder / "expected_masks" / f"{record.name}.png"))
        counts: Counter[str] = Counter()
        shapes = export.annotation(record, expected.shape)
        label = draw_shapes(shapes, indices, expected.shape, None, counts)
        label = np.where(label == UNLABELLED, 0, label)
        kernel = np.ones((3, 3), np.uint8)
        label = label.astype(np.uint8)
        changes = [cv2.dilate(m, kernel) != cv2.erode(m, kernel) for m in (expected, label)]
        near = changes[0] | changes[1]
        assert not ((label != expected) & ~near).any(), record.name
        assert (label == expected).mean() > 0.99
        for value in np.unique(expected):
            both = ((label == value) & (expected == value)).sum()
            assert both / ((label == value) | (expected == value)).sum() > 0.9, (record, value)
