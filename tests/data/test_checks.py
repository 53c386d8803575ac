"""`segcoord data check`: every mistake at once, each with its file and what to do; training too."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
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
from segcoord.data.layouts import label_set

SAMPLE = str(ROOT / "configs" / "sample.yaml")
CLASSES = [ClassConfig(**c) for c in read_yaml(Path(SAMPLE))["data"]["classes"]]
COLORS = label_set(DataConfig("voc", "", classes=CLASSES)).colors
K = len(CLASSES)


@pytest.fixture
def tree(sample_voc: Path, tmp_path: Path) -> Tree:
    shutil.copytree(sample_voc, tmp_path / "data")
    return Tree(tmp_path / "data")


def check(tree: Tree, *more: str) -> tuple[int, dict]:
    """The exit code of the command, and its JSON."""
    root = tree.base.parents[1]
    report = root.parent / "report.json"
    arguments = [f"--config={SAMPLE}", f"--data.root={root}", f"--json={report}", *more]
    return main(["data", "check", *arguments]), json.loads(report.read_text())


def val_list(tree: Tree) -> Path:
    return tree.train.with_name("val.txt")


def val_image(tree: Tree) -> Path:
    return tree.images / f"{val_list(tree).read_text().split()[0]}.jpg"


def add_to_train(tree: Tree, image: Path) -> None:
    """Lists a new image for training, with any mask of its size."""
    shutil.copy(tree.mask, tree.masks / f"{image.stem}.png")
    tree.train.write_text("\n".join([*tree.stems, image.stem]))


def copy_of_val(tree: Tree, encode: bool) -> None:
    target = tree.images / ("copy.png" if encode else "copy.jpg")
    if encode:
        cv2.imwrite(str(target), cv2.imread(str(val_image(tree))))
    else:
        shutil.copy(val_image(tree), target)
    add_to_train(tree, target)


def in_own_palette(tree: Tree) -> None:
    """As a program saves colours that numbers them anew: here from the last class down."""
    ids = tree.ids() % K
    picture = Image.fromarray((K - 1 - ids).astype(np.uint8))
    picture.putpalette(COLORS[:K][::-1].tobytes())
    picture.save(tree.mask)


def damage_inside(tree: Tree) -> None:
    """A PNG with one wrong byte amid its pixels and a right end."""
    tree.image.unlink()
    path = tree.image.with_suffix(".png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)).save(path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    path.write_bytes(raw)


def damage_photograph(tree: Tree) -> None:
    """A JPEG with a wrong mark amid its pixels, which decoders step over."""
    raw = tree.image.read_bytes()
    half = len(raw) // 2
    tree.image.write_bytes(raw[:half] + b"\xff\xd3" + raw[half + 2 :])


def flip_bit_of_mask(tree: Tree) -> None:
    """In the pixels; found by its checksum alone."""
    raw = bytearray(tree.mask.read_bytes())
    raw[raw.index(b"IDAT") + 30] ^= 1
    tree.mask.write_bytes(raw)


def turn(tree: Tree, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(tree.image).save(tree.image, exif=exif)


def link_to_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


def greys(tree: Tree) -> None:
    colors = COLORS[np.minimum(tree.ids(), K - 1)]
    tree.write_ids(cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY))


def without_class(tree: Tree, index: int) -> None:
    tree.every_mask(lambda ids: np.where(ids == index, 0, ids))


# What is done to the tree: (how, level, kind, file, what is found, what to do).
BREAK: dict[str, tuple[Callable[[Tree], object], str, str, str | None, str, str]] = {
    "no list": (
        lambda t: t.train.unlink(),
        *("error", "a split that can't be read", None),
        *("train.txt: no such split list; the splits there are trainval, val", ""),
    ),
    "an empty list": (
        lambda t: t.train.write_text("\n"),
        *("error", "a split that can't be read", None, "is empty", ""),
    ),
    "a listed image that is not there": (
        lambda t: t.image.unlink(),
        *("error", "images that are listed and not there", "train.txt:4"),
        *("no image ", "Fetch the missing images"),
    ),
    "an image without a mask": (
        lambda t: t.mask.unlink(),
        *("error", "images without a mask", "{image}"),
        *("1 of 16 images have no mask", "Add the masks"),
    ),
    "a mask without an image": (
        lambda t: shutil.copy(t.mask, t.masks / "scene_mispelt.png"),
        *("warning", "masks without an image", "scene_mispelt.png"),
        *("no image has this mask's name", "misspelt name"),
    ),
    "a name twice in a list": (
        lambda t: t.train.write_text("\n".join([*t.stems, t.stems[2]])),
        *("error", "names that are listed twice", "train.txt:17"),
        *("stands in line 3 already", "Remove one"),
    ),
    "a name that leaves the root": (
        lambda t: t.train.write_text("\n".join([*t.stems, "../../x"])),
        *("error", "lines of a split list that are no names", "train.txt:17"),
        *("might leave the dataset's folder", "one name a line"),
    ),
    "two images of a stem": (
        lambda t: Image.new("RGB", (128, 96)).save(t.image.with_suffix(".png")),
        *("error", "files of the same stem", "JPEGImages"),
        *("have the same stem", "Remove or rename one"),
    ),
    "a truncated image": (
        lambda t: truncate(t.image, 0.6),
        *("error", "damaged files", "{image}", "truncated or damaged", "Fetch it anew"),
    ),
    "an image damaged inside": (
        damage_inside,
        *("error", "damaged files", "{stem}.png", "truncated or damaged", "Fetch it anew"),
    ),
    "a photograph damaged inside": (
        damage_photograph,
        *("error", "damaged files", "{image}", "Corrupt JPEG data", "Fetch it anew; if"),
    ),
    "a flipped bit in a mask": (
        flip_bit_of_mask,
        *("error", "damaged files", "{mask}", "the checksum of its chunk 'IDAT'", "Fetch it anew"),
    ),
    "a link to an image that is not there": (
        lambda t: link_to_nowhere(t.image),
        *(
            "error",
            "missing files",
            "{image}",
            "a link to a file that is not there",
            "Mend the link",
        ),
    ),
    "a link to a mask that is not there": (
        lambda t: link_to_nowhere(t.mask),
        *(
            "error",
            "missing files",
            "{mask}",
            "a link to a file that is not there",
            "Mend the link",
        ),
    ),
    "a turned photograph": (
        lambda t: turn(t, 6),
        *("warning", "images that viewers turn", "{image}"),
        *("has EXIF orientation 6, which training ignores", "drawn on the stored pixels"),
    ),
    "a file of an unknown kind among the images": (
        lambda t: (t.images / "scene.gif").write_bytes(b"GIF89a"),
        *("warning", "files that are passed over", "scene.gif", ".gif: of no kind", "to PNG"),
    ),
    "an empty image": (
        lambda t: t.image.write_bytes(b""),
        *("error", "files that are no images", "{image}", "the file is empty", "Fetch"),
    ),
    "a page in the place of an image": (
        lambda t: t.image.write_text("<!DOCTYPE html><title>404</title>"),
        *("error", "files that are no images", "{image}", "it is a web page", "Fetch"),
    ),
    "a suffix in a list": (
        lambda t: t.train.write_text("\n".join([f"{t.stems[0]}.jpg", *t.stems[1:]])),
        *("error", "images that are listed and not there", "train.txt:1"),
        *("no image ", "one name a line, without suffix"),
    ),
    "a list of two columns": (
        lambda t: t.train.write_text("\n".join([f"{t.stems[0]} 1", *t.stems[1:]])),
        *("error", "images that are listed and not there", "train.txt:1"),
        *("no image ", "one name a line, without suffix"),
    ),
    "a list in UTF-16": (
        lambda t: t.train.write_text("\n".join(t.stems), encoding="utf-16"),
        *("error", "a split that can't be read", None, "Save it as UTF-8, one name a line", ""),
    ),
    "masks of other names": (
        lambda t: [p.rename(p.with_name(f"{p.stem}_mask.png")) for p in t.masks.iterdir()],
        *("error", "masks that are named otherwise than images", "SegmentationClass"),
        *("22 masks there, none named as an image; the first is", "its image's name"),
    ),
    "masks saved as JPEGs": (
        lambda t: [p.rename(p.with_suffix(".jpg")) for p in t.masks.iterdir()],
        *("error", "a split that can't be read", None, "22 .jpg. A JPEG's compression", ""),
    ),
    "a JPEG named as a PNG mask": (
        lambda t: Image.open(t.mask).convert("L").save(t.mask, "JPEG"),
        *("error", "masks that were compressed with loss", "{mask}", "a JPEG file", "before"),
    ),
    "a mask with transparency": (
        lambda t: Image.open(t.mask).convert("LA").save(t.mask),
        *("error", "masks with transparency", "{mask}", "mode LA", "without its alpha channel"),
    ),
    "masks of zeros": (
        lambda t: t.every_mask(lambda ids: ids * 0),
        *("error", "no class but the first", None, "hold 'road' alone", "every pixel is 0"),
    ),
    "one binary mask of 0 and 255": (
        lambda t: t.write_ids((t.ids() > 3) * 255),
        *("warning", "masks of 0 and void alone", "{mask}", "holds 'road' and void", "0/255"),
    ),
    "a truncated mask": (
        lambda t: truncate(t.mask, 0.6),
        *("error", "damaged files", "{mask}", "truncated or damaged", "Fetch it anew"),
    ),
    "a text as image": (
        lambda t: t.image.write_text("hello"),
        *("error", "files that are no images", "{image}", "can't be read as an image", "Fetch"),
    ),
    "a 16-bit image": (
        lambda t: (
            t.image.unlink(),
            cv2.imwrite(str(t.image.with_suffix(".png")), np.zeros((96, 128, 3), np.uint16)),
        ),
        *("error", "more than 8 bits per channel", "{stem}.png", "expected 8", "Convert it once"),
    ),
    "a 16-bit mask": (
        lambda t: cv2.imwrite(str(t.mask), t.ids().astype(np.uint16)),
        *("error", "masks that are not 8 bits deep", "{mask}", "mode I;16", "with 8 bits"),
    ),
    "a mask of another size": (
        lambda t: t.write_ids(t.ids()[:-1]),
        *("error", "a mask of another size than its image", "{mask}"),
        *("the mask is 128x95 (width x height), its image 128x96", ""),
    ),
    "a turned mask": (
        lambda t: t.write_ids(t.ids().T),
        *("error", "a mask of another size than its image", "{mask}", "96x128", "EXIF"),
    ),
    "ids of no class": (
        lambda t: t.write_ids(np.where(t.ids() == 0, 77, t.ids())),
        *("error", "ids outside the classes", "{mask}"),
        *("mask values 77 ", "Correct the mask, or name the values in data.classes"),
    ),
    "a binary mask of 0 and 255, with two classes": (
        lambda t: t.every_mask(lambda ids: (ids > 3) * 255),
        *("error", "no class but the first", None, "'road' and void alone", "0/255 binary"),
    ),
    "a binary mask of 0 and 200": (
        lambda t: t.write_ids((t.ids() > 3) * 200),
        *("error", "ids outside the classes", "{mask}", "mask values 200", "0/255 binary"),
    ),
    "ids from 1": (
        lambda t: t.write_ids(np.where(t.ids() < K, t.ids() + 1, K)),
        *("error", "ids outside the classes", "{mask}", "mask values 8", "ids count from 1"),
    ),
    "ids from 1 and 0 for what has no label": (
        lambda t: t.write_ids(np.concatenate([t.ids()[:-1] * 0, t.ids()[-1:] * 0 + K])),
        *("error", "ids outside the classes", "{mask}", "mask values 8", "data.void_ids: [0]"),
    ),
    "colours": (
        lambda t: Image.fromarray(COLORS[t.ids()]).save(t.mask),
        *("error", "masks in colours", "{mask}", "mode RGB", "segcoord data ids"),
    ),
    "colours made grey": (
        greys,
        *("error", "ids outside the classes", "{mask}", "belong to no class", "greys of the"),
    ),
    "colours in a palette of their own": (
        in_own_palette,
        *("error", "palette indices that are not ids", "{mask}"),
        *("0 has the colour of traffic sign, whose id is 7", "segcoord data ids"),
    ),
    "a grey photograph": (
        lambda t: Image.open(t.image).convert("L").save(t.mask),
        *("error", "ids outside the classes", "{mask}", "belong to no class", "grey photograph"),
    ),
    "a mask of void": (
        lambda t: t.write_ids(t.ids() * 0 + 255),
        *("warning", "masks of nothing but void", "{mask}", "no pixel", "out of the split"),
    ),
    "masks of void alone": (
        lambda t: t.every_mask(lambda ids: ids * 0 + 255),
        *("error", "a split without labels", None, "only void in its masks", "data/README.md"),
    ),
    "no masks": (
        lambda t: shutil.rmtree(t.masks),
        *("error", "a split without labels", None, "has no masks", "data/README.md"),
    ),
    "a class that never occurs": (
        lambda t: without_class(t, 7),
        *("warning", "classes that never occur", None, "'traffic sign' is in no mask", "learnt"),
    ),
    "an image in both lists": (
        lambda t: t.train.write_text("\n".join([*t.stems, val_image(t).stem])),
        *("error", "images in both splits", "{val}"),
        *("is in split 'train' and in 'val'", "take them out of one"),
    ),
    "a validation image copied into training": (
        lambda t: copy_of_val(t, encode=False),
        *("error", "the same picture in both splits", "{val}", "copy.jpg of split 'train'", "out"),
    ),
    "a validation image saved anew for training": (
        lambda t: copy_of_val(t, encode=True),
        *("error", "the same picture in both splits", "{val}", "copy.png of split 'train'", "out"),
    ),
    "a picture twice in training": (
        lambda t: (
            shutil.copy(t.image, t.images / "twice.jpg"),
            add_to_train(t, t.images / "twice.jpg"),
        ),
        *("warning", "the same picture twice in a split", "twice.jpg"),
        *("has the same pixels as {image}", "Remove one"),
    ),
}


@pytest.mark.parametrize("case", BREAK)
def test_a_mistake_is_found_and_named(case: str, tree: Tree, capsys) -> None:
    mend, level, kind, file, found, remedy = BREAK[case]
    names = {
        "image": tree.image,
        "mask": tree.mask,
        "stem": tree.image.stem,
        "val": val_image(tree),
    }
    mend(tree)
    code, report = check(tree)
    printed = capsys.readouterr()
    same = [f for f in report["findings"] if (f["level"], f["kind"]) == (level, kind)]
    assert same, report["findings"]
    assert len({(f["file"], f["found"]) for f in same}) == len(same)  # splits share folders
    finding = same[0]
    assert found.format(**names) in finding["found"]
    assert remedy in finding["remedy"]
    assert finding["remedy"] or remedy == ""
    assert (finding["file"] or "").endswith((file or "").format(**names))
    assert (finding["file"] is None) == (file is None)
    # Nothing else is taken for an error but what goes with it.
    wrong = {f["kind"] for f in report["findings"] if f["level"] == "error"}
    assert wrong == ({kind} if level == "error" else set())
    assert code == (level == "error") == (not report["ok"])
    assert finding["found"] in printed.out
    assert finding["remedy"] in printed.out
    assert "Traceback" not in printed.out + printed.err


def test_all_mistakes_are_found_at_once(tree: Tree, capsys) -> None:
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
    assert "error, train: masks in colours (5)" in printed
    assert str(masks[4]) in printed
    assert str(masks[5]) not in printed
    assert "... and 2 more" in printed
    assert printed.count("Write the class ids instead of their colours") == 1
    assert "9 errors" in printed
    (train,) = [s for s in report["splits"] if s["name"] == "train"]
    assert train["images"] == 14  # the two that were left out are among the findings
    assert train["unusable"] == 6


def test_the_json_has_what_the_masks_hold(tree: Tree, capsys) -> None:
    code, report = check(tree)
    assert code == 0
    assert "No mistake found, no warnings." in capsys.readouterr().out
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


def test_one_split_alone(tree: Tree, capsys) -> None:
    """A split to predict needs no labels, though --json says that it has none."""
    shutil.rmtree(tree.masks)
    code, report = check(tree, "--split=val")
    assert code == 0
    assert [(s["name"], s["labelled"]) for s in report["splits"]] == [("val", False)]
    assert report["findings"] == []
    code, report = check(tree, "--split=vla")
    assert code == 1
    assert "the splits there are train, trainval, val" in report["findings"][0]["found"]


def trainaug(tree: Tree, of_val: int) -> None:
    """SBD's part of VOC, made without taking val out."""
    shutil.copytree(tree.masks, tree.base / "SegmentationClassAug")
    stems = [*tree.stems, *val_list(tree).read_text().split()[:of_val]]
    tree.train.with_name("trainaug.txt").write_text("\n".join(stems))


