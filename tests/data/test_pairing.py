"""Pairing by folders and by names, proposals, list files, fractions, and bad pairs left out."""

from __future__ import annotations

import json
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import png_by_hand
from PIL import Image

from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.checks.run import check_data
from segcoord.data.checks.usable_lists import usable_lists
from segcoord.data.inspection import inspect_sample
from segcoord.data.layouts import find_split, in_dataset
from segcoord.data.pack.reader import pixel_source
from segcoord.data.pack.writer import write_pack
from segcoord.data.pairing_proposal import propose_pairing
from segcoord.data.split import Split
from segcoord.utils.errors import UserError

CLASSES = [ClassConfig("bg", [0, 0, 0]), ClassConfig("fg", [255, 0, 0])]


def write(root: Path, *files: str, size: tuple[int, int] = (8, 6)) -> Path:
    """Write files named by `{a,b}.jpg` patterns; those with "mask" in their path become masks."""
    for text in files:
        start, _, rest = text.partition("{")
        names, _, end = rest.partition("}")
        for number, name in enumerate(names.split(",") if rest else [""]):
            path = root / f"{start}{name}{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            is_mask = any(word in str(path.relative_to(root)) for word in ("mask", "Segm", "label"))
            value = number % 2 if is_mask else 9 * len(str(path)) % 200 + number
            image = Image.new("L" if is_mask else "RGB", size, value if is_mask else (value, 0, 9))
            image.save(path)
    return root


def folder(root: Path, **settings: object) -> DataConfig:
    data = DataConfig("folder", str(root), **{"classes": CLASSES, **settings})
    data.check()
    return data


def voc(root: Path, **settings: object) -> DataConfig:
    data = DataConfig("voc", str(root), classes=CLASSES, **settings)
    data.check()
    return data


def pairs(split: Split, root: Path) -> dict[str, tuple[str, str | None]]:
    """Paths of images and masks below the root, by sample."""

    def below(path: Path | None) -> str | None:
        return path and path.relative_to(root).as_posix()

    return {s.stem: (below(s.image), below(s.mask)) for s in split.samples}


# Files, data.images and data.masks, and the pair of sample "b" or "s/b".
PATTERNS = {
    "suffix on the masks": (
        ["i/train/{a,b}.jpg", "m/train/{a,b}_mask.png"],
        *("i/{split}", "m/{split}/{name}_mask"),
        *("b", "i/train/b.jpg", "m/train/b_mask.png"),
    ),
    "suffix on both": (
        ["train/{a,b}_image.jpg", "train/{a,b}_annotation.png"],
        *("{split}/{name}_image.jpg", "{split}/{name}_annotation.png"),
        *("b", "train/b_image.jpg", "train/b_annotation.png"),
    ),
    "the image's suffix in the mask's name": (
        ["train/{a,b}.JPG", "train/{a,b}.JPG_mask.png"],
        *("{split}/{name}.jpg", "{split}/{name}.jpg_mask.*"),
        None,
    ),
    "images match the pattern of the masks too": (
        ["train/{a,b}.png", "train/{a,b}_mask.png"],
        *("{split}/{name}.*", "{split}/{name}_mask.*"),
        *("b", "train/b.png", "train/b_mask.png"),
    ),
    "prefixes and split in the name": (
        ["img/train-{a,b}.png", "img/mask-train-{a,b}.png"],
        *("img/{split}-{name}.png", "img/mask-{split}-{name}.png"),
        *("b", "img/train-b.png", "img/mask-train-b.png"),
    ),
    "subfolders": (
        [f"{d}/train/{f}" for d in ("images", "masks") for f in ("s/{a,b}.png", "t/{a}.png")],
        *("images/{split}", "masks/{split}"),
        *("s/b", "images/train/s/b.png", "masks/train/s/b.png"),
    ),
    "masks in a subfolder of the images": (
        ["train/{a,b}.png", "train/masks/{a,b}.png"],
        *("{split}", "{split}/masks"),
        *("b", "train/b.png", "train/masks/b.png"),
    ),
    "told apart by the suffix": (
        ["train/{a,b}.jpg", "train/{a,b}.png"],
        *("{split}/{name}.jpg", "{split}/{name}.png"),
        *("b", "train/b.jpg", "train/b.png"),
    ),
}


