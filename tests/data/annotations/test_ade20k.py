"""ADE20K of the Scene Parsing Challenge: names, values, and the full dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
from export_files import ade20k_tree, annotation, by_name, put_text
from layout_trees import put_image

from segcoord.data.annotations.formats.ade20k import FORMAT
from segcoord.utils.errors import UserError

NAMES = {0: None, 1: "wall", 2: "bed", 3: "screen, projection screen", 4: "screen, crt"}


def test_splits_and_names(tmp_path: Path) -> None:
    """The first synonym is the name, unless two classes share it."""
    root = ade20k_tree(tmp_path)
    put_image(root / "ADEChallengeData2016/images/training/ADE_train_2.jpg")
    export = FORMAT.read(root)
    records = by_name(export)
    assert [(name, r.split) for name, r in records.items()] == [
        ("training/ADE_train_1", "training"),
        ("training/ADE_train_2", "training"),
        ("validation/ADE_val_1", "validation"),
    ]
    assert records["training/ADE_train_2"].content is None
    found = annotation(export, "validation/ADE_val_1")
    assert found.names == NAMES
    assert found.path.parts[-3:] == ("annotations", "validation", "ADE_val_1.png")
    assert [(c.id, c.name) for c in export.classes] == [*NAMES.items()][1:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 wall\n2 bed", "found no header with Idx and Name"),
        ("Idx\tName\n1\twall\n2", "line 3: found 1 columns, expected 2"),
        ("Idx\tName\n1\twall\n1\tbed", "line 3: the number 1 is taken"),
        ("Idx\tName\n0\twall", "line 2: the number 0 is taken"),
    ],
)
def test_bad_names(tmp_path: Path, text: str, message: str) -> None:
    put_text(ade20k_tree(tmp_path) / "ADEChallengeData2016/objectInfo150.txt", text)
    with pytest.raises(UserError, match=r"objectInfo150\.txt: ") as caught:
        FORMAT.read(tmp_path)
    assert message in str(caught.value)


def test_the_full_dataset_is_explained(tmp_path: Path) -> None:
    put_text(tmp_path / "ADE20K_2021_17_01/index_ade20k.pkl", "")
    assert "full ADE20K" in FORMAT.recognize(tmp_path)
    with pytest.raises(UserError, match=r"whose class is 256 \* \(red // 10\) \+ green"):
        FORMAT.read(tmp_path)