def test_trainaug_must_not_contain_val(tree: Tree, capsys) -> None:
    trainaug(tree, of_val=2)
    code, report = check(tree, "--data.train_split=trainaug")
    assert code == 1
    assert [f["kind"] for f in report["findings"]] == ["images in both splits"] * 2
    assert report["findings"][0]["split"] == "trainaug and val"
    capsys.readouterr()
    assert train_on(tree, "--data.train_split=trainaug") == 1
    assert "is in split 'trainaug' and in 'val'. A score on" in capsys.readouterr().err
    assert not (tree.base.parents[2] / "run").exists()


def test_trainaug_without_val_is_fine(tree: Tree) -> None:
    trainaug(tree, of_val=0)
    assert check(tree, "--data.train_split=trainaug")[0] == 0


def test_trainval_contains_val_by_its_name(tree: Tree, capsys) -> None:
    code, report = check(tree, "--data.train_split=trainval")
    assert code == 0
    kinds = {(f["level"], f["kind"]) for f in report["findings"]}
    assert kinds == {("warning", "images in both splits")}
    capsys.readouterr()
    assert train_on(tree, "--data.train_split=trainval") == 0
    assert "images in both splits (6)" in capsys.readouterr().out


def test_training_tells_warnings_and_goes_on(tree: Tree, capsys) -> None:
    without_class(tree, 7)
    assert train_on(tree) == 0
    printed = capsys.readouterr().out
    assert "class 'traffic sign' is in no mask of split 'train'" in printed
    assert "class 'traffic sign' is in no mask of split 'val'" in printed


