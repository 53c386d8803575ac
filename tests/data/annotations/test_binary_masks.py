"""Binary masks and alpha channels: how they are read, and which folders are not theirs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from export_files import (
    alpha_tree,
    annotation,
    binary_tree,
    by_name,
    put_alpha,
    put_colors,
    put_palette,
    put_text,
)
from layout_trees import put_image, put_mask
from PIL import Image

from segcoord.data.annotations.formats.binary_masks import FORMAT
from segcoord.utils.errors import UserError

BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)
BOTH = {"background", "foreground"}


def test_gray_masks(tmp_path: Path) -> None:
    root = binary_tree(tmp_path)
    put_mask(root / "masks" / "c.png", 255)  # without an image
    export = FORMAT.read(root)
    assert annotation(export, "a").names == {0: "background", 255: "foreground"}
    assert annotation(export, "b").names == {0: "background"}
    assert [c.name for c in export.classes] == ["background", "foreground"]
    assert export.background == "background"
    assert export.skipped == {"masks without an image": 1}


def test_palette_and_rgb_masks(tmp_path: Path) -> None:
    """Black is the background, whatever its index."""
    root = binary_tree(tmp_path)
    put_palette(root / "masks" / "a.png", [[0, 1, 1, 1, 1, 1]] * 4, WHITE, BLACK)
    put_colors(root / "masks" / "b.png", BLACK, BLACK, RED, RED)
    export = FORMAT.read(root)
    assert annotation(export, "a").names == {0: "foreground", 1: "background"}
    assert annotation(export, "b").names == {BLACK: "background", RED: "foreground"}


def test_splits_and_names(tmp_path: Path) -> None:
    for split in ("train", "val"):
        put_image(tmp_path / split / "images" / "a.jpg")
        put_mask(tmp_path / split / "masks" / "a_mask.png", [[0, 0, 0, 1, 1, 1]] * 4)
    put_image(tmp_path / "test" / "images" / "z.jpg")
    assert FORMAT.recognize(tmp_path)
    export = FORMAT.read(tmp_path)
    assert [(n, r.split) for n, r in by_name(export).items()] == [
        ("train/a", "train"),
        ("val/a", "val"),
    ]
    assert export.skipped == {"image files beside the pairs of images and masks": 1}


@pytest.mark.parametrize("values", [[[0, 1, 2, 2, 2, 2]], [[1, 1, 2, 2, 2, 2]]])
def test_other_values_are_an_error(tmp_path: Path, values: list) -> None:
    root = binary_tree(tmp_path)
    put_mask(root / "masks" / "a.png", values * 4)
    assert FORMAT.recognize(root) is None
    with pytest.raises(UserError, match=r"a\.png: found the values .*, expected 0 or black"):
        annotation(FORMAT.read(root), "a")


def test_masks_whose_values_differ_are_of_several_classes(tmp_path: Path) -> None:
    root = binary_tree(tmp_path)
    put_mask(root / "masks" / "b.png", [[0, 0, 0, 1, 1, 1]] * 4)
    assert FORMAT.recognize(root) is None


@pytest.mark.parametrize(
    "file",
    [
        *("result.json", "annotations/a.xml", "_classes.csv", "data.yaml", "labelmap.txt"),
        *("ImageSets/Segmentation/train.txt", "gtFine/x.png", "labels/a.txt"),
        *("objectInfo150.txt", "task-1-annotation-2-by-1-tag-car-0.png"),
    ],
)
def test_folders_of_other_formats_are_refused(tmp_path: Path, file: str) -> None:
    root = binary_tree(tmp_path)
    assert FORMAT.recognize(root)
    put_text(root / file, "0")
    assert FORMAT.recognize(root) is None


def test_alpha_channels(tmp_path: Path) -> None:
    """The image is imported with its colors and without its alpha channel, from 128 foreground."""
    root = alpha_tree(tmp_path)
    assert "alpha channel" in FORMAT.recognize(root)
    export = FORMAT.read(root)
    assert [(n, r.split) for n, r in by_name(export).items()] == [
        ("train/a", "train"),
        ("val/a", "val"),
    ]
    record = by_name(export)["train/a"]
    (shape,) = export.annotation(record, (4, 4))
    assert shape.label == "foreground"
    assert (shape.offset, shape.mask.tolist()) == ((2, 0), [[True, True]] * 4)
    image = Image.open(io.BytesIO(export.image(record)))
    assert export.rewrites_images
    assert image.mode == "RGB"
    assert (np.array(image).ravel() == np.arange(48)).all()


def test_alpha_channel_turns_with_its_image(tmp_path: Path) -> None:
    """EXIF orientation 6: the stored left column is the top row."""
    root = alpha_tree(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(root / "train" / "a.png") as image:
        image.save(root / "train" / "a.png", exif=exif)
    export = FORMAT.read(root)
    record = by_name(export)["train/a"]
    (shape,) = export.annotation(record, (4, 4))
    assert (shape.offset, shape.mask.shape) == ((0, 2), (2, 4))
    turned = np.array(Image.open(io.BytesIO(export.image(record))))
    assert (turned == np.rot90(np.arange(48).reshape(4, 4, 3), -1)).all()


def test_opaque_images_and_cutouts(tmp_path: Path) -> None:
    """Without the photo around the objects, a model would learn the color there."""
    for name in "ab":
        put_alpha(tmp_path / f"{name}.png", [[255] * 4] * 4)
    assert FORMAT.recognize(tmp_path) is None
    for name in "ab":
        rgba = np.array(Image.open(put_alpha(tmp_path / f"{name}.png", [[0, 0, 255, 255]] * 4)))
        rgba[rgba[..., 3] == 0] = 0
        Image.fromarray(rgba).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match="one color where they are transparent"):
        FORMAT.read(tmp_path)


def test_folder_without_masks(tmp_path: Path) -> None:
    put_image(tmp_path / "a.jpg")
    assert FORMAT.recognize(tmp_path) is None
    with pytest.raises(UserError, match="found no images and masks that pair"):
        FORMAT.read(tmp_path)
