"""Color masks with a table of colors: the kinds of tables, unlabelled colors, and bad lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from export_files import annotation, by_name, color_tree, put_colors, put_text
from layout_trees import put_image, put_mask

from segcoord.data.annotations.formats.color_masks import FORMAT
from segcoord.utils.errors import UserError

NAMES = {(0, 0, 0): None, (64, 0, 128): "Car", (128, 128, 128): "Road Sky"}
CSV = "name,r,g,b\nVoid,0,0,0\nCar,64,0,128\nRoad Sky, 128,128,128\n"


def test_camvid_as_cvat_exports_it(tmp_path: Path) -> None:
    root = color_tree(tmp_path)
    assert "label_colors.txt" in FORMAT.recognize(root)
    export = FORMAT.read(root)
    assert [(n, r.split) for n, r in by_name(export).items()] == [
        ("train/a", "train"),
        ("val/a", "val"),
    ]
    found = annotation(export, "train/a")
    assert found.path == root / "trainannot" / "a.png"
    assert found.names == NAMES
    assert [(c.id, c.name, c.color) for c in export.classes] == [
        (0, "Car", (64, 0, 128)),
        (1, "Road Sky", (128, 128, 128)),
    ]
    assert not export.skipped


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("label_colors.txt", "Void 0 0 0\nCar\t64\t0\t128\n\nRoad Sky 128,128,128\n"),
        ("class_dict.csv", CSV),
        ("classes.csv", "r;g;b;Class\n0;0;0;void\n64;0;128;Car\n128;128;128;Road Sky"),
        ("colors.json", json.dumps({"Void": [0] * 3, "Car": "#400080", "Road Sky": [128] * 3})),
    ],
)
def test_tables(tmp_path: Path, file: str, text: str) -> None:
    root = color_tree(tmp_path)
    (root / "label_colors.txt").unlink()
    put_text(root / file, text)
    assert file in FORMAT.recognize(root)
    assert annotation(FORMAT.read(root), "val/a").names == NAMES


def test_names_with_affixes(tmp_path: Path) -> None:
    """As CamVid on Kaggle: train, train_labels and NAME_L.png."""
    put_text(tmp_path / "class_dict.csv", CSV)
    for split in ("train", "val", "test"):
        put_image(tmp_path / split / "0001TP_1.png")
        put_colors(tmp_path / f"{split}_labels" / "0001TP_1_L.png", *[(64, 0, 128)] * 4)
    assert FORMAT.recognize(tmp_path)
    export = FORMAT.read(tmp_path)
    assert sorted(by_name(export)) == ["test/0001TP_1", "train/0001TP_1", "val/0001TP_1"]
    assert not export.skipped


def test_gray_masks_are_colors_with_equal_channels(tmp_path: Path) -> None:
    root = color_tree(tmp_path)
    put_mask(root / "trainannot" / "a.png", [[0, 0, 0, 128, 128, 128]] * 4)
    assert FORMAT.recognize(root)
    assert annotation(FORMAT.read(root), "train/a").names == NAMES
    put_mask(root / "trainannot" / "a.png", [[0, 1, 2, 2, 2, 2]] * 4)  # class ids
    assert FORMAT.recognize(root) is None


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("label_colors.txt", "0 0 0 Void\n0 0 999 Car", "line 2: found '0 0 999 Car'"),
        ("label_colors.txt", "0 0 0", "line 1: found '0 0 0', expected R G B NAME"),
        (
            "label_colors.txt",
            "0 0 9 Car\n0 0 9 Bus",
            "the color 0,0,9 belongs to both 'Car' and 'Bus'",
        ),
        ("label_colors.txt", "0 0 0 Void", "found no class"),
        ("class_dict.csv", "name,r,g,b\nCar,1,2", "line 2: found 'Car,1,2'"),
    ],
)
def test_bad_tables(tmp_path: Path, file: str, text: str, message: str) -> None:
    root = color_tree(tmp_path)
    (root / "label_colors.txt").unlink()
    put_text(root / file, text)
    assert FORMAT.recognize(root)
    with pytest.raises(UserError) as caught:
        FORMAT.read(root)
    assert f"{root / file}: {message}" in str(caught.value)


def test_two_tables_and_none(tmp_path: Path) -> None:
    root = color_tree(tmp_path)
    put_text(root / "class_dict.csv", CSV)
    with pytest.raises(UserError, match=r"found class_dict\.csv and label_colors\.txt, expected"):
        FORMAT.read(root)
    for file in ("class_dict.csv", "label_colors.txt"):
        (root / file).unlink()
    with pytest.raises(UserError, match="found no table of colors, expected one of"):
        FORMAT.read(root)
