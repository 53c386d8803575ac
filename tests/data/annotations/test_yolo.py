"""YOLO segmentation: where images and labels are, polygons in pixels, and bad lines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from export_files import annotation, by_name, put_text, rings, yolo_tree
from helpers import FORMATS
from layout_trees import put_image

from segcoord.data.annotations.formats.yolo import FORMAT
from segcoord.utils.errors import UserError


def test_roboflow_export(tmp_path: Path) -> None:
    export = FORMAT.read(yolo_tree(tmp_path))
    records = by_name(export)
    assert [*records] == ["train/a", "valid/a"]
    assert [r.split for r in records.values()] == ["train", "val"]
    assert records["train/a"].image == tmp_path / "train/images/a.jpg"
    assert [(c.name, c.id) for c in export.classes] == [("cat", 0), ("no", 1)]
    # The triangle in pixels; `no` stays text, and the box is counted.
    assert rings(annotation(export, "train/a")) == [("no", [[[3, 1], [6, 1], [3, 4]]])]
    assert annotation(export, "valid/a") == []  # an empty label file
    assert export.skipped == {
        "split test of data.yaml, which is not there": 1,  # Roboflow names it in every export
        "bounding boxes without a polygon": 1,
    }


def coco_tree(root: Path, train: str = "images/train", path: str = "coco8") -> Path:
    """As Ultralytics' own datasets, with `path` relative to a folder elsewhere."""
    names = "names:\n  0: cat\n  3: dog\n"
    put_text(root / "coco8.yaml", f"path: {path}\ntrain: {train}\nval:\ntest: # none\n{names}")
    for name in "ab":
        put_image(root / "images/train" / f"{name}.jpg")
    put_text(root / "labels/train/a.txt", "3 0 0 1 0 1 1")
    return root


def test_names_as_mapping_and_image_without_label(tmp_path: Path) -> None:
    export = FORMAT.read(coco_tree(tmp_path))
    assert [(c.name, c.id) for c in export.classes] == [("cat", 0), ("dog", 3)]
    assert rings(annotation(export, "train/a")) == [("dog", [[[0, 0], [6, 0], [6, 4]]])]
    assert by_name(export)["train/b"].content is None
    assert not export.skipped
    put_text(tmp_path / "labels" / "train" / "lost.txt", "0 0 0 1 0 1 1\n")
    skipped = FORMAT.read(tmp_path).skipped
    assert [*skipped.values()] == [1]
    assert next(iter(skipped)).startswith("label files without an image, such as ")


@pytest.mark.parametrize(
    ("train", "path", "names"),
    [
        ("images", "", ["train/a", "train/b"]),
        ("/content/coco8/images/train", "/content/coco8", ["train/a", "train/b"]),
        ("[images/train]", ".", ["train/a", "train/b"]),
        ("list.txt", "", ["train/b"]),
    ],
)
def test_paths_of_yaml(tmp_path: Path, train: str, path: str, names: list[str]) -> None:
    """Folders, lists of folders, a list file, and paths of another machine."""
    coco_tree(tmp_path, train, path)
    put_text(tmp_path / "labels/train/b.txt", "0 0 0 1 0 1 1")
    put_text(tmp_path / "list.txt", "./images/train/b.jpg\nimages/train/gone.jpg\n")
    export = FORMAT.read(tmp_path)
    assert [*by_name(export)] == names
    gone = {"images that are not there, such as images/train/gone.jpg": 1}
    assert export.skipped == (gone if train == "list.txt" else {})


def test_names_of_other_unicode_form(tmp_path: Path) -> None:
    """The label's name is composed, the image's decomposed."""
    coco_tree(tmp_path)
    put_image(tmp_path / "images/train" / "e\u0301.jpg")
    label = put_text(tmp_path / "labels/train" / "\u00e9.txt", "0 0 0 1 0 1 1")
    assert by_name(FORMAT.read(tmp_path))["train/e\u0301"].content == label


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.1 0.1 1.2 0.1 0.5 0.5", "found 1.2, expected coordinates from 0 to 1"),
        ("0 0.1 0.1 nan 0.1 0.5 0.5", "found nan"),
        ("0 0.1 0.1 0.9 0.1 0.5", "found 6 numbers"),
        ("0 0.1 0.1", "found 3 numbers"),
        ("7 0.1 0.1 0.9 0.1 0.5 0.5", "class 7 has no name; the names are those of 0 to 1"),
        ("0 0.1 0.1 0.9 0.1 0.5 x", "expected numbers"),
    ],
)
def test_bad_lines_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    export = FORMAT.read(yolo_tree(tmp_path))
    put_text(tmp_path / "train/labels/a.txt", f"0 0 0 1 0 1 1\n{line}\n")
    with pytest.raises(UserError, match=r"a\.txt, line 2: ") as caught:
        annotation(export, "train/a")
    assert message in str(caught.value)


