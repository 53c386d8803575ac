"""COCO JSON of instances, stuff and panoptic annotations."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from export_files import photo
from helpers import FORMATS
from PIL import Image

from segcoord.data.annotations.formats.coco import BOXES, FORMAT
from segcoord.data.annotations.rasterize import UNLABELLED, draw_shapes
from segcoord.data.annotations.records import Export, Record
from segcoord.utils.errors import UserError

coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
SIZE = (40, 60)
CATEGORIES = [{"id": 7, "name": "car"}, {"id": 3, "name": "bus"}]
FLAT = [2.0, 2.0, 22.0, 2.0, 22.0, 12.0, 2.0, 12.0]  # 20 x 10 pixels


def image(number: int, name: str, size: tuple[int, int] = SIZE) -> dict:
    return {"id": number, "file_name": name, "height": size[0], "width": size[1]}


def item(number: int, segmentation: object, category: int = 7, crowd: int = 0) -> dict:
    return {
        "id": number,
        "image_id": 1,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
    }


def write(path: Path, annotations: list[dict], images: list[dict] | None = None, **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images or [image(1, "a.jpg")], "annotations": annotations}
    path.write_text(json.dumps({**content, "categories": CATEGORIES, **more}))
    return path


def drawn(export: Export, record: Record, size: tuple[int, int] = SIZE) -> np.ndarray:
    indices = {c.name: c.id for c in export.classes}
    return draw_shapes(export.annotation(record, size), indices, size, None, Counter())


def one(folder: Path, *annotations: dict) -> np.ndarray:
    photo(folder / "a.jpg")
    write(folder / "instances.json", list(annotations))
    export = FORMAT.read(folder)
    return drawn(export, export.records[0])


def rle(mask: np.ndarray, compressed: bool) -> dict:
    if compressed:
        encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    counts, value, length = [], False, 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(length)
            value, length = pixel, 0
        length += 1
    return {"size": list(mask.shape), "counts": [*counts, length]}


def test_polygons_and_crowds(tmp_path: Path) -> None:
    label = one(tmp_path, item(1, [FLAT]), item(2, [[30.0, 30, 40, 30, 40, 40, 30, 40]], 3, 1))
    assert (label[2:12, 2:22] == 7).all() and (label == 7).sum() == 200
    assert (label == 255).sum() == 100


def test_polygons_of_an_annotation_are_joined(tmp_path: Path) -> None:
    inner = [5.0, 5, 10, 5, 10, 10, 5, 10]
    beside = [30.0, 2, 35, 2, 35, 12, 30, 12]
    label = one(tmp_path, item(1, [FLAT, inner, beside]))
    expected = coco.decode(coco.merge(coco.frPyObjects([FLAT, inner, beside], *SIZE)))
    assert np.array_equal(label == 7, expected > 0)


@pytest.mark.parametrize("compressed", [True, False])
def test_rle(compressed: bool, tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random(SIZE) < 0.4
    label = one(tmp_path, item(1, rle(mask, compressed), 3))
    assert np.array_equal(label == 3, mask)
    assert (label[~mask] == UNLABELLED).all()


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (item(1, rle(np.ones((30, 20), bool), True)), "RLE of 20x30 pixels .* expected 60x40"),
        (item(1, {"size": [40, 60], "counts": [5, 6]}), "its runs have 11 pixels"),
        (item(1, {"size": [40, 60], "counts": [-5, 2405]}), "expected a valid RLE"),
        (item(1, [[1.0, 2, 3]]), r"annotations\[0\]: expected polygons"),
        (item(1, FLAT), r"annotations\[0\]: expected polygons"),
        (item(1, [FLAT], 99), "found the unknown class id 99"),
    ],
)
def test_wrong_annotations_name_file_and_image(
    annotation: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        one(tmp_path, annotation)
    assert "instances.json: image 'a.jpg'" in str(caught.value)


def test_boxes_and_images_without_annotation(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / name)
    images = [image(1, "a.jpg"), image(2, "b.jpg"), image(3, "gone.jpg")]
    lost = item(9, [FLAT]) | {"image_id": 50}
    write(tmp_path / "x.json", [item(1, [FLAT]), item(2, []), lost], images)
    export = FORMAT.read(tmp_path)
    assert export.skipped[BOXES] == 1
    assert export.skipped["COCO annotations of images that are not listed"] == 1
    assert [r.content is None for r in export.records] == [False, True, True]
    assert export.records[2].image == tmp_path / "gone.jpg"


@pytest.mark.parametrize("layout", ["json names", "roboflow", "same names"])
def test_several_files_are_splits(layout: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        file = "1.jpg" if layout == "same names" else f"{split}.jpg"
        if layout == "roboflow":
            photo(tmp_path / split / file)
            path = tmp_path / split / "_annotations.coco.json"
        else:
            photo(tmp_path / "images" / f"{split}2017" / file)
            path = tmp_path / "annotations" / f"instances_{split}2017.json"
        write(path, [item(1, [FLAT])], [image(1, file)])
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "annotations" / "captions_val2017.json").write_text('{"images": [')
    export = FORMAT.read(tmp_path)
    year = "" if layout == "roboflow" else "2017"
    assert [r.split for r in export.records] == [f"train{year}", f"val{year}"]
    assert len({r.name for r in export.records}) == 2
    assert all(r.image.is_file() and r.image.parent.name == r.split for r in export.records)
    assert [c.name for c in export.classes] == ["car", "bus"]


def test_the_class_of_a_roboflow_project_is_left_out(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    categories = [
        {"id": 0, "name": "vehicles", "supercategory": "none"},
        {"id": 7, "name": "car", "supercategory": "vehicles"},
    ]
    write(tmp_path / "_annotations.coco.json", [item(1, [FLAT])], categories=categories)
    export = FORMAT.read(tmp_path)
    assert [c.name for c in export.classes] == ["car"]
    assert sum(export.skipped.values()) == 1


def panoptic(folder: Path, ids: np.ndarray, segments: list[dict]) -> Export:
    photo(folder / "images" / "a.jpg")
    pixels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    (folder / "panoptic_x").mkdir()
    Image.fromarray(pixels).save(folder / "panoptic_x" / "a.png")
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": segments}
    write(folder / "panoptic_x.json", [annotation])
    return FORMAT.read(folder)


def test_panoptic(tmp_path: Path) -> None:
    ids = np.zeros(SIZE, np.int64)
    ids[:10], ids[10:20], ids[20:25], ids[25:30] = 70000, 300, 5, 6
    segments = [
        {"id": 70000, "category_id": 7, "iscrowd": 0},
        {"id": 300, "category_id": 3, "iscrowd": 0},
        {"id": 5, "category_id": 7, "iscrowd": 0},
        {"id": 6, "category_id": 3, "iscrowd": 1},
    ]
    export = panoptic(tmp_path, ids, segments)
    label = drawn(export, export.records[0])
    expected = np.full(SIZE, UNLABELLED)
    expected[:10], expected[10:20], expected[20:25], expected[25:30] = 7, 3, 7, 255
    assert np.array_equal(label, expected)


@pytest.mark.parametrize(
    ("size", "message"),
    [(SIZE, "the segment id 9, which segments_info"), ((5, 5), "of 5x5 pixels .* expected 60x40")],
)
def test_wrong_panoptic_masks(size: tuple[int, int], message: str, tmp_path: Path) -> None:
    export = panoptic(tmp_path, np.full(size, 9), [{"id": 8, "category_id": 7}])
    with pytest.raises(UserError, match=message):
        drawn(export, export.records[0])


def test_recognition(tmp_path: Path) -> None:
    assert FORMAT.recognize(tmp_path) is None
    write(tmp_path / "annotations" / "x.json", [item(1, [FLAT])])
    seen = "annotations/x.json with images, annotations and categories"
    assert FORMAT.recognize(tmp_path) == seen
    with pytest.raises(UserError, match="COCO JSON without its images"):
        FORMAT.read(tmp_path)
    (tmp_path / "annotations" / "x.json").write_text('{"items": [], "categories": {"label": {}}}')
    assert FORMAT.recognize(tmp_path) is None


def test_two_annotations_of_an_image(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    for name in ("instances_x.json", "stuff_x.json"):
        write(tmp_path / name, [item(1, [FLAT])])
    with pytest.raises(UserError, match=r"is in instances_x\.json and in stuff_x\.json"):
        FORMAT.read(tmp_path)


@pytest.mark.skipif(not (FORMATS / "coco").is_dir(), reason=f"no samples at {FORMATS}")
def test_real_samples() -> None:
    folder = FORMATS / "coco"
    for name, classes in (("instances", "abc"), ("stuff", "ab"), ("panoptic", "ab")):
        layout = folder / "layouts" / f"coco_{name}"
        assert FORMAT.recognize(layout)
        export = FORMAT.read(layout)
        assert "".join(c.name for c in export.classes) == classes
        assert sorted(r.split for r in export.records) == ["train", "val"]
        val = next(r for r in export.records if r.split == "val")
        assert export.annotation(val, val.size)
