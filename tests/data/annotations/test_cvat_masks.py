"""CVAT segmentation mask 1.1: the label map, lists, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from export_files import annotation, by_name, put_text, refusal
from helpers import FORMATS
from layout_trees import put_image, put_mask

from segcoord.data.annotations.formats.cvat_masks import FORMAT
from segcoord.data.annotations.records import ClassName, MaskFile

SAMPLE = FORMATS / "cvat_segmentation_mask"
LABEL_MAP = (
    "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
    "car:250,50,83::\nroad: left:1, 2, 3:a,b:\n"
)
LISTS = "ImageSets/Segmentation"


def tree(root: Path, label_map: str = LABEL_MAP, **lists: str) -> Path:
    put_text(root / "labelmap.txt", label_map)
    for name, text in (lists or {"default": "a\n"}).items():
        put_text(root / LISTS / f"{name}.txt", text)
    put_image(root / "JPEGImages" / "a.jpg")
    put_mask(root / "SegmentationClass" / "a.png")
    return root


def test_classes_and_mask(tmp_path: Path) -> None:
    export = FORMAT.read(tree(tmp_path))
    assert export.background == "background"
    assert export.classes == [
        ClassName("background", (0, 0, 0)),
        ClassName("car", (250, 50, 83)),
        ClassName("road: left", (1, 2, 3)),
    ]
    names = {(0, 0, 0): "background", (250, 50, 83): "car", (1, 2, 3): "road: left"}
    assert annotation(export, "a") == MaskFile(tmp_path / "SegmentationClass/a.png", names)


def test_lists(tmp_path: Path) -> None:
    """A name in a folder with spaces, an image without shapes, and two that are gone."""
    tree(tmp_path, train='a\n"day 1/b"\n', default="empty\n\ngone\nlost\n")
    put_image(tmp_path / "JPEGImages/day 1/b.PNG")
    put_image(tmp_path / "JPEGImages/empty.jpg")
    for name in ("day 1/b", "gone", "unlisted"):
        put_mask(tmp_path / "SegmentationClass" / f"{name}.png")
    export = FORMAT.read(tmp_path)
    records = by_name(export)
    assert [*records] == ["empty", "gone", "lost", "a", "day 1/b"]
    assert [r.split for r in records.values()] == [None] * 3 + ["train"] * 2
    assert [r.content is None for r in records.values()] == [True] + [False] * 4
    assert [r.image.exists() for r in records.values()] == [True, False, False, True, True]
    assert records["gone"].image == tmp_path / "JPEGImages/gone.jpg"
    assert records["gone"].where == f"{tmp_path / LISTS / 'default.txt'}: line 3"
    assert export.skipped == {"masks that no list in ImageSets/Segmentation has": 1}


def test_without_lists(tmp_path: Path) -> None:
    put_text(tmp_path / "labelmap.txt", LABEL_MAP)
    put_mask(tmp_path / "SegmentationClass" / "b.png")
    put_image(tmp_path / "JPEGImages" / "a.jpg")
    put_image(tmp_path / "JPEGImages" / "b.jpg")
    records = by_name(FORMAT.read(tmp_path))
    assert {n: r.content is None for n, r in records.items()} == {"a": True, "b": False}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("car", "line 5: found 'car', expected NAME:R,G,B:PARTS:ACTIONS"),
        ("bus:300,0,0::", "found 'bus:300,0,0::', expected NAME:R,G,B"),
        ("bus:1,2::", "found 'bus:1,2::'"),
        ("car:9,9,9::", "line 5: found the label 'car' a second time."),
        ("bus:250,50,83::", "line 5: 'bus' has the color 250,50,83 of 'car', so masks"),
    ],
)
def test_bad_label_map(tmp_path: Path, line: str, message: str) -> None:
    found = refusal(FORMAT, tree(tmp_path, LABEL_MAP + line))
    assert found.startswith(f"{tmp_path / 'labelmap.txt'}: line 5: ")
    assert message in found


def test_bad_lists(tmp_path: Path) -> None:
    found = refusal(FORMAT, tree(tmp_path, train="../a\n"))
    assert f"{tmp_path / LISTS / 'train.txt'}: line 1: found the name '../a'" in found
    assert "found no images in ImageSets/Segmentation" in refusal(FORMAT, tree(tmp_path, train=""))
    found = refusal(FORMAT, tree(tmp_path, "# nothing\n"))
    assert "labelmap.txt: found no labels, expected NAME:R,G,B:PARTS:ACTIONS" in found
    (tmp_path / "labelmap.txt").write_bytes(b"caf\xe9:0,0,0::\n")
    assert "labelmap.txt: byte 3 is not UTF-8." in refusal(FORMAT, tmp_path)
    (tmp_path / "labelmap.txt").unlink()
    assert "labelmap.txt: no such file." in refusal(FORMAT, tmp_path)


def test_recognize(tmp_path: Path, sample_voc: Path) -> None:
    assert FORMAT.recognize(sample_voc / "VOCdevkit" / "VOC2012") is None
    put_text(tmp_path / "labelmap.txt", "0 background\n")
    (tmp_path / "SegmentationClass").mkdir()
    assert FORMAT.recognize(tmp_path) is None
    tree(tmp_path)
    assert FORMAT.recognize(tmp_path) == "labelmap.txt and SegmentationClass"


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no samples at {SAMPLE}")
def test_sample() -> None:
    """Its list names 20 images, of which 3 are there."""
    assert FORMAT.recognize(SAMPLE)
    export = FORMAT.read(SAMPLE)
    assert [(c.name, c.color) for c in export.classes] == [
        ("background", (0, 0, 0)),
        ("tool", (250, 50, 83)),
    ]
    there = [r.name for r in export.records if r.image.is_file()]
    assert there == ["SSI1", "SSI10", "SSI11"]
    assert len([r for r in export.records if r.content is not None]) == 20  # so 17 are gone
    assert annotation(export, "SSI1").path == SAMPLE / "SegmentationClass" / "SSI1.png"
