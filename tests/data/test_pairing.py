"""Pairing by folders and by names, and files that are both image and mask."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from pair_files import folder, pairs, write

from segcoord.data.inspection import inspect_sample
from segcoord.data.layouts import find_split, in_dataset
from segcoord.data.pack.writer import write_pack
from segcoord.utils.errors import UserError

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
