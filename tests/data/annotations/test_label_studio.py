"""Label Studio: regions, which annotation of a task counts, where images are, and bad files."""

from __future__ import annotations

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
from layout_trees import put_image, put_mask

from segcoord.data.annotations.brush_rle import decode_brush
from segcoord.data.annotations.formats.label_studio import FORMAT
from segcoord.data.annotations.records import ClassName
from segcoord.utils.errors import UserError

SIZE = 100, 200  # height, width
TRIANGLE = {"points": [[10, 20], [50, 20], [50, 80]], "closed": True, "polygonlabels": ["car"]}
BOX = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 90, "rectanglelabels": ["tree"]}
ELLIPSE = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 0, "ellipselabels": ["car"]}


def result(value: dict, **more: object) -> dict:
    kind = next((key for key in value if key.endswith("labels")), "choices")
    size = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
    return {
        "id": "x",
        "type": kind,
        "from_name": "label",
        "to_name": "i",
        **size,
        "value": value,
    } | more


def entry(*results: dict, **more: object) -> dict:
    """One annotation of a task."""
    return {"id": 7, "was_cancelled": False, "ground_truth": False, "result": [*results]} | more


def task(*annotations: dict, image: str = "/data/upload/1/0123abcd-a.jpg", **more: object) -> dict:
    content = {"id": 5, "annotations": [*annotations], "predictions": [], "data": {"image": image}}
    return content | more


def put_tasks(root: Path, *tasks: dict) -> Path:
    put_image(root / "images" / "a.jpg", SIZE[::-1])
    return put_json(root / "export.json", [*tasks])


def read_shapes(root: Path, *results: dict, size: tuple[int, int] = SIZE) -> list:
    put_tasks(root, task(entry(*results)))
    return annotation(FORMAT.read(root), "a", size)