@pytest.mark.parametrize("case", PATTERNS)
def test_images_and_masks_pair_by_pattern(case: str, tmp_path: Path) -> None:
    files, images, masks, *expected = PATTERNS[case]
    root = write(tmp_path, *files)
    if case.startswith("the image's"):
        masks = masks.replace(".jpg", ".JPG")  # only a file's own suffix is in any case
        expected = ["b", "train/b.JPG", "train/b.JPG_mask.png"]
    found = pairs(find_split(folder(root, images=images, masks=masks), "train"), root)
    name, image, mask = expected
    assert found[name] == (image, mask)
    assert len(found) == (3 if case == "subfolders" else 2)
    assert all(m is not None for _, m in found.values())


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{split}/{name}/x.png", "one {name} in the last component"),
        ("{split}/{name}_{name}.png", "one {name} in the last component"),
        ("{split}/{nam}.png", "only placeholder"),
        ("{split}/{name}.gif", r"expected one of the suffixes .*\.png, .* or \.\*"),
        ("../{split}/{name}.png", "is outside the dataset's folder"),
    ],
)
def test_unusable_patterns_are_errors(pattern: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"data\.masks: .*{message}"):
        find_split(folder(tmp_path, masks=pattern), "train")


def test_jpeg_masks_can_not_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Lossy compression changes class ids"):
        find_split(folder(tmp_path, masks="{split}/{name}_mask.jpg"), "train")


def test_names_in_other_unicode_forms_pair(tmp_path: Path) -> None:
    """A ZIP file from macOS holds decomposed names."""
    composed, decomposed = (unicodedata.normalize(form, "für_日本_é") for form in ("NFC", "NFD"))
    assert composed != decomposed
    root = write(tmp_path / decomposed, f"images/train/{decomposed}/{{{decomposed}}}.jpg")
    write(root, f"masks/train/{composed}/{{{composed}}}.png")
    split = find_split(folder(tmp_path / composed), "train")
    (sample,) = split.samples
    assert sample.stem == f"{decomposed}/{decomposed}"  # as stored, so that packs stay valid
    assert sample.mask.name == f"{composed}.png"
    (root / "train.txt").write_text(f"{composed}/{composed}\n")
    patterns = {"images": "images/{split}", "masks": "masks/{split}"}
    listed = find_split(folder(tmp_path / composed, lists="{split}.txt", **patterns), "train")
    assert listed.samples[0] == sample


def test_names_that_differ_only_in_unicode_form_are_told_apart(tmp_path: Path) -> None:
    root = write(tmp_path, "images/train/{a,é}.jpg", "masks/train/{a,é,e\u0301}.png")
    with pytest.raises(UserError) as caught:
        find_split(folder(root), "train")
    message = str(caught.value)
    assert r"this name is NFC ('\xe9.png'), the other NFD ('e\u0301.png')" in message


def test_a_lossy_mask_among_the_images_is_an_error(tmp_path: Path) -> None:
    names = {"images": "{split}/{name}.jpg", "masks": "{split}/{name}_mask.png"}
    root = write(tmp_path, "train/{a,b,b_mask}.jpg", "train/{a,b}_mask.png")
    with pytest.raises(UserError, match=r"b_mask\.jpg: is named like a mask") as caught:
        find_split(folder(root, **names), "train")
    assert "Remove it: b_mask.png is the mask." in str(caught.value)
    (root / "train" / "b_mask.png").unlink()
    with pytest.raises(UserError, match=r"named like a mask.* Use the original masks"):
        find_split(folder(root, **names), "train")


# -- an image as its own mask


