"""`segcoord data check` and the check before training: findings, files, remedies, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import ROOT, Tree, train_on, truncate
from PIL import Image

from segcoord.cli.main import main
from segcoord.config.loading import read_yaml
from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.checks.run import check_data
from segcoord.data.checks.split import check_split
from segcoord.data.layouts import find_split, label_set
from segcoord.data.pack.reader import with_pack
from segcoord.data.pack.writer import write_pack
from segcoord.utils.errors import UserError

SAMPLE = str(ROOT / "configs" / "sample.yaml")
CLASSES = [ClassConfig(**c) for c in read_yaml(Path(SAMPLE))["data"]["classes"]]
COLORS = label_set(DataConfig("voc", "", classes=CLASSES)).colors
K = len(CLASSES)


@pytest.fixture
def tree(sample_voc: Path, tmp_path: Path) -> Tree:
    shutil.copytree(sample_voc, tmp_path / "data")
    return Tree(tmp_path / "data")


def check(tree: Tree, *more: str) -> tuple[int, dict]:
    """Run the command; return its exit code and its JSON report."""
    root = tree.base.parents[1]
    report = root.parent / "report.json"
    arguments = [f"--config={SAMPLE}", f"--data.root={root}", f"--json={report}", *more]
    return main(["data", "check", *arguments]), json.loads(report.read_text())


def val_list(tree: Tree) -> Path:
    return tree.train.with_name("val.txt")


def val_image(tree: Tree) -> Path:
    return tree.images / f"{val_list(tree).read_text().split()[0]}.jpg"


def add_to_train(tree: Tree, image: Path) -> None:
    """Add an image to the training list, with any mask of its size."""
    shutil.copy(tree.mask, tree.masks / f"{image.stem}.png")
    tree.train.write_text("\n".join([*tree.stems, image.stem]))


def copy_of_val(tree: Tree, encode: bool) -> None:
    target = tree.images / ("copy.png" if encode else "copy.jpg")
    if encode:
        cv2.imwrite(str(target), cv2.imread(str(val_image(tree))))
    else:
        shutil.copy(val_image(tree), target)
    add_to_train(tree, target)


def damage_inside(tree: Tree) -> None:
    """Replace the image by a PNG with one wrong byte in its pixels and an intact end."""
    tree.image.unlink()
    path = tree.image.with_suffix(".png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)).save(path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    path.write_bytes(raw)


def damage_jpeg(tree: Tree) -> None:
    """Insert a wrong marker into a JPEG's pixels, which decoders skip."""
    raw = tree.image.read_bytes()
    half = len(raw) // 2
    tree.image.write_bytes(raw[:half] + b"\xff\xd3" + raw[half + 2 :])


def flip_bit_of_mask(tree: Tree) -> None:
    """In the pixels, where only the checksum shows it."""
    raw = bytearray(tree.mask.read_bytes())
    raw[raw.index(b"IDAT") + 30] ^= 1
    tree.mask.write_bytes(raw)


def set_orientation(tree: Tree, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(tree.image).save(tree.image, exif=exif)


def break_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


def convert_to_gray(tree: Tree) -> None:
    colors = COLORS[np.minimum(tree.ids(), K - 1)]
    tree.write_ids(cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY))


def remove_class(tree: Tree, index: int) -> None:
    tree.every_mask(lambda ids: np.where(ids == index, 0, ids))