def test_shapes_by_hand(tmp_path: Path) -> None:
    shapes = read_shapes(tmp_path, result(TRIANGLE), result(BOX), result(ELLIPSE))
    assert rings(shapes[:2]) == [
        ("car", [[[20, 20], [100, 20], [100, 80]]]),
        ("tree", [[[20, 20], [20, 80], [-20, 80], [-20, 20]]]),  # turned around its first corner
    ]
    (ring,) = shapes[2].rings
    assert ring[:: len(ring) // 4].round(6).tolist() == [[120, 50], [100, 70], [80, 50], [100, 30]]
    assert {shape.order for shape in shapes} == {None}
    export = FORMAT.read(tmp_path)
    assert export.classes == [ClassName("car"), ClassName("tree")]
    (record,) = export.records
    assert (record.image, record.size) == (tmp_path / "images/a.jpg", SIZE)
    assert record.where == f"{tmp_path / 'export.json'}: task 5"
    assert export.skipped == {}


def test_percent_of_a_resized_image(tmp_path: Path) -> None:
    (shape,) = read_shapes(tmp_path, result(TRIANGLE), size=(50, 50))
    assert rings([shape]) == [("car", [[[5, 10], [25, 10], [25, 40]]])]


def test_json_min(tmp_path: Path) -> None:
    size = {"original_width": 200, "original_height": 100}
    first = {"image": "/data/upload/1/0123abcd-a.jpg", "id": 5, "label": [TRIANGLE | size]}
    first |= {"choice": "night", "tags": [{"text": ["x"]}], "annotator": 1, "annotation_id": 3}
    second = {"image": "b.jpg", "id": 6, "box": [BOX | size], "label": [TRIANGLE | size]}
    put_tasks(tmp_path, first, second)
    export = FORMAT.read(tmp_path)
    assert [label for label, _ in rings(annotation(export, "b", SIZE))] == ["tree", "car"]
    assert rings(annotation(export, "a", SIZE)) == [("car", [[[20, 20], [100, 20], [100, 80]]])]
    assert by_name(export)["a"].size == SIZE
    put_tasks(tmp_path, first, first)
    found = refused_annotation(FORMAT.read(tmp_path), "a")
    assert "export.json: task 5: found 2 annotations, expected one." in found


def test_labels_tag(tmp_path: Path) -> None:
    """Geometry and label are two results of one id; a choice for a region repeats its geometry."""
    points = {"points": TRIANGLE["points"]}
    results = [
        result(points, type="polygon", id="a"),
        result({**points, "labels": ["car"]}, id="a"),
        result({**points, "choices": ["blurred"]}, id="a"),
        result(points, type="polygon", id="b"),
        {"type": "relation", "from_id": "a", "to_id": "b"},
    ]
    assert [shape.label for shape in read_shapes(tmp_path, *results)] == ["car"]
    assert FORMAT.read(tmp_path).skipped == {"regions without a label": 1}


def test_what_is_left_out(tmp_path: Path) -> None:
    results = [
        result(TRIANGLE | {"closed": False}),
        result({"x": 1, "y": 1, "width": 1, "keypointlabels": ["eye"]}),
        result({"start": 0, "end": 3, "text": "x", "labels": ["word"]}),
        result(TRIANGLE | {"polygonlabels": []}),
    ]
    cancelled = entry(result(BOX), was_cancelled=True)
    put_tasks(tmp_path, task(cancelled, entry(*results), predictions=[{"result": []}]))
    export = FORMAT.read(tmp_path)
    assert export.skipped == {
        "cancelled annotations": 1,
        "predictions": 1,
        "polygons that are not closed": 1,
        "keypointlabels regions": 1,
        "labels regions that are not of an image": 1,
        "regions without a label": 1,
    }
    assert export.classes == []
    assert annotation(export, "a", SIZE) == []  # annotated as empty


@pytest.mark.parametrize("annotations", [[], [entry(was_cancelled=True)]])
def test_task_without_annotation(tmp_path: Path, annotations: list[dict]) -> None:
    put_tasks(tmp_path, task(*annotations))
    assert FORMAT.read(tmp_path).records[0].content is None


def test_several_annotations(tmp_path: Path) -> None:
    car, tree = result(TRIANGLE), result(BOX)
    path = put_tasks(tmp_path, task(entry(car), entry(tree)))
    found = refused_annotation(FORMAT.read(tmp_path), "a")
    assert found.startswith(f"{path}: task 5: found 2 annotations, expected one. Mark one as")
    truths = [
        entry(car, ground_truth=True, updated_at="2024-01-30T02:40:43.9Z"),
        entry(tree, ground_truth=True, updated_at="2024-02-01T00:00:00.0Z"),
        entry(car, updated_at="2025-01-01T00:00:00.0Z"),
    ]
    put_tasks(tmp_path, task(*truths))
    export = FORMAT.read(tmp_path)
    assert [shape.label for shape in annotation(export, "a", SIZE)] == ["tree"]
    assert export.skipped == {"annotations beside a ground truth": 2}


@pytest.mark.parametrize(
    ("image", "file", "name"),
    [
        ("/data/upload/1/0123abcd-a.jpg", "images/0123abcd-a.jpg", "0123abcd-a"),
        ("/data/upload/1/0123abcd-my_photo_1.jpg", "my photo (1).JPG", "my photo (1)"),
        ("/data/local-files/?d=set/day%201/b.png", "day 1/b.png", "day 1/b"),
        ("https://host/x/c%20d.jpg?Signature=a/b.jpg", "c d.jpg", "c d"),
        ("s3://bucket/x/caf\u00e9.jpg", "x/cafe\u0301.jpg", "x/cafe\u0301"),
        ("gone.jpg", None, "gone"),
    ],
)
def test_image_files(tmp_path: Path, image: str, file: str | None, name: str) -> None:
    put_json(tmp_path / "export.json", [task(entry(), image=image)])
    put_image(tmp_path / (file or "other.jpg"))
    (record,) = FORMAT.read(tmp_path).records
    assert record.name == name
    assert record.image == tmp_path / (file or "gone.jpg")


def test_image_by_another_key_or_upload(tmp_path: Path) -> None:
    data = {"photo": "https://host/a.jpg?x=1", "text": "Look at this.", "rank": 3}
    put_tasks(tmp_path, task(entry(), data=data))
    assert FORMAT.read(tmp_path).records[0].image == tmp_path / "images/a.jpg"
    upload = task(entry(), data={"image": "/image2"}, file_upload="0123abcd-a.jpg")
    put_tasks(tmp_path, upload)
    assert FORMAT.read(tmp_path).records[0].image == tmp_path / "images/a.jpg"
    for data in ({"text": "none"}, {"front": "a.jpg", "back": "b.jpg"}):
        put_tasks(tmp_path, task(entry(), data=data))
        assert "images in the data, expected one" in refusal(FORMAT, tmp_path)


def test_images_of_the_same_name(tmp_path: Path) -> None:
    for folder in ("day", "night"):
        put_image(tmp_path / folder / "a.jpg")
    put_json(tmp_path / "export.json", [task(entry(), image="/root/night/a.jpg")])
    assert FORMAT.read(tmp_path).records[0].name == "night/a"
    put_json(tmp_path / "export.json", [task(entry(), image="/root/dusk/a.jpg")])
    found = refusal(FORMAT, tmp_path)
    assert "task 5: the image root/dusk/a.jpg may be day/a.jpg or night/a.jpg in" in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([task(), 3], "export.json: [1]: found 3, expected an object."),
        ([task(3)], "task 5, annotations: found 3, expected an object."),
        ([task({"id": 1})], "task 5: result: found nothing, expected a list."),
        ([task(entry(3))], "task 5, result: found 3, expected an object."),
        ([task(data=3)], "task 5: data: found 3, expected an object."),
        ([task(image="../a.jpg")], "task 5: found the image '../a.jpg', expected a path"),
        ([task(image="/data/local-files/?d=../a.jpg")], "expected a path to a file without '..'"),
        ([task(image="data:image/png;base64,AA==")], "task 5, image: found an embedded image"),
        (
            [task(entry(result(TRIANGLE | {"polygonlabels": "car"})))],
            "polygonlabels: found 'car', expected a list.",
        ),
    ],
)
def test_bad_file(tmp_path: Path, content: list, message: str) -> None:
    path = put_json(tmp_path / "export.json", content)
    found = refusal(FORMAT, tmp_path)
    assert found.startswith(str(path))
    assert message in found