@pytest.mark.parametrize(
    ("files", "settings", "proposed"),
    [
        (["images/train/{a,b}.png", "masks/train/{a,b}.png"], {"images": "masks/{split}"}, ""),
        (
            ["train/{a,b}.jpg", "val/{a,b}.jpg", "train/{a,b}_mask.png", "val/{a,b}_mask.png"],
            {"images": "{split}", "masks": "{split}"},
            'images: "{split}/{name}.jpg"\n  masks: "{split}/{name}_mask.png"',
        ),
        (
            ["train/{a,b}.png", "val/{a,b}.png", "train/{a,b}_mask.png", "val/{a,b}_mask.png"],
            {"images": "{split}/{name}.png", "masks": "{split}/{name}.*"},
            'images: "{split}/{name}.png"\n  masks: "{split}/{name}_mask.png"',
        ),
        (
            ["train/{a,b}.jpg", "val/{a,b}.jpg", "train/{a,b}.png", "val/{a,b}.png"],
            {"images": "{split}/{name}.*", "masks": "{split}/{name}.*"},
            'masks: "{split}/{name}.png"',
        ),
    ],
)
def test_the_same_folder_for_both_is_an_error(
    files: list[str], settings: dict, proposed: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is both an image and a mask") as caught:
        find_split(folder(write(tmp_path, *files), **settings), "train")
    assert proposed in str(caught.value)


@pytest.mark.parametrize("link", [os.symlink, os.link, None])
def test_a_file_as_image_and_mask_is_an_error(link: object, tmp_path: Path) -> None:
    root = write(tmp_path, "images/train/{a}.png", "masks/train/{a}.png")
    image, mask = (root / kind / "train" / "a.png" for kind in ("images", "masks"))
    mask.unlink()
    mask.write_bytes(image.read_bytes()) if link is None else link(image, mask)
    split = find_split(folder(root), "train")
    (error,) = inspect_sample(split, 0).errors
    assert error.kind == "images that are their own masks"
    with pytest.raises(UserError, match="is its own mask"):
        write_pack(split, tmp_path / "pack", workers=1)


def test_a_mask_folder_that_links_to_the_images_is_an_error(tmp_path: Path) -> None:
    root = write(tmp_path, "images/train/{a}.png")
    (root / "masks").symlink_to(root / "images")
    with pytest.raises(UserError, match="is both an image and a mask"):
        find_split(folder(root), "train")
    (root / "train.txt").write_text("images/train/a.png images/train/a.png\n")
    with pytest.raises(UserError, match="is its own mask"):
        find_split(folder(root, lists="{split}.txt"), "train")


# -- proposals

PROPOSALS = {
    "a flat folder": (
        ["{a,b,c_d}.jpg", "{a,b,c_d}_mask.png"],
        ["{name}.jpg", "{name}_mask.png", "val_fraction: 0.2"],
    ),
    "PNG images with a suffix": (
        ["all/{01,02,03}_sat.png", "all/{01,02,03}_mask.png"],
        ["all/{name}_sat.png", "all/{name}_mask.png", "val_fraction: 0.2"],
    ),
    "prefixes": (
        ["x/{img_1,img_2}.png", "y/{mask_1,mask_2}.png"],
        ["x/img_{name}.png", "y/mask_{name}.png", "val_fraction: 0.2"],
    ),
    "two folders without splits": (
        ["photos/{a,b}.jpg", "labels/{a,b}.png"],
        ["photos", "labels", "val_fraction: 0.2"],
    ),
    "the image's suffix in the mask's name": (
        ["img/{a,b}.jpg", "ann/{a,b}.jpg_mask.png"],
        ["img", "ann/{name}.jpg_mask.png", "val_fraction: 0.2"],
    ),
    "splits first, with other names": (
        [f"{s}ing/{f}" for s in ("train", "test") for f in ("pics/{a,b}.jpg", "gt/{a,b}_gt.png")],
        ["{split}/pics", "{split}/gt/{name}_gt.png", "train_split: training", "val_split: testing"],
    ),
    "splits in capitals": (
        [f"{s}/{f}" for s in ("Train", "Test") for f in ("pics/{a,b}.jpg", "gt/{a,b}.png")],
        ["{split}/pics", "{split}/gt", "train_split: Train", "val_split: Test"],
    ),
    "a train folder only": (
        ["pics/train/{a,b,c}.jpg", "gt/train/{a,b,c}.png"],
        ["pics/train", "gt/train", "val_fraction: 0.2"],
    ),
    "a folder per video": (
        [f"{kind}/v{n}/{{a,b}}.png" for n in range(3) for kind in ("frames", "masks")],
        ["frames", "masks", "val_fraction: 0.2"],
    ),
    "modes tell which are the masks": (
        ["x/{a,b}.png", "y/{a,b}.png"],
        ["x", "y", "val_fraction: 0.2"],
    ),
}


@pytest.mark.parametrize("case", PROPOSALS)
def test_settings_are_proposed_and_work(case: str, tmp_path: Path) -> None:
    files, (images, masks, *more) = PROPOSALS[case]
    root = write(tmp_path, *files)
    for path in (root / "y").glob("?.png"):
        Image.open(path).convert("L").save(path)
    with pytest.raises(UserError, match=r"no such folder") as caught:
        find_split(folder(root), "train")
    lines = ["data:", f'  images: "{images}"', f'  masks: "{masks}"', *(f"  {m}" for m in more)]
    assert str(caught.value).endswith("\n".join(lines))
    settings = {"images": images, "masks": masks}
    settings |= dict(text.split(": ") for text in more)
    if "val_fraction" in settings:
        settings["val_fraction"] = 0.2
    data = folder(root, **settings)
    total = [len(find_split(data, name)) for name in (data.train_split, data.val_split)]
    assert 2 * sum(total) == sum(1 for p in root.rglob("*.*"))
    assert find_split(data, data.train_split).labelled


def test_nothing_is_proposed_without_masks(tmp_path: Path) -> None:
    assert propose_pairing(write(tmp_path, "{a,b,c}.jpg", "x/{d,e}.png")) is None
    assert propose_pairing(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("files", "images", "masks"),
    [
        (["{a,b,c}.jpg", "{d,e}.png", "{a,b,c,d,e}_mask.png"], "{name}.*", "{name}_mask.png"),
        (
            ["train/{a,b,c}.png", "train_labels/{a,b,c}_L.png", "val/d.png", "val_labels/d_L.png"],
            *("{split}", "{split}_labels/{name}_L.png"),
        ),
        (
            ["train/{a,b,c,d,e}.png", "train_masks/{a,b,c,d,e}_mask.png"],
            *("train", "train_masks/{name}_mask.png"),
        ),
        (["img/{a,b,c}.jpg", "img/{d,e}.jpeg", "mask/{a,b,c,d,e}.png"], "img", "mask"),
    ],
)
def test_images_of_several_types_and_folders_named_after_splits_are_proposed(
    tmp_path: Path, files: list[str], images: str, masks: str
) -> None:
    root = write(tmp_path, *files)
    proposal = propose_pairing(root)
    assert (proposal.images, proposal.masks) == (images, masks)
    fraction = None if "{split}" in images else 0.4
    data = folder(root, images=images, masks=masks, val_fraction=fraction)
    splits = [find_split(data, name) for name in ("train", "val")]
    assert sum(map(len, splits)) == (4 if "{split}" in images else 5)
    assert all(split.labelled for split in splits)


def test_check_proposes_masks_that_are_elsewhere(tmp_path: Path, capsys) -> None:
    root = write(tmp_path, "images/train/{a,b}.jpg", "labels/train/{a,b}.png")
    assert check_data(folder(root), "train") == 0  # a split without masks can be predicted
    assert check_data(folder(root, val_split="train"), None) == 1
    assert 'masks: "labels/train"' in capsys.readouterr().out


# -- splits


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


# -- bad pairs


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Four good pairs; e: no mask, f: a larger mask, g: a smaller one, h: a damaged image."""
    root = write(
        tmp_path / "d", "images/train/{a,b,c,d,e,f,g,h}.png", "masks/train/{a,b,c,d,h}.png"
    )
    write(root, "masks/train/{f,f}.png", size=(16, 12))
    write(root, "masks/train/{g,g}.png", size=(5, 6))
    image = root / "images" / "train" / "h.png"
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(noise).save(image)
    raw = bytearray(image.read_bytes())
    raw[raw.index(b"IDAT") + 20] ^= 255
    image.write_bytes(raw)
    return root


def test_bad_samples_are_left_out_and_counted(bad: Path, monkeypatch) -> None:
    data = folder(bad, skip_bad=True, val_split="train")
    split = find_split(data, "train")
    assert list(pairs(split, bad)) == ["a", "b", "c", "d"]
    assert split.left_out == 4
    assert pixel_source(split, data) == "files, 4 of 8 samples left out (data.skip_bad)"
    # The result is kept until a file changes.
    monkeypatch.setattr("segcoord.data.unusable._find", lambda split: pytest.fail("not kept"))
    assert find_split(data, "train").left_out == 4
    monkeypatch.undo()
    write(bad, "masks/train/{g,g}.png")
    assert find_split(data, "train").left_out == 3
    with pytest.raises(UserError, match=r"e\.png: has no mask"):
        find_split(folder(bad), "train")


def test_a_split_of_bad_samples_is_an_error(tmp_path: Path) -> None:
    root = write(tmp_path, "images/train/{a,b}.png")
    write(root, "masks/train/{a,b}.png", size=(4, 4))
    with pytest.raises(UserError, match=r"none of its 2 samples can be used .*a\.png: the mask is"):
        find_split(folder(root, skip_bad=True), "train")


def test_usable_samples_are_listed_with_resized_masks(bad: Path, capsys) -> None:
    data, report = folder(bad, val_split="train", skip_bad=True), bad / "report.json"
    for resized, expected in ((None, "abcd"), (str(bad / "resized"), "abcdf")):
        lists = bad / f"lists{len(expected)}"
        write_lists = usable_lists(str(lists), resized, data.root)
        assert check_data(data, None, str(report), write_lists) == 1
        listed = folder(bad, lists=f"{lists.name}/{{split}}.txt", val_split="train")
        split = find_split(listed, "train")
        assert [s.image.stem for s in split.samples] == list(expected)
        assert all(not inspect_sample(split, i).errors for i in range(len(split)))
        with pytest.raises(UserError, match="exists already; choose another folder"):
            check_data(data, None, None, write_lists)
    assert 'To use the lists: --data.lists "lists5/{split}.txt"' in capsys.readouterr().out
    assert split.samples[-1].mask == bad / "resized" / "train" / "f.png"
    remedies = {f["file"]: f["remedy"] for f in json.loads(report.read_text())["findings"]}
    assert "--resize-masks" in remedies[str(bad / "masks" / "train" / "f.png")]
    assert "data.skip_bad" in remedies[str(bad / "masks" / "train" / "g.png")]
    with pytest.raises(UserError, match="needs --write-lists"):
        usable_lists(None, "x", data.root)


def test_lists_of_names_with_a_suffix_and_a_space_are_read_back(tmp_path: Path) -> None:
    root = write(tmp_path, "images/train/{x,y,z}.png", "masks/train/{x,y,z}.png")
    for name, new in (("x", "a.jpg 1"), ("y", "a.jpg, 2"), ("z", "a.png masks,train")):
        for kind in ("images", "masks"):
            (root / kind / "train" / f"{name}.png").rename(root / kind / "train" / f"{new}.png")
    images = sorted((root / "images" / "train").iterdir())
    lists = usable_lists(str(root / "lists"), None, str(root))
    check_data(folder(root, val_split="train"), None, lists=lists)
    split = find_split(folder(root, lists="lists/{split}.txt", val_split="train"), "train")
    assert [s.image for s in split.samples] == images


def test_resized_masks_never_replace_files_and_are_no_part_of_the_dataset(
    bad: Path, tmp_path: Path, capsys
) -> None:
    before = {p: p.read_bytes() for p in bad.rglob("*.png")}
    lists = usable_lists(str(bad / "lists"), str(bad / "masks"), str(bad))
    with pytest.raises(UserError, match=r"'train\+val' has no list of its own; .* --split train$"):
        check_data(folder(bad), "train+val", lists=lists)
    with pytest.raises(UserError, match="masks: is not empty; choose a new folder"):
        check_data(folder(bad, val_split="train"), None, lists=lists)
    assert {p: p.read_bytes() for p in bad.rglob("*.png")} == before
    flat = write(tmp_path / "flat", "{a,b,c}.png")
    write(flat, "{a,b,c}_mask.png")
    data = folder(flat, images="{name}.png", masks="{name}_mask.png", val_fraction=0.4)
    for name, refused in (("resized", True), (".resized", False)):
        lists = usable_lists(str(flat / f"lists{name}"), str(flat / name), str(flat))
        if refused:
            with pytest.raises(UserError, match="would find its files; choose a hidden folder"):
                check_data(data, None, lists=lists)
        else:
            check_data(data, None, lists=lists)
            assert "--data.val_fraction null --data.lists" in capsys.readouterr().out


def test_bad_samples_with_exif_colors_and_subfolders(tmp_path: Path) -> None:
    """a: good, b: a photo that viewers turn, c: a mask of half its size, d: an unknown color."""
    root = write(tmp_path, "train/seq/{a,b,c,d}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 8)).save(root / "train" / "seq" / "b.png", exif=exif)
    for name, size, color in (
        *(("a", (8, 6), (255, 0, 0)), ("b", (8, 6), (0, 0, 0))),
        *(("c", (4, 3), (255, 0, 0)), ("d", (8, 6), (1, 2, 3))),
    ):
        Image.new("RGB", size, color).save(root / "train" / "seq" / f"{name}_mask.png")
    patterns = {"images": "{split}/{name}.png", "masks": "{split}/{name}_mask.png"}
    for exif, names in (("ignore", "a"), ("turn", "ab"), ("error", "a")):
        split = find_split(folder(root, **patterns, exif=exif, skip_bad=True), "train")
        assert [s.stem for s in split.samples] == [f"seq/{name}" for name in names]
        assert split.left_out == 4 - len(names)
    data = folder(root, **patterns, exif="turn", val_split="train")
    lists = usable_lists(str(root / "lists"), str(root / "resized"), data.root)
    assert check_data(data, None, lists=lists) == 1
    split = find_split(replace(data, lists="lists/{split}.txt"), "train")
    assert [s.stem for s in split.samples] == ["seq/a", "seq/b", "seq/c"]
    assert split.samples[2].mask == root / "resized" / "train" / "seq" / "c.png"
    assert (split.read(2)[1] == 1).all()


@pytest.mark.parametrize("kind", ["16-bit RGB", "2-bit gray", "4-bit gray", "palette", "16 bits"])
def test_resized_masks_hold_the_values_of_their_nearest_pixels(tmp_path: Path, kind: str) -> None:
    """The reader of masks decodes them: Pillow alone changes the values of some types."""
    values = np.array([[0, 1, 2, 3], [3, 0, 0, 1], [2, 2, 1, 0]], np.uint8)
    root = write(tmp_path, "images/train/a.png", "masks/train/a.png")
    path = root / "masks" / "train" / "a.png"
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    classes = [ClassConfig(name, id=i) for i, name in enumerate("abcd")]
    if kind == "16-bit RGB":
        classes = [ClassConfig(name, c.tolist()) for name, c in zip("abcd", colors)]
        cv2.imwrite(str(path), colors[values][..., ::-1].astype(np.uint16))
    elif kind.endswith("-bit gray"):
        rows = [int("".join(f"{v:0{int(kind[0])}b}" for v in row), 2) for row in values]
        raw = b"".join(b"\0" + row.to_bytes(int(kind[0]) // 2, "big") for row in rows)
        path.write_bytes(png_by_hand(4, 3, int(kind[0]), 0, raw))
    elif kind == "palette":
        image = Image.fromarray(values)
        image.putpalette(np.roll(colors, 1, 0).ravel().tolist())
        image.save(path)
    else:
        classes = [ClassConfig(name, id=1000 * i) for i, name in enumerate("abcd")]
        Image.fromarray(values.astype(np.uint16) * 1000).save(path)
    data = folder(root, classes=classes, val_split="train")
    lists = usable_lists(str(root / "lists"), str(root / "resized"), data.root)
    check_data(data, None, lists=lists)
    split = find_split(replace(data, lists="lists/{split}.txt"), "train")
    assert split.samples[0].mask == root / "resized" / "train" / "a.png"
    assert split.read(0)[1].tolist() == values.repeat(2, 0).repeat(2, 1).tolist()


# -- outputs


def test_outputs_must_not_be_read_as_part_of_the_dataset(tmp_path: Path) -> None:
    root = write(tmp_path, "train/{a}.jpg", "train/{a}_mask.png")
    split = find_split(
        folder(root, images="{split}/{name}.jpg", masks="{split}/{name}_mask"), "train"
    )
    for images, inside in (("{split}/{name}.jpg", False), ("{split}/{name}.*", True)):
        data = folder(root, images=images, masks="{split}/{name}_mask.png")
        assert in_dataset(data, split, root / "train")
        assert in_dataset(data, split, root / "train" / "predictions") == inside
        assert not in_dataset(data, split, root / "predictions")
