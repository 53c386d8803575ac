"""Roboflow's masks: the table of values, pairs of files, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from export_files import annotation, by_name, put_text, refusal
from helpers import FORMATS
from layout_trees import put_image, put_mask

from segcoord.data.annotations.formats.roboflow_masks import FORMAT
from segcoord.data.annotations.records import ClassName, MaskFile

SAMPLE = FORMATS / "roboflow_semantic_masks"
TABLE = "Pixel Value, Class\n0, background\n2, car, or van\n 1,tree"


def put_pair(folder: Path, name: str, suffix: str = ".jpg") -> None:
    put_image(folder / f"{name}{suffix}")
    put_mask(folder / f"{name}_mask.png")


def test_splits(tmp_path: Path) -> None:
    """The same image in two folders, whose tables give the values other names."""
    put_text(tmp_path / "train/_classes.csv", TABLE)
    put_text(tmp_path / "valid/_classes.csv", "Pixel Value, Class\r\n0, background\r\n1, sky\r\n")
    put_pair(tmp_path / "train", "a_png.rf.12ab")
    put_pair(tmp_path / "valid", "a_png.rf.12ab")
    export = FORMAT.read(tmp_path)
    records = by_name(export)
    assert {name: record.split for name, record in records.items()} == {
        "train/a_png.rf.12ab": "train",
        "valid/a_png.rf.12ab": "valid",
    }
    assert export.background == "background"
    assert export.classes == [
        ClassName("background", id=0),
        ClassName("tree", id=1),
        ClassName("sky", id=1),
        ClassName("car, or van", id=2),
    ]
    mask = tmp_path / "train/a_png.rf.12ab_mask.png"
    names = {0: "background", 1: "tree", 2: "car, or van"}
    assert annotation(export, "train/a_png.rf.12ab") == MaskFile(mask, names)
    assert annotation(export, "valid/a_png.rf.12ab").names == {0: "background", 1: "sky"}


def test_pairs(tmp_path: Path) -> None:
    """PNG images, one whose name ends as a mask's, and images or masks alone."""
    put_text(tmp_path / "_classes.csv", TABLE)
    put_pair(tmp_path, "a", ".png")
    put_pair(tmp_path, "b_mask", ".png")
    put_image(tmp_path / "c.JPG")
    put_mask(tmp_path / "gone_mask.png")
    put_image(tmp_path / "preview/d.jpg")  # a folder without a table
    records = by_name(FORMAT.read(tmp_path))
    masks = {name: record.content and Path(record.content).name for name, record in records.items()}
    assert masks == {
        "a": "a_mask.png",
        "b_mask": "b_mask_mask.png",
        "c": None,
        "gone": "gone_mask.png",
    }
    assert [r.name for r in records.values() if not r.image.exists()] == ["gone"]
    assert records["gone"].image == tmp_path / "gone.jpg"
    assert {record.split for record in records.values()} == {None}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("256, bus", "line 5: found '256, bus', expected a value from 0 to 255"),
        ("bus", "line 5: found 'bus', expected a value from 0 to 255, a comma and a name"),
        ("3,", "line 5: found '3,'"),
        ("2, bus", "line 5: found '2, bus', whose value or name is listed before"),
        ("3, tree", "line 5: found '3, tree', whose value or name"),
    ],
)
def test_bad_table(tmp_path: Path, line: str, message: str) -> None:
    path = put_text(tmp_path / "_classes.csv", f"{TABLE}\n{line}\n")
    assert refusal(FORMAT, tmp_path).startswith(f"{path}: {message}")


def test_nothing_to_read(tmp_path: Path) -> None:
    assert "found no _classes.csv that begins with 'Pixel Value, Class'" in refusal(
        FORMAT, tmp_path
    )
    put_text(tmp_path / "_classes.csv", "Pixel Value, Class\n")
    assert "_classes.csv: found no classes" in refusal(FORMAT, tmp_path)
    put_text(tmp_path / "_classes.csv", TABLE)
    assert "found no images beside _classes.csv" in refusal(FORMAT, tmp_path)


def test_recognize(tmp_path: Path) -> None:
    put_text(tmp_path / "train/_classes.csv", "filename, car, tree\na.jpg, 1, 0\n")
    assert FORMAT.recognize(tmp_path) is None  # Roboflow's multi-label classification
    put_text(tmp_path / "train/_classes.csv", TABLE)
    assert FORMAT.recognize(tmp_path) == "train/_classes.csv with pixel values"
    assert FORMAT.recognize(tmp_path / "nowhere") is None


@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no samples at {SAMPLE}")
def test_sample() -> None:
    export = FORMAT.read(SAMPLE)
    assert len(export.records) == 9
    assert all(r.image.is_file() and r.content and r.split == "train" for r in export.records)
    assert [c.name for c in export.classes][:3] == ["background", "Car", "Cow statue"]
    assert [c.id for c in export.classes] == [*range(18)]
    assert annotation(export, export.records[0].name).names[17] == "umbrella"