def test_truncated_file(tmp_path: Path) -> None:
    path = put_tasks(tmp_path, task(entry(result(TRIANGLE))))
    path.write_text(path.read_text()[:-20])
    assert refusal(FORMAT, tmp_path).startswith(f"{path}: JSON that is cut short after ")


@pytest.mark.parametrize(
    ("value", "more", "message"),
    [
        (TRIANGLE | {"points": [[1, 2], [3]]}, {}, "points: found [[1, 2], [3]], expected points"),
        (TRIANGLE | {"points": [["a", 2]]}, {}, "points: found [['a', 2]], expected points"),
        (BOX | {"width": "3"}, {}, "result 1: width: found '3', expected a number."),
        (BOX | {"rotation": float("inf")}, {}, "rotation: found inf, expected a finite number."),
        (ELLIPSE | {"radiusY": None}, {}, "radiusY: found None, expected a number."),
        (
            TRIANGLE,
            {"image_rotation": 90},
            "image_rotation: found 90, expected an image that is not",
        ),
    ],
)
def test_bad_region(tmp_path: Path, value: dict, more: dict, message: str) -> None:
    path = put_tasks(tmp_path, task(entry(result(value, **more))))
    found = refused_annotation(FORMAT.read(tmp_path), "a", SIZE)
    assert found.startswith(f"{path}: task 5, result 1")
    assert message in found


def test_recognize(tmp_path: Path) -> None:
    put_json(tmp_path / "coco.json", {"images": [], "annotations": []})
    put_json(tmp_path / "results.json", [{"image_id": 1, "segmentation": {}}])
    put_text(tmp_path / "empty.json", "")
    assert FORMAT.recognize(tmp_path) is None
    assert "found no .json file with a list of Label Studio's tasks" in refusal(FORMAT, tmp_path)
    put_tasks(tmp_path, task())
    assert FORMAT.recognize(tmp_path) == "export.json with tasks"