def folder_data(root: Path) -> DataConfig:
    """One image a split, of the same name and other pixels."""
    classes = [ClassConfig("a", [0, 0, 0]), ClassConfig("b", [9, 9, 9])]
    for value, split in ((10, "train"), (200, "val")):
        for kind, pixels in (
            ("images", [[[value] * 3] * 6] * 4),
            ("masks", [[0, 0, 0, 1, 1, 1]] * 4),
        ):
            (root / kind / split).mkdir(parents=True)
            Image.fromarray(np.array(pixels, np.uint8)).save(root / kind / split / "0001.png")
    return DataConfig("folder", str(root), classes=classes)


def test_the_same_name_in_two_folders_is_a_warning(tmp_path: Path) -> None:
    """Own data is often numbered from 1 in each split."""
    data, report = folder_data(tmp_path / "data"), tmp_path / "report.json"
    assert check_data(data, None, str(report)) == 0
    findings = json.loads(report.read_text())["findings"]
    assert [f["kind"] for f in findings] == ["the same name in both splits"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_link_is_the_same_file(tmp_path: Path, link: Callable) -> None:
    data, report = folder_data(tmp_path / "data"), tmp_path / "report.json"
    image = tmp_path / "data" / "images" / "val" / "0001.png"
    image.unlink()
    link(tmp_path / "data" / "images" / "train" / "0001.png", image)
    assert check_data(data, None, str(report)) == 1
    findings = json.loads(report.read_text())["findings"]
    assert [f["kind"] for f in findings] == ["images in both splits"]


def test_an_image_of_another_kind_is_not_passed_over(tmp_path: Path) -> None:
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
        "files that are passed over": "0002.gif",
    }