def test_image_with_boxes_only_has_no_annotation(tmp_path: Path) -> None:
    yolo_tree(tmp_path)
    put_text(tmp_path / "valid/labels/a.txt", "0 0.5 0.5 0.2 0.2\n" * 2)
    export = FORMAT.read(tmp_path)
    assert by_name(export)["valid/a"].content is None
    assert export.skipped["bounding boxes without a polygon"] == 3


def test_labels_without_yaml(tmp_path: Path) -> None:
    yolo_tree(tmp_path)
    (tmp_path / "data.yaml").unlink()
    assert "no data.yaml" in FORMAT.recognize(tmp_path)
    with pytest.raises(UserError, match=r"Add a classes\.txt .* or a data\.yaml"):
        FORMAT.read(tmp_path)
    put_text(tmp_path / "classes.txt", "cat\ndog\n\n")
    export = FORMAT.read(tmp_path)
    assert [r.split for r in export.records] == ["train", "valid"]
    assert [c.name for c in export.classes] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: train/images\nnames: [cat, dog]\nnc: 3", "found 2, expected as many as nc: 3"),
        ("train: train/images\nnames: {cat: 0}", "expected a number and a name"),
        ("train: other\nnames: [cat, dog]", "found 'other', but no such folder"),
        ("train: ../../../etc\nnames: [cat, dog]", "no such folder"),
        ("path: .\nnames: [cat, dog]", "found none of train, val, test"),
        ("train: train/images\nval: train/images\nnames: [cat, dog]", "is in two splits"),
        ("train: empty\nnames: [cat, dog]", "found no image"),
        ("train: train/images\nnames: [cat, dog]\nkpt_shape: [17, 3]", "keypoints"),
    ],
)
def test_bad_yaml(tmp_path: Path, yaml: str, message: str) -> None:
    yolo_tree(tmp_path)
    (tmp_path / "empty").mkdir()
    put_text(tmp_path / "data.yaml", yaml)
    with pytest.raises(UserError) as caught:
        FORMAT.read(tmp_path)
    assert message in str(caught.value)


def test_dataset_of_boxes_and_one_without_labels(tmp_path: Path) -> None:
    yolo_tree(tmp_path)
    put_text(tmp_path / "train/labels/a.txt", "0 0.1 0.1 0.2 0.2")
    with pytest.raises(UserError, match="found 1 bounding boxes and no polygon"):
        FORMAT.read(tmp_path)
    for split in ("train", "valid"):
        shutil.rmtree(tmp_path / split / "labels")
    with pytest.raises(UserError, match=r"the first would be .*train/labels/a\.txt"):
        FORMAT.read(tmp_path)


def test_two_yaml_files(tmp_path: Path) -> None:
    put_text(yolo_tree(tmp_path) / "other.yaml", "train: train/images\nnames: [cat]")
    with pytest.raises(UserError, match=r"found both data\.yaml and other\.yaml"):
        FORMAT.read(tmp_path)


@pytest.mark.skipif(not FORMATS.is_dir(), reason=f"no samples at {FORMATS}")
def test_coco8() -> None:
    """Ultralytics' coco8-seg, in which all lines are polygons."""
    root = FORMATS / "yolo_seg"
    assert FORMAT.recognize(root)
    export = FORMAT.read(root)
    records = by_name(export)
    assert [r.split for r in records.values()] == ["train"] * 4 + ["val"] * 4
    assert len(export.classes) == 80
    assert not export.skipped
    shapes = {name: export.annotation(r, (480, 640)) for name, r in records.items()}
    assert [len(s) for s in shapes.values()] == [8, 2, 2, 1, 2, 1, 9, 5]
    first = shapes["train/000000000009"][0]
    assert first.label == "bowl"
    assert first.rings[0][0] == pytest.approx((0.782016 * 640, 0.986521 * 480))