def test_export_of_brush_labels_as_png(tmp_path: Path) -> None:
    name = "task-5-annotation-7-by-1-tag-car-0.png"
    put_mask(tmp_path / name)
    assert FORMAT.recognize(tmp_path) == f"PNG files of brush labels such as {name}"
    found = refusal(FORMAT, tmp_path)
    assert f"{tmp_path}: found PNG files of brush labels such as {name}, which name tasks" in found
    assert found.endswith("Export the project as JSON, which has the same masks.")


# The RLE of the brush, by hand: 16 values of 8 bits, and lengths of 3, 4, 8 and 16 bits.
HEADER = f"{16:032b}" + "00111" + "0010" + "0011" + "0111" + "1111"
ZEROS, ONES = "0" * 8, "1" * 8
BLOCKS = [
    "1" + "00" + "010" + ZEROS,  # a run of 3
    "0" + "00" + "000" + ONES,  # a single value
    "1" + "01" + "1001" + ZEROS,  # a run of 10
    "0" + "00" + "001" + ZEROS + "00000001",  # two single values
]
DIAGONAL = [[True, False], [False, True]]


def packed(bits: str) -> bytes:
    bits = bits.ljust(-(-len(bits) // 8) * 8, "0")
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def test_brush(tmp_path: Path) -> None:
    value = {"format": "rle", "rle": [*packed(HEADER + "".join(BLOCKS))], "brushlabels": ["car"]}
    region = result(value, original_width=2, original_height=2)
    (shape,) = read_shapes(tmp_path, region, size=(2, 2))
    assert (shape.label, shape.offset) == ("car", (0, 0))
    assert shape.mask.tolist() == DIAGONAL
    found = refused_annotation(FORMAT.read(tmp_path), "a", (2, 3))
    assert "task 5, result 1: the brush mask has 2x2 pixels, the image 3x2." in found


def test_brush_with_lengths_of_all_kinds() -> None:
    """Runs of random lengths, of which each takes the shortest kind that has its length."""
    widths = (2, 5, 7, 13)
    rng = np.random.default_rng(0)
    lengths = [1, 4, 5, 32, 33, 128, 129, 8192, *rng.integers(1, 200, 60)]
    lengths.append(40 * 100 * 4 - sum(lengths))
    bits = f"{16000:032b}" + "00111" + "".join(f"{width - 1:04b}" for width in widths)
    values = rng.integers(0, 3, len(lengths)) * 127
    for length, value in zip(lengths, values):
        kind = next(i for i, width in enumerate(widths) if length <= 1 << width)
        bits += f"1{kind:02b}{length - 1:0{widths[kind]}b}{value:08b}"
    mask = decode_brush(packed(bits), (100, 40), "x")
    alpha = np.repeat(values, lengths)[3::4].reshape(100, 40)
    np.testing.assert_array_equal(mask, alpha > 0)
    assert 0 < mask.mean() < 1


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ("", "found 0 bytes, expected an RLE of Label Studio."),
        (HEADER + "".join(BLOCKS[:3]), "the RLE ends early. Export it again."),
        (HEADER + "".join(BLOCKS[:3]) + "0" + "00" + "001" + ZEROS, "the RLE ends early."),
        (HEADER + "1" + "10" + f"{16:08b}" + ZEROS, "the RLE has too many values."),
        (
            f"{12:032b}" + HEADER[32:] + "".join(BLOCKS),
            "found 12 values of 8 bits, expected 16 of 8",
        ),
        (HEADER[:32] + "01111" + HEADER[37:], "found 16 values of 16 bits, expected 16 of 8"),
    ],
)
def test_bad_brush(bits: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        decode_brush(packed(bits) if bits else b"", (2, 2), "file, key")
    assert str(caught.value).startswith(f"file, key: {message}")
