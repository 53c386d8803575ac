"""Listing the files of each layout, and what check_split finds in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from layout_trees import CLASSES, SIZE, folder, folder_tree, put_image, put_mask, stems

from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.checks.split import check_split
from segcoord.data.labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS, VOC
from segcoord.data.layouts import (
    find_split,
    in_dataset,
    label_set,
    masks_without_image,
    skipped_files,
)
from segcoord.utils.errors import UserError


def put_list(base: Path, split: str, content: str | bytes) -> Path:
    path = base / "ImageSets" / "Segmentation" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def voc_tree(base: Path, stems: tuple[str, ...] = ("a", "b", "c"), split: str = "train") -> Path:
    """Write images and masks of `stems`, and list them in this order."""
    for stem in stems:
        put_image(base / "JPEGImages" / f"{stem}.jpg")
        put_mask(base / "SegmentationClass" / f"{stem}.png")
    put_list(base, split, "\n".join(stems) + "\n")
    return base


def cityscapes_tree(
    root: Path, frames: dict[str, str], split: str = "val", kind: str = "labelIds", value: int = 7
) -> Path:
    """Write frames, given with their city: {"aachen_000000_000019": "aachen"}."""
    for frame, city in frames.items():
        put_image(root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png")
        put_mask(root / "gtFine" / split / city / f"{frame}_gtFine_{kind}.png", value)
    return root


def voc(root: Path, **settings: object) -> DataConfig:
    return DataConfig(layout="voc", root=str(root), **settings)


def cityscapes(root: Path) -> DataConfig:
    return DataConfig(layout="cityscapes", root=str(root))


# -- VOC


@pytest.mark.parametrize("inside", [Path(), Path("VOCdevkit") / "VOC2012"])
def test_voc_root_is_the_devkit_or_contains_it(tmp_path: Path, inside: Path) -> None:
    base = voc_tree(tmp_path / inside, ("b", "a"))
    put_image(base / "JPEGImages" / "unlisted.jpg")
    split = find_split(voc(tmp_path), "train")
    assert stems(split) == ["b", "a"]  # the list's order
    assert split.samples[0].image == base / "JPEGImages" / "b.jpg"
    assert split.samples[0].mask == base / "SegmentationClass" / "b.png"
    assert split.name == "train"
    assert split.labelled
    assert len(split) == 2
    assert split.labels == VOC


def test_trainaug_uses_the_masks_of_segmentation_class_aug(tmp_path: Path) -> None:
    voc_tree(tmp_path)
    put_list(tmp_path, "trainaug", "a\nb\n")
    for stem in "ab":
        put_mask(tmp_path / "SegmentationClassAug" / f"{stem}.png")
    for name, masks in (("train", "SegmentationClass"), ("trainaug", "SegmentationClassAug")):
        samples = find_split(voc(tmp_path), name).samples
        assert {s.mask.parent.name for s in samples if s.mask} == {masks}


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_split_lists_written_on_windows(tmp_path: Path, bom: bytes) -> None:
    voc_tree(tmp_path)
    put_list(tmp_path, "val", bom + b"b\r\n\r\n  a\t\r\n\n")
    assert stems(find_split(voc(tmp_path), "val")) == ["b", "a"]


def test_voc_suffixes_are_case_insensitive(tmp_path: Path) -> None:
    for stem, image, mask in (("a", "JPG", "PNG"), ("b", "Jpeg", "png"), ("c", "PNG", "Png")):
        put_image(tmp_path / "JPEGImages" / f"{stem}.{image}")
        put_mask(tmp_path / "SegmentationClass" / f"{stem}.{mask}")
    put_list(tmp_path, "train", "a\nb\nc\n")
    split = find_split(voc(tmp_path), "train")
    assert [s.image.name for s in split.samples] == ["a.JPG", "b.Jpeg", "c.PNG"]
    assert [s.mask.name for s in split.samples if s.mask] == ["a.PNG", "b.png", "c.Png"]


def test_stems_may_contain_dots(tmp_path: Path) -> None:
    voc_tree(tmp_path, ("2007.001", "2007.002"))
    assert stems(find_split(voc(tmp_path), "train")) == ["2007.001", "2007.002"]


def test_voc_test_split_has_no_labels(tmp_path: Path) -> None:
    voc_tree(tmp_path)
    put_image(tmp_path / "JPEGImages" / "x.jpg")
    put_list(tmp_path, "test", "x\n")
    split = find_split(voc(tmp_path), "test")
    assert not split.labelled
    assert [s.mask for s in split.samples] == [None]


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    """macOS writes ._a.jpg beside a.jpg."""
    root = folder_tree(tmp_path)
    (root / "images" / "train" / "._a.png").write_bytes(b"")
    (root / "images" / "train" / "Thumbs.db").write_bytes(b"")
    assert stems(find_split(folder(root), "train")) == ["a", "b"]


# -- Cityscapes


def test_cityscapes_pairs_images_and_masks_by_frame(tmp_path: Path) -> None:
    frames = {
        "ulm_000001_000019": "ulm",
        "aachen_000001_000019": "aachen",
        "aachen_000000_000019": "aachen",
    }
    cityscapes_tree(tmp_path, frames)
    split = find_split(cityscapes(tmp_path), "val")
    assert stems(split) == [f"{f}_leftImg8bit" for f in sorted(frames)]
    assert [s.mask for s in split.samples] == [
        tmp_path / "gtFine" / "val" / frames[f] / f"{f}_gtFine_labelIds.png" for f in sorted(frames)
    ]
    assert split.labels is CITYSCAPES
    assert all(s.labels is CITYSCAPES for s in split.samples)


def test_cityscapes_prefers_label_ids_and_accepts_train_ids(tmp_path: Path) -> None:
    """Each mask is mapped by its own numbering: both are cars."""
    cityscapes_tree(tmp_path, {"a_0_0": "a", "b_0_0": "b"}, kind="labelTrainIds", value=13)
    cityscapes_tree(tmp_path, {"a_0_0": "a"}, kind="labelIds", value=26)
    split = find_split(cityscapes(tmp_path), "val")
    kinds = [s.mask.stem.rpartition("_")[2] for s in split.samples if s.mask]
    assert kinds == ["labelIds", "labelTrainIds"]
    assert [s.labels for s in split.samples] == [CITYSCAPES, CITYSCAPES_TRAIN_IDS]
    check = check_split(split)
    car = CITYSCAPES.names.index("car")
    assert check.images[car] == 2
    assert check.pixels[car] == check.pixels.sum() == 2 * SIZE[0] * SIZE[1]
    assert check.void == 0


def test_cityscapes_test_split_has_no_labels(tmp_path: Path) -> None:
    put_image(tmp_path / "leftImg8bit" / "test" / "berlin" / "berlin_0_0_leftImg8bit.png")
    assert not find_split(cityscapes(tmp_path), "test").labelled


def test_cityscapes_split_without_images_is_an_error(tmp_path: Path) -> None:
    cityscapes_tree(tmp_path, {"a_0_0": "a"}, split="train")
    cityscapes_tree(tmp_path, {"b_0_0": "b"}, split="val")
    with pytest.raises(UserError, match="tset: no such folder; available splits: train, val"):
        find_split(cityscapes(tmp_path), "tset")
    (tmp_path / "leftImg8bit" / "extra" / "bonn").mkdir(parents=True)
    with pytest.raises(UserError, match=r"extra: no CITY/\*_leftImg8bit\.png"):
        find_split(cityscapes(tmp_path), "extra")
    with pytest.raises(UserError, match=r"leftImg8bit/val: no such folder"):
        find_split(cityscapes(tmp_path / "gtFine"), "val")


# -- folders


def test_folder_layout_pairs_by_stem(tmp_path: Path) -> None:
    root = folder_tree(tmp_path, ("b", "a"))
    split = find_split(folder(root), "train")
    assert stems(split) == ["a", "b"]  # sorted
    assert split.samples[0].image == root / "images" / "train" / "a.png"
    assert split.samples[0].mask == root / "masks" / "train" / "a.png"
    assert split.labels.names == ["rock", "moss"]


def test_folder_layout_with_custom_patterns(tmp_path: Path) -> None:
    put_image(tmp_path / "val" / "photos" / "x.JPG")
    put_mask(tmp_path / "truth-val" / "ids" / "x.png")
    data = folder(tmp_path, images="{split}/photos", masks="truth-{split}/ids")
    (sample,) = find_split(data, "val").samples
    assert sample.image == tmp_path / "val" / "photos" / "x.JPG"
    assert sample.mask == tmp_path / "truth-val" / "ids" / "x.png"


def test_folder_layout_without_masks_has_no_labels(tmp_path: Path) -> None:
    put_image(tmp_path / "images" / "test" / "x.webp")
    assert not find_split(folder(tmp_path), "test").labelled


@pytest.mark.parametrize("key", ["images", "masks"])
@pytest.mark.parametrize("pattern", ["images", "images/train", "images/{name}", "{split"])
def test_folder_pattern_must_contain_split(tmp_path: Path, key: str, pattern: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{key}: found '.*', expected .*\{{split\}}"):
        find_split(folder(folder_tree(tmp_path), **{key: pattern}), "train")


@pytest.mark.parametrize("key", ["images", "masks"])
@pytest.mark.parametrize(
    "pattern", ["../{split}", "/etc/{split}", "images/../../{split}", "{split}/../.."]
)
def test_folder_pattern_must_stay_in_the_root(tmp_path: Path, key: str, pattern: str) -> None:
    root = folder_tree(tmp_path / "root")
    put_image(tmp_path / "train" / "a.png")  # exists, but must not be found
    with pytest.raises(UserError, match=rf"data\.{key}: .* is outside the dataset's folder"):
        find_split(folder(root, **{key: pattern}), "train")


def test_a_split_folder_may_be_a_link(tmp_path: Path) -> None:
    folder_tree(tmp_path / "disk")
    root = tmp_path / "root"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
        (root / name / "train").symlink_to(tmp_path / "disk" / name / "train")
    assert stems(find_split(folder(root), "train")) == ["a", "b"]


# -- joined splits


def test_joined_splits_keep_their_order_and_mask_folders(tmp_path: Path) -> None:
    voc_tree(tmp_path / "voc", ("c", "b"))
    put_list(tmp_path / "voc", "trainaug", "a\n")
    put_image(tmp_path / "voc" / "JPEGImages" / "a.jpg")
    put_mask(tmp_path / "voc" / "SegmentationClassAug" / "a.png")
    split = find_split(voc(tmp_path / "voc"), "train+trainaug")
    assert (split.name, stems(split)) == ("train+trainaug", ["c", "b", "a"])
    folders = ["SegmentationClass", "SegmentationClass", "SegmentationClassAug"]
    assert [s.mask.parent.name for s in split.samples if s.mask] == folders

    cityscapes_tree(tmp_path / "cs", {"z_0_0": "z"}, split="train")
    cityscapes_tree(tmp_path / "cs", {"a_0_0": "a"}, split="val")
    split = find_split(cityscapes(tmp_path / "cs"), "train+val")
    assert stems(split) == ["z_0_0_leftImg8bit", "a_0_0_leftImg8bit"]

    data = folder(folder_tree(folder_tree(tmp_path, ("z",)), ("a",), split="val"))
    split = find_split(data, "train+val")
    assert stems(split) == ["z", "a"]
    for name in ("train", "val"):  # outputs must not be among the files of either
        assert in_dataset(data, split, tmp_path / "masks" / name)
        put_mask(tmp_path / "masks" / name / f"{name}_only.png")
        (tmp_path / "images" / name / "x.gif").touch()
    unmatched = [path.stem for path in masks_without_image(data, split)]
    assert unmatched == ["train_only", "val_only"]
    assert [path.parent.name for path in skipped_files(data, split)] == ["train", "val"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train+", "split 'train+': expected the names of different splits"),
        ("+", "split '+': expected the names of different splits"),
        ("val+val", r"split 'val+val': expected .* joined with +, for example train+val"),
        ("train+../x", "split '../x': expected a name without folders"),
        ("train+test", r"images/test: no such folder"),
        (
            "train+val",
            r"sample 'b' is in split 'train' (.*train/b.png) and in split 'val' (.*val/b.png)",
        ),
        ("train+more", r"images/train+more: is the file or folder of a split 'train+more', but +"),
    ],
)
def test_splits_that_can_not_be_joined(tmp_path: Path, name: str, message: str) -> None:
    for split, stem in (("train", "b"), ("val", "b"), ("more", "c"), ("train+more", "d")):
        folder_tree(tmp_path, (stem,), split=split)
    for character in "+()":
        message = message.replace(character, f"\\{character}")
    with pytest.raises(UserError, match=message):
        find_split(folder(tmp_path), name)


# -- labels


def test_custom_classes_in_the_voc_layout(tmp_path: Path) -> None:
    voc_tree(tmp_path)
    split = find_split(voc(tmp_path, classes=CLASSES, void_ids=[9]), "train")
    assert split.labels.names == ["rock", "moss"]
    assert split.labels.void_ids == (9,)
    assert all(s.labels is split.labels for s in split.samples)


def test_class_ids_default_to_their_position() -> None:
    classes = [ClassConfig("a", [1, 2, 3], 7), ClassConfig("b", [4, 5, 6])]
    labels = label_set(folder(Path("anywhere"), classes=classes))
    assert [c.id for c in labels.classes] == [7, 1]
    assert [c.color for c in labels.classes] == [(1, 2, 3), (4, 5, 6)]


def test_void_ids_with_the_voc_classes() -> None:
    labels = label_set(voc(Path("anywhere"), void_ids=[100]))
    assert labels.names == VOC.names
    assert labels.to_index[100] == 255


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "data.classes: found an empty list"),
        (
            [{"name": "a", "color": [1, 2]}],
            r"class 'a': color: found \[1, 2\], expected \[R, G, B\]",
        ),
        ([{"name": "a", "color": [1, 2, 300]}], r"class 'a': color: found \[1, 2, 300\]"),
        ([{"name": "a", "id": 65536}], "class 'a': id: found 65536"),
        ([{"name": "a", "id": 1}], "without a background class"),
        (["a", "a"], "duplicate name: a;"),
        # The second class defaults to id 1, its position, which is taken.
        ([{"name": "a", "id": 1}, "b"], r"duplicate mask value \(id\): 1;"),
    ],
)
def test_invalid_custom_classes_are_rejected(classes: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        label_set(folder(Path("anywhere"), classes=classes))


# -- missing and inconsistent files


@pytest.mark.parametrize("make", [voc, cityscapes, folder])
def test_missing_root_is_an_error(tmp_path: Path, make: Callable[[Path], DataConfig]) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder \(data\.root\)"):
        find_split(make(tmp_path / "nowhere"), "train")


def test_missing_list_names_the_splits_that_exist(tmp_path: Path) -> None:
    base = voc_tree(tmp_path)
    put_list(base, "val", "a\n")
    with pytest.raises(
        UserError, match=r"trian\.txt: no such split list; available splits: train, val"
    ):
        find_split(voc(tmp_path), "trian")
    with pytest.raises(UserError, match=r"train\.txt: no such split list"):
        find_split(voc(tmp_path / "JPEGImages"), "train")  # not a VOC root at all


@pytest.mark.parametrize("content", ["", "\n \r\n"])
def test_empty_split_list_is_an_error(tmp_path: Path, content: str) -> None:
    base = voc_tree(tmp_path)
    put_list(base, "val", content)
    with pytest.raises(UserError, match=r"split 'val' of .* is empty"):
        find_split(voc(tmp_path), "val")


def test_split_list_in_another_encoding_is_an_error(tmp_path: Path) -> None:
    put_list(voc_tree(tmp_path), "val", b"\xff\xfea\0")
    with pytest.raises(UserError, match=r"val\.txt: not a UTF-8 text file"):
        find_split(voc(tmp_path), "val")


def test_empty_or_missing_image_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"images/train: no \.jpg.* found nothing"):
        find_split(folder(tmp_path), "train")
    (tmp_path / "images" / "train" / "a.gif").write_bytes(b"")
    (tmp_path / "images" / "train" / "README").write_bytes(b"")
    (tmp_path / "images" / "train" / "empty").mkdir()
    with pytest.raises(UserError, match=r"found 1 \.gif, 1 without suffix, 1 folder$"):
        find_split(folder(tmp_path), "train")
    with pytest.raises(UserError, match="images/val: no such folder"):
        find_split(folder(tmp_path), "val")


def test_jpeg_masks_are_an_error(tmp_path: Path) -> None:
    """JPEG changes ids; such a split must not be mistaken for one without labels."""
    put_image(tmp_path / "images" / "train" / "a.jpg")
    put_image(tmp_path / "masks" / "train" / "a.jpg")
    with pytest.raises(UserError, match=r"masks/train: no \.png.* found 1 \.jpg\. Lossy"):
        find_split(folder(tmp_path), "train")


def test_missing_listed_image_is_an_error(tmp_path: Path) -> None:
    base = voc_tree(tmp_path)
    put_list(base, "val", "a\n\nmissing\n")
    with pytest.raises(UserError, match=r"val\.txt:3: no image missing\.\* in .*JPEGImages"):
        find_split(voc(tmp_path), "val")


def test_image_without_mask_is_an_error(tmp_path: Path) -> None:
    roots = tmp_path / "voc", tmp_path / "cityscapes", tmp_path / "folder"
    voc_tree(roots[0])
    (roots[0] / "SegmentationClass" / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.jpg: has no mask; 1 of 3 images in split 'train' "):
        find_split(voc(roots[0]), "train")
    cityscapes_tree(roots[1], {"a_0_0": "a", "b_0_0": "b"})
    (roots[1] / "gtFine" / "val" / "b" / "b_0_0_gtFine_labelIds.png").unlink()
    with pytest.raises(UserError, match=r"b_0_0_leftImg8bit\.png: has no mask; 1 of 2"):
        find_split(cityscapes(roots[1]), "val")
    folder_tree(roots[2])
    put_image(roots[2] / "images" / "train" / "c.png")
    with pytest.raises(UserError, match=r"images/train/c\.png: has no mask; 1 of 3"):
        find_split(folder(roots[2]), "train")


def test_duplicate_name_in_a_list_is_an_error(tmp_path: Path) -> None:
    base = voc_tree(tmp_path)
    put_list(base, "val", "a\nb\n\n a\n")
    with pytest.raises(UserError, match=r"val\.txt:4: 'a' is already listed in line 1"):
        find_split(voc(tmp_path), "val")


@pytest.mark.parametrize("where", ["images", "masks"])
def test_duplicate_stem_in_a_folder_is_an_error(tmp_path: Path, where: str) -> None:
    root = folder_tree(tmp_path)
    put_mask(root / where / "train" / "a.TIF")
    with pytest.raises(UserError, match=rf"{where}/train/a\.png: has the same stem as .*/a\.TIF;"):
        find_split(folder(root), "train")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "..\\x", "sub/../../x", "..", ".", "C:\\x", "x\0", "a ../x.png"]
)
def test_listed_names_never_leave_the_root(tmp_path: Path, name: str) -> None:
    base = voc_tree(tmp_path / "root")
    for outside in (tmp_path / "x.jpg", tmp_path / "x.png", tmp_path / "root" / "x.jpg"):
        put_image(outside)  # exists, but must not be found
    path = put_list(base, "val", f"a\n{name}\n")
    with pytest.raises(UserError, match=r"could leave the dataset's folder|no image") as caught:
        find_split(voc(tmp_path / "root"), "val")
    assert str(caught.value).startswith(f"{path}:2: ")


def test_cityscapes_stems_must_be_unique_across_cities(tmp_path: Path) -> None:
    """Their predictions would overwrite each other."""
    for city in ("a", "b"):
        put_image(tmp_path / "leftImg8bit" / "val" / city / "x_000000_000019_leftImg8bit.png")
    with pytest.raises(UserError, match="has the same stem as"):
        find_split(DataConfig("cityscapes", str(tmp_path)), "val")