# Damage done to the tree: (function, level, kind, file, part of `found`, part of `remedy`).
BREAK: dict[str, tuple[Callable[[Tree], object], str, str, str | None, str, str]] = {
    "no list": (
        lambda t: t.train.unlink(),
        *("error", "unreadable splits", None),
        *("train.txt: no such split list; available splits: trainval, val", ""),
    ),
    "an empty list": (
        lambda t: t.train.write_text("\n"),
        *("error", "unreadable splits", None, "is empty", ""),
    ),
    "a listed image that does not exist": (
        lambda t: t.image.unlink(),
        *("error", "listed images that don't exist", "train.txt:4"),
        *("no image ", "Add the missing images"),
    ),
    "an image without a mask": (
        lambda t: t.mask.unlink(),
        *("error", "images without a mask", "{image}"),
        *("1 of 16 images in split 'train' have no mask", "Add the masks"),
    ),
    "a mask without an image": (
        lambda t: shutil.copy(t.mask, t.masks / "scene_mispelled.png"),
        *("warning", "masks without an image", "scene_mispelled.png"),
        *("no image has this mask's name", "misspelled name"),
    ),
    "a name twice in a list": (
        lambda t: t.train.write_text("\n".join([*t.stems, t.stems[2]])),
        *("error", "duplicate names in a split list", "train.txt:17"),
        *("is already listed in line 3", "Remove one"),
    ),
    "a name that leaves the root": (
        lambda t: t.train.write_text("\n".join([*t.stems, "../../x"])),
        *("error", "invalid names in a split list", "train.txt:17"),
        *("could leave the dataset's folder", "one name per line"),
    ),
    "two images with the same stem": (
        lambda t: Image.new("RGB", (128, 96)).save(t.image.with_suffix(".png")),
        *("error", "duplicate stems", "{stem}.png"),
        *("has the same stem as {image}", "Remove or rename one"),
    ),
    "a truncated image": (
        lambda t: truncate(t.image, 0.6),
        *("error", "damaged files", "{image}", "truncated or damaged", "Download"),
    ),
    "an image damaged inside": (
        damage_inside,
        *("error", "damaged files", "{stem}.png", "truncated or damaged", "Download"),
    ),
    "a JPEG damaged inside": (
        damage_jpeg,
        *("error", "damaged files", "{image}", "Corrupt JPEG data", "Download it again; if"),
    ),
    "a flipped bit in a mask": (
        flip_bit_of_mask,
        *("error", "damaged files", "{mask}", "wrong checksum in chunk 'IDAT'", "Download"),
    ),
    "a broken link to an image": (
        lambda t: break_link(t.image),
        *("error", "missing files", "{image}", "a link to a file that does not", "Fix the link"),
    ),
    "a broken link to a mask": (
        lambda t: break_link(t.mask),
        *("error", "missing files", "{mask}", "a link to a file that does not", "Fix the link"),
    ),
    "an image with an EXIF orientation": (
        lambda t: set_orientation(t, 6),
        *("warning", "images with an EXIF orientation", "{image}"),
        *("has EXIF orientation 6, which training ignores", "drawn on the stored pixels"),
    ),
    "a file of an unsupported format in the image folder": (
        lambda t: (t.images / "scene.gif").write_bytes(b"GIF89a"),
        *("warning", "ignored files", "scene.gif", "unsupported format (.gif)", "to PNG"),
    ),
    "an empty image": (
        lambda t: t.image.write_bytes(b""),
        *("error", "files that are not images", "{image}", "the file is empty", "Download"),
    ),
    "a web page instead of an image": (
        lambda t: t.image.write_text("<!DOCTYPE html><title>404</title>"),
        *("error", "files that are not images", "{image}", "it is a web page", "Download"),
    ),
    "a list with two columns": (
        lambda t: t.train.write_text("\n".join([f"{t.stems[0]} 1", *t.stems[1:]])),
        *("error", "listed images that don't exist", "train.txt:1"),
        *("no image ", "or the paths of the image and its mask"),
    ),
    "a list in UTF-16": (
        lambda t: t.train.write_text("\n".join(t.stems), encoding="utf-16"),
        *("error", "unreadable splits", None, "Save it as UTF-8, one name per line", ""),
    ),
    "masks with other names": (
        lambda t: [p.rename(p.with_name(f"{p.stem}_mask.png")) for p in t.masks.iterdir()],
        *("error", "masks that match no image", "SegmentationClass"),
        *("none of its 22 masks has", 'masks: "SegmentationClass/{{name}}_mask.png"'),
    ),
    "masks saved as JPEGs": (
        lambda t: [p.rename(p.with_suffix(".jpg")) for p in t.masks.iterdir()],
        *("error", "unreadable splits", None, "22 .jpg. Lossy compression", ""),
    ),
    "a JPEG mask with the suffix of a PNG": (
        lambda t: Image.open(t.mask).convert("L").save(t.mask, "JPEG"),
        *("error", "masks with lossy compression", "{mask}", "a JPEG file", "original masks"),
    ),
    "a mask with transparency": (
        lambda t: Image.merge("LA", [Image.new("L", (128, 96))] * 2).save(t.mask),
        *("error", "masks with transparency", "{mask}", "are transparent", "Fill them"),
    ),
    "masks of zeros": (
        lambda t: t.every_mask(lambda ids: ids * 0),
        *("error", "only the first class occurs", None, "contain only 'road'.", "every pixel is 0"),
    ),
    "masks of one class and void": (
        lambda t: t.every_mask(lambda ids: np.where(ids == 1, 1, 255)),
        *("error", "only one class occurs", None, "and void", "in data.void_ids?"),
    ),
    "one binary mask of 0 and 255": (
        lambda t: t.write_ids((t.ids() > 3) * 255),
        *("warning", "masks with only 0 and void", "{mask}", "only 'road' and void", "0/255"),
    ),
    "a truncated mask": (
        lambda t: truncate(t.mask, 0.6),
        *("error", "damaged files", "{mask}", "truncated or damaged", "Download"),
    ),
    "a text file as image": (
        lambda t: t.image.write_text("hello"),
        *("error", "files that are not images", "{image}", "it has no known format", "Download"),
    ),
    "a 16-bit image": (
        lambda t: (
            t.image.unlink(),
            cv2.imwrite(str(t.image.with_suffix(".png")), np.zeros((96, 128, 3), np.uint16)),
        ),
        *(
            "error",
            "images with more than 8 bits per channel",
            "{stem}.png",
            "expected 8",
            "to 8 bits",
        ),
    ),
    "a 16-bit mask of other values": (
        lambda t: cv2.imwrite(str(t.mask), t.ids().astype(np.uint16) + 1000),
        *("error", "mask values outside the classes", "{mask}", "mask values 1000, ", "(id)"),
    ),
    "a mask of another size": (
        lambda t: t.write_ids(t.ids()[:-1]),
        *("error", "masks that don't match the image size", "{mask}"),
        *("the mask is 128x95 (width x height), its image 128x96", ""),
    ),
    "a transposed mask": (
        lambda t: t.write_ids(t.ids().T),
        *("error", "masks that don't match the image size", "{mask}", "96x128", "EXIF"),
    ),
    "unknown ids": (
        lambda t: t.write_ids(np.where(t.ids() == 0, 77, t.ids())),
        *("error", "mask values outside the classes", "{mask}"),
        *("mask values 77 ", "Correct the mask, or add the values to data.classes"),
    ),
    "a binary mask of 0 and 255, with two classes": (
        lambda t: t.every_mask(lambda ids: (ids > 3) * 255),
        *("error", "only the first class occurs", None, "only 'road' and void", "0/255 binary"),
    ),
    "a binary mask of 0 and 200": (
        lambda t: t.write_ids((t.ids() > 3) * 200),
        *("error", "mask values outside the classes", "{mask}", "mask values 200", "0/200 binary"),
    ),
    "ids that start at 1": (
        lambda t: t.write_ids(np.where(t.ids() < K, t.ids() + 1, K)),
        *(
            "error",
            "mask values outside the classes",
            "{mask}",
            "mask values 8",
            "ids start at 1",
        ),
    ),
    "ids that start at 1, and 0 for unlabeled": (
        lambda t: t.write_ids(np.concatenate([t.ids()[:-1] * 0, t.ids()[-1:] * 0 + K])),
        *(
            "error",
            "mask values outside the classes",
            "{mask}",
            "mask values 8",
            "data.void_ids: [0]",
        ),
    ),
    "a color mask": (
        lambda t: Image.fromarray(COLORS[t.ids()] // 2).save(t.mask),
        *(
            "error",
            "mask colors outside the classes",
            "{mask}",
            "the nearest is",
            "data ids --void",
        ),
    ),
    "a color mask converted to gray": (
        convert_to_gray,
        *(
            "error",
            "mask values outside the classes",
            "{mask}",
            "belong to no class",
            "gray levels of",
        ),
    ),
    "a gray photograph": (
        lambda t: Image.open(t.image).convert("L").save(t.mask),
        *(
            "error",
            "mask values outside the classes",
            "{mask}",
            "belong to no class",
            "gray photograph",
        ),
    ),
    "a mask of void": (
        lambda t: t.write_ids(t.ids() * 0 + 255),
        *("warning", "masks with only void", "{mask}", "every pixel", "from the split"),
    ),
    "only masks of void": (
        lambda t: t.every_mask(lambda ids: ids * 0 + 255),
        *("error", "splits without labels", None, "only void in its masks", "data/README.md"),
    ),
    "no masks": (
        lambda t: shutil.rmtree(t.masks),
        *("error", "splits without labels", None, "has no masks", "data/README.md"),
    ),
    "a class that never occurs": (
        lambda t: remove_class(t, 7),
        *("warning", "classes that never occur", None),
        *("'traffic sign' occurs in no mask", "learned"),
    ),
    "an image in both lists": (
        lambda t: t.train.write_text("\n".join([*t.stems, val_image(t).stem])),
        *("error", "images in both splits", "{val}"),
        *("is in both split 'train' and split 'val'", "remove them from one"),
    ),
    "a validation image copied into training": (
        lambda t: copy_of_val(t, encode=False),
        *(
            "error",
            "duplicate images across splits",
            "{val}",
            "copy.jpg of split 'train'",
            "remove",
        ),
    ),
    "a validation image re-encoded for training": (
        lambda t: copy_of_val(t, encode=True),
        *(
            "error",
            "duplicate images across splits",
            "{val}",
            "copy.png of split 'train'",
            "remove",
        ),
    ),
    "a duplicate training image": (
        lambda t: (
            shutil.copy(t.image, t.images / "twice.jpg"),
            add_to_train(t, t.images / "twice.jpg"),
        ),
        *("warning", "duplicate images in a split", "twice.jpg"),
        *("has the same pixels as {image}", "Remove one"),
    ),
}


@pytest.mark.parametrize("case", BREAK)
def test_mistake_is_found_and_explained(case: str, tree: Tree, capsys) -> None:
    damage, level, kind, file, found, remedy = BREAK[case]
    names = {
        "image": tree.image,
        "mask": tree.mask,
        "stem": tree.image.stem,
        "val": val_image(tree),
    }
    damage(tree)
    code, report = check(tree)
    printed = capsys.readouterr()
    matching = [f for f in report["findings"] if (f["level"], f["kind"]) == (level, kind)]
    assert matching, report["findings"]
    assert len({(f["file"], f["found"]) for f in matching}) == len(matching)  # no duplicates
    finding = matching[0]
    assert found.format(**names) in finding["found"]
    assert remedy.format() in finding["remedy"]
    assert finding["remedy"] or remedy == ""
    assert (finding["file"] or "").endswith((file or "").format(**names))
    assert (finding["file"] is None) == (file is None)
    errors = {f["kind"] for f in report["findings"] if f["level"] == "error"}
    assert errors == ({kind} if level == "error" else set())
    assert code == (level == "error") == (not report["ok"])
    assert finding["found"] in printed.out
    assert finding["remedy"] in printed.out
    assert "Traceback" not in printed.out + printed.err


def test_all_mistakes_are_reported_together(tree: Tree, capsys) -> None:
    images = [tree.images / f"{stem}.jpg" for stem in tree.stems]
    masks = [tree.masks / f"{stem}.png" for stem in tree.stems]
    images[0].unlink()
    masks[1].unlink()
    for number in (2, 3, 4, 5, 6):
        Image.open(images[number]).convert("RGB").save(masks[number])
    truncate(images[7], 0.5)
    truncate(masks[7], 0.5)
    code, report = check(tree)
    assert code == 1
    assert report["errors"] == 9
    files = [f["file"] for f in report["findings"] if f["level"] == "error"]
    assert files == [
        f"{tree.train}:1",
        str(images[1]),
        *(str(m) for m in masks[2:7]),
        str(images[7]),
        str(masks[7]),
    ]
    printed = capsys.readouterr().out
    assert "error, train: mask colors outside the classes (5)" in printed
    assert str(masks[4]) in printed
    assert str(masks[5]) not in printed
    assert "... and 2 more" in printed
    assert printed.count("use the original masks") == 1
    assert "9 errors" in printed
    (train,) = [s for s in report["splits"] if s["name"] == "train"]
    assert train["images"] == 14  # without the two that could not be listed
    assert train["unusable"] == 6


def test_json_report_has_the_class_statistics(tree: Tree, capsys) -> None:
    code, report = check(tree)
    assert code == 0
    assert "No errors, no warnings." in capsys.readouterr().out
    assert (report["ok"], report["errors"], report["warnings"]) == (True, 0, 0)
    assert report["findings"] == []
    assert [s["name"] for s in report["splits"]] == ["train", "val"]
    for split, stems in zip(report["splits"], (tree.stems, val_list(tree).read_text().split())):
        masks = np.stack([np.array(Image.open(tree.masks / f"{s}.png")) for s in stems])
        assert split["images"] == len(stems)
        assert split["sizes"] == {"128x96": len(stems)}
        assert split["void_pixels"] == (masks == 255).sum()
        assert split["void_share"] == pytest.approx((masks == 255).mean())
        assert split["labelled"] is True
        assert [c["name"] for c in split["classes"]] == [c.name for c in CLASSES]
        for index, c in enumerate(split["classes"]):
            assert c["id"] == index
            assert c["pixels"] == (masks == index).sum()
            assert c["images"] == (masks == index).any(axis=(1, 2)).sum()
            assert c["share"] == pytest.approx((masks == index).sum() / (masks != 255).sum())


def test_single_split_needs_no_labels(tree: Tree, capsys) -> None:
    shutil.rmtree(tree.masks)
    code, report = check(tree, "--split=val")
    assert code == 0
    assert [(s["name"], s["labelled"]) for s in report["splits"]] == [("val", False)]
    assert report["findings"] == []
    code, report = check(tree, "--split=vla")
    assert code == 1
    assert "available splits: train, trainval, val" in report["findings"][0]["found"]


def write_trainaug(tree: Tree, val_images: int) -> None:
    """Write a trainaug split with some of the validation images."""
    shutil.copytree(tree.masks, tree.base / "SegmentationClassAug")
    stems = [*tree.stems, *val_list(tree).read_text().split()[:val_images]]
    tree.train.with_name("trainaug.txt").write_text("\n".join(stems))


def test_trainaug_must_not_contain_val(tree: Tree, capsys) -> None:
    write_trainaug(tree, val_images=2)
    code, report = check(tree, "--data.train_split=trainaug")
    assert code == 1
    assert [f["kind"] for f in report["findings"]] == ["images in both splits"] * 2
    assert report["findings"][0]["split"] == "trainaug and val"
    capsys.readouterr()
    assert train_on(tree, "--data.train_split=trainaug") == 1
    assert "is in both split 'trainaug' and split 'val'. A score on" in capsys.readouterr().err
    assert not (tree.base.parents[2] / "run").exists()


def test_trainaug_without_val_has_no_errors(tree: Tree) -> None:
    write_trainaug(tree, val_images=0)
    assert check(tree, "--data.train_split=trainaug")[0] == 0


@pytest.mark.parametrize("name", ["trainval", "train+val"])
def test_training_on_val_prints_warnings(tree: Tree, name: str, capsys) -> None:
    remove_class(tree, 7)
    code, report = check(tree, f"--data.train_split={name}")
    assert code == 0
    assert [s["images"] for s in report["splits"]] == [len(tree.stems) + 6, 6]
    findings = {(f["level"], f["kind"]) for f in report["findings"]}
    kinds = ("images in both splits", "classes that never occur")
    assert findings == {("warning", kind) for kind in kinds}
    if name == "train+val":  # training prints the same
        capsys.readouterr()
        assert train_on(tree, f"--data.train_split={name}") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{name} and val: images in both splits 6 of 6 validation images are trained" in printed
    assert f"class 'traffic sign' occurs in no mask of split {name!r}" in printed
    assert "class 'traffic sign' occurs in no mask of split 'val'" in printed


def test_a_part_of_the_validation_split_must_not_be_trained_on(tree: Tree) -> None:
    names = ["--data.train_split=train", "--data.val_split=val+train"]
    code, report = check(tree, *names)
    assert code == 1
    kinds = [f["kind"] for f in report["findings"]]
    assert kinds == ["images in both splits"] * len(tree.stems)


def folder_data(root: Path) -> DataConfig:
    """Write one image per split, with the same name and different pixels."""
    classes = [ClassConfig("a", [0, 0, 0]), ClassConfig("b", [9, 9, 9])]
    for value, split in ((10, "train"), (200, "val")):
        for kind, pixels in (
            ("images", [[[value] * 3] * 6] * 4),
            ("masks", [[0, 0, 0, 1, 1, 1]] * 4),
        ):
            (root / kind / split).mkdir(parents=True)
            Image.fromarray(np.array(pixels, np.uint8)).save(root / kind / split / "0001.png")
    return DataConfig("folder", str(root), classes=classes)


def test_same_name_in_both_splits_is_a_warning(tmp_path: Path) -> None:
    """Images are often numbered from 1 in each split."""
    data, report = folder_data(tmp_path / "data"), tmp_path / "report.json"
    assert check_data(data, None, str(report)) == 0
    findings = json.loads(report.read_text())["findings"]
    assert [f["kind"] for f in findings] == ["the same name in both splits"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_linked_image_counts_as_the_same_file(tmp_path: Path, link: Callable) -> None:
    data, report = folder_data(tmp_path / "data"), tmp_path / "report.json"
    image = tmp_path / "data" / "images" / "val" / "0001.png"
    image.unlink()
    link(tmp_path / "data" / "images" / "train" / "0001.png", image)
    assert check_data(data, None, str(report)) == 1
    findings = json.loads(report.read_text())["findings"]
    assert [f["kind"] for f in findings] == ["images in both splits"]


def test_image_of_an_unsupported_format_is_reported(tmp_path: Path) -> None:
    data, report = folder_data(tmp_path / "data"), tmp_path / "report.json"
    for kind in ("images", "masks"):
        folder = tmp_path / "data" / kind / "train"
        shutil.copy(folder / "0001.png", folder / "0002.png")
    image = tmp_path / "data" / "images" / "train" / "0002.png"
    Image.open(image).save(image.with_suffix(".gif"))
    image.unlink()
    assert check_data(data, "train", str(report)) == 0
    found = {f["kind"]: Path(f["file"]).name for f in json.loads(report.read_text())["findings"]}
    assert found == {
        "masks without an image": "0002.png",
        "ignored files": "0002.gif",
    }


@pytest.mark.parametrize("layout", ["folder", "cityscapes"])
def test_broken_links_of_the_same_name_in_both_splits(
    tmp_path: Path, sample_cityscapes: Path, layout: str, capsys
) -> None:
    root, report = tmp_path / "data", tmp_path / "report.json"
    data = DataConfig("cityscapes", str(root))
    if layout == "folder":
        data = folder_data(root)
        links = [root / "images" / split / "0001.png" for split in ("train", "val")]
    else:
        shutil.copytree(sample_cityscapes, root)
        images = root / "leftImg8bit"
        links = [next((images / "train").glob("*/*.png"))]
        links.append(next((images / "val").iterdir()) / links[0].name)
        links[1].touch()
        mask = next((root / "gtFine" / "val").glob("*/*_labelIds.png"))
        frame = links[0].name.removesuffix("_leftImg8bit.png")
        shutil.copy(mask, mask.with_name(f"{frame}_gtFine_labelIds.png"))
    for link in links:
        break_link(link)
    assert check_data(data, None, str(report)) == 1
    findings = json.loads(report.read_text())["findings"]
    missing = [f["file"] for f in findings if f["kind"] == "missing files"]
    assert missing == [str(link) for link in links]


def test_mask_with_only_the_first_class_is_not_a_finding(tree: Tree) -> None:
    """Without void it is just an image without objects."""
    tree.write_ids(tree.ids() * 0)
    code, report = check(tree)
    assert (code, report["findings"]) == (0, [])


def test_cityscapes_mask_without_an_image_is_found(sample_cityscapes: Path, tmp_path) -> None:
    shutil.copytree(sample_cityscapes, tmp_path / "data")
    image = next((tmp_path / "data" / "leftImg8bit" / "train").glob("*/*.png"))
    image.unlink()
    report = tmp_path / "report.json"
    check_data(DataConfig("cityscapes", str(tmp_path / "data")), "train", str(report))
    unmatched = [f for f in json.loads(report.read_text())["findings"] if "without an" in f["kind"]]
    frame = image.name.removesuffix("_leftImg8bit.png")
    assert [Path(f["file"]).name for f in unmatched] == [f"{frame}_gtFine_labelIds.png"]


def test_binary_masks_of_several_values_are_a_warning(tmp_path: Path, capsys) -> None:
    """255 may be void, which would be trained as foreground."""
    data = replace(folder_data(tmp_path), classes=["crack"])
    for path in tmp_path.glob("masks/*/*"):
        Image.fromarray(np.array([[0, 0, 0, 1, 1, 255]] * 4, np.uint8)).save(path)
    assert check_data(data, None) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "hold the values 1, 255, which all count as 'crack'" in printed
    assert "set data.void_ids, for example [255]" in printed
    assert check_data(replace(data, void_ids=[255]), None) == 0
    assert "which all count" not in capsys.readouterr().out
    assert check_data(replace(data, void_ids=[1, 255]), None) == 1
    assert "'crack' is marked with a value in data.void_ids" in capsys.readouterr().out


def test_remedies_of_a_void_background_and_of_a_missing_mask_folder(tmp_path: Path, capsys) -> None:
    data = folder_data(tmp_path)
    for path in tmp_path.glob("masks/*/*"):
        Image.fromarray(np.array([[0, 1]] * 4, np.uint8).repeat(3, 1)).save(path)
    classes = [ClassConfig("fg", id=1), ClassConfig("other", id=7)]
    assert check_data(replace(data, classes=classes, void_ids=[0]), None) == 1
    assert "data.void_ids makes 0 void." in " ".join(capsys.readouterr().out.split())
    assert check_data(replace(data, masks="Nope/{split}"), None) == 1
    printed = "".join(capsys.readouterr().out.split())
    assert f"{tmp_path}/Nope/train(data.masks)isnofolder" in printed
    assert check_data(replace(data, classes=["a", "a"]), None) == 1
    printed = capsys.readouterr().out
    assert "wrong settings" in printed and "data.classes: duplicate name: a" in printed
    (tmp_path / "l_train.txt").write_text("0001")
    assert check_data(replace(data, lists="no_{split}.txt"), None) == 1
    assert "no such split list; its folder has l_train.txt" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"data\.crop_size: found \[0, 0\], expected at least 1"):
        check_data(replace(data, crop_size=0), None)


def test_equal_colors_are_a_warning(tmp_path: Path, capsys) -> None:
    two = [ClassConfig("a", [1, 2, 3]), ClassConfig("b", "#010203")]
    assert check_data(replace(folder_data(tmp_path), classes=two), None) == 0
    assert "'b' has the color of 'a', [1, 2, 3]" in capsys.readouterr().out


def before_transparency(index: Path) -> None:
    """A pack as it was written before transparent pixels became white."""
    *lines, _ = index.read_text().replace('"transparency": "white"', '"x": 1').splitlines(True)
    text = "".join(lines)
    index.write_text(text + json.dumps({"crc32": zlib.crc32(text.encode())}) + "\n")


def test_turned_and_transparent_images(tmp_path: Path) -> None:
    """Files and packs are read alike; a pack that was read otherwise is refused."""
    data, report = folder_data(tmp_path / "data"), tmp_path / "report.json"
    turned = tmp_path / "data" / "images" / "train" / "0001.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    alpha = Image.new("L", (6, 4), 128)
    image = Image.fromarray(stored)
    image.putalpha(alpha)
    image.save(turned, exif=exif)

    def kinds() -> list[tuple[str, str]]:
        check_data(data, None, str(report))
        return [(f["level"], f["kind"]) for f in json.loads(report.read_text())["findings"]]

    white = ("warning", "images with transparent pixels")
    same_name = ("warning", "the same name in both splits")
    folder = tmp_path / "data" / ".segcoord" / "train"

    orientation = "images with an EXIF orientation"
    before_training = check_split(find_split(data, "train"))
    assert [f.kind for f in before_training.findings] == [white[1], orientation]
    assert sorted(kinds()) == sorted([("warning", orientation), white, same_name])
    write_pack(find_split(data, "train"), folder, workers=1)
    from_pack = with_pack(find_split(data, "train"), data).read(0)[0]
    np.testing.assert_allclose(from_pack, (stored + 255.0) / 2, atol=1)
    assert sorted(kinds()) == sorted([("warning", orientation), white, same_name])

    data.exif = "error"
    with pytest.raises(UserError, match=r"written with data\.exif ignore, now it is error, and 1"):
        with_pack(find_split(data, "train"), data)
    data.pack = "off"
    assert ("error", orientation) in kinds()
    data.exif = "turn"
    assert ("error", "masks that don't match the image size") in kinds()
    mask = tmp_path / "data" / "masks" / "train" / "0001.png"
    Image.fromarray(np.array([[0, 1]] * 3 + [[1, 0]] * 3, np.uint8).repeat(2, 1)).save(mask)
    assert sorted(kinds()) == sorted([white, same_name])
    split = find_split(data, "train")
    np.testing.assert_array_equal(split.read(0)[0], np.rot90(from_pack, -1))

    data.pack = "auto"
    write_pack(split, folder, workers=1)
    np.testing.assert_array_equal(with_pack(split, data).read(0)[0], split.read(0)[0])
    assert sorted(kinds()) == sorted([white, same_name])
    before_transparency(folder / "index.jsonl")
    with pytest.raises(UserError, match=r"hidden colors of transparent pixels.*0001\.png"):
        with_pack(split, data)
    Image.fromarray(np.ascontiguousarray(np.rot90(stored, -1))).save(turned)
    write_pack(split, folder, workers=1)
    before_transparency(folder / "index.jsonl")
    with_pack(split, data)