@pytest.mark.parametrize("layout", ["folder", "cityscapes"])
def test_links_that_lead_nowhere_in_both_splits(
    tmp_path: Path, sample_cityscapes: Path, layout: str, capsys
) -> None:
    """Of the same name; the check goes on and tells both."""
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
        link_to_nowhere(link)
    assert check_data(data, None, str(report)) == 1
    findings = json.loads(report.read_text())["findings"]
    missing = [f["file"] for f in findings if f["kind"] == "missing files"]
    assert missing == [str(link) for link in links]


def test_a_folder_of_negatives_is_no_mistake_of_a_mask(tree: Tree) -> None:
    """A mask of the first class and nothing else, void neither, is an image without objects."""
    tree.write_ids(tree.ids() * 0)
    code, report = check(tree)
    assert (code, report["findings"]) == (0, [])


def test_cityscapes_finds_a_label_without_its_image(sample_cityscapes: Path, tmp_path) -> None:
    shutil.copytree(sample_cityscapes, tmp_path / "data")
    image = next((tmp_path / "data" / "leftImg8bit" / "train").glob("*/*.png"))
    image.unlink()
    report = tmp_path / "report.json"
    check_data(DataConfig("cityscapes", str(tmp_path / "data")), "train", str(report))
    strays = [f for f in json.loads(report.read_text())["findings"] if "without an" in f["kind"]]
    frame = image.name.removesuffix("_leftImg8bit.png")
    assert [Path(f["file"]).name for f in strays] == [f"{frame}_gtFine_labelIds.png"]
