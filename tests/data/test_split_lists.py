"""Splits made of list files or by a fraction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pair_files import CLASSES, folder, pairs, write

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import find_split
from segcoord.utils.errors import UserError


def voc(root: Path, **settings: object) -> DataConfig:
    data = DataConfig("voc", str(root), classes=CLASSES, **settings)
    data.check()
    return data


def test_val_fraction_is_exact_and_disjoint(tmp_path: Path) -> None:
    names = ",".join(f"{i:02}" for i in range(20))
    root = write(tmp_path, f"images/{{{names}}}.png", f"masks/{{{names}}}.png")
    parts = {}
    for seed in (0, 1):
        data = folder(root, val_fraction=0.25, split_seed=seed)
        train, val = (pairs(find_split(data, name), root) for name in ("train", "val"))
        assert (len(train), len(val)) == (15, 5)
        assert not train.keys() & val.keys()
        assert list(train) == sorted(train)
        both = pairs(find_split(replace(data, train_split="train+val"), "train+val"), root)
        assert list(both) == [*train, *val]
        parts[seed] = set(val)
    assert parts[0] == {"01", "05", "08", "10", "16"}  # the same on every machine
    assert parts[0] != parts[1]
    write(root, "images/{new}.png", "masks/{new}.png")
    val = pairs(find_split(folder(root, val_fraction=0.25), "val"), root)
    assert len(parts[0] - val.keys()) <= 1
    with pytest.raises(UserError, match="makes the splits 'train' and 'val' only"):
        find_split(folder(root, val_fraction=0.25), "test")


LISTS = {
    "names": ("b\na\n", ["b", "a"]),
    "suffixes": ("b.jpg\na.jpg\n", ["b", "a"]),
    "paths": ("./JPEGImages/b.jpg\n/JPEGImages/a.jpg\n", ["b", "a"]),
    "paths without suffix": ("JPEGImages/b\nVOC2007/JPEGImages/a\n", ["b", "a"]),
    "absolute paths of another machine": ("/home/x/VOC2007/JPEGImages/b.jpg\n", ["b"]),
    "two columns": ("/JPEGImages/b.jpg /SegmentationClass/b.png\n", ["b"]),
    "two columns without suffix": ("b b.png\n", ["b"]),
    "two columns with a comma": ("JPEGImages/b.jpg,SegmentationClass/b.png\r\n", ["b"]),
    "backslashes": ("JPEGImages\\b.jpg\tSegmentationClass\\b.png\n", ["b"]),
}


@pytest.mark.parametrize("case", LISTS)
@pytest.mark.parametrize("tree", ["VOC2007", "VOCdevkit/VOC2007"])
def test_lists_of_a_voc_tree(case: str, tree: str, tmp_path: Path) -> None:
    text, expected = LISTS[case]
    write(tmp_path / tree, "JPEGImages/{a,b,c}.jpg", "SegmentationClass/{a,b}.png")
    lists = tmp_path / tree / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text(text)
    for root in (tmp_path, tmp_path / tree):
        found = pairs(find_split(voc(root), "train"), tmp_path / tree)
        assert list(found) == expected
        assert found["b"] == ("JPEGImages/b.jpg", "SegmentationClass/b.png")


def test_voc_tree_without_lists_and_with_other_masks(tmp_path: Path) -> None:
    root = write(tmp_path, "JPEGImages/{a,b,c,d,e,f}.jpg", "MyMasks/{a,b,c,d}.png")
    with pytest.raises(UserError, match=r"no such split list\. .*data\.val_fraction: 0\.2"):
        find_split(voc(root), "train")
    data = voc(root, masks="MyMasks", val_fraction=0.25)
    train, val = (pairs(find_split(data, name), root) for name in ("train", "val"))
    assert sorted([*train, *val]) == ["a", "b", "c", "d"]  # those with masks
    assert len(val) == 1


def test_several_voc_trees_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, "VOC2007/JPEGImages/{a}.jpg", "VOC2010/JPEGImages/{a}.jpg")
    with pytest.raises(UserError, match=r"found JPEGImages in VOC2007, VOC2010, expected one"):
        find_split(voc(tmp_path), "train")


def test_list_of_pairs_in_any_folders(tmp_path: Path) -> None:
    root = write(tmp_path, *(f"s {n}/{kind}/{{a}}.png" for n in (1, 2) for kind in "ib"))
    (root / "train.txt").write_text("".join(f"s {n}/i/a.png\ts {n}/b/a.png\n" for n in (1, 2)))
    found = pairs(find_split(folder(root, lists="{split}.txt"), "train"), root)
    assert found == {f"s {n}/i/a": (f"s {n}/i/a.png", f"s {n}/b/a.png") for n in (1, 2)}


def test_listed_names_are_not_cut(tmp_path: Path) -> None:
    """A name in a folder that doesn't exist is not the name without the folder."""
    root = write(tmp_path, "images/{a}.png", "masks/{a}.png")
    (root / "train.txt").write_text("gone/a\n")
    with pytest.raises(UserError, match=r"train\.txt:1: no image gone/a\.\* in"):
        find_split(folder(root, lists="{split}.txt"), "train")
    (root / "train.txt").write_text("a\nimages/a.png\n")
    with pytest.raises(UserError, match=r"train\.txt:2: 'images/a\.png' is already listed"):
        find_split(folder(root, lists="{split}.txt"), "train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_fraction": 1.5}, r"data\.val_fraction: found 1\.5"),
        ({"val_fraction": 0.2, "lists": "{split}.txt"}, r"data\.lists: .*only one of them"),
        ({"split_seed": 3}, r"data\.split_seed: found 3"),
        ({"lists": "train.txt"}, r"data\.lists: .*contains \{split\}"),
        ({"val_fraction": 0.2, "images": "{split}"}, r"data\.images: .*without \{split\}"),
        ({"val_fraction": 0.2, "val_split": "train"}, r"data\.val_split: found train"),
        ({"val_fraction": 0.2, "val_split": "val+x"}, r"data\.val_split: found val\+x"),
        ({"val_fraction": 0.2, "train_split": "a+b"}, r"data\.train_split: found a\+b"),
    ],
)
def test_settings_that_contradict_are_errors(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        folder(Path("anywhere"), **settings)
    if message.startswith(r"data\.val_fraction"):
        with pytest.raises(UserError, match="because layout cityscapes defines its folders"):
            DataConfig("cityscapes", "", val_fraction=0.2).check()
