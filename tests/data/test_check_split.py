"""What `check_split` finds in the files of a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layout_trees import CLASSES, SIZE, folder, folder_tree, put_image, put_mask
from PIL import Image

from segcoord.config.schema import ClassConfig
from segcoord.data.checks.findings import MAX_LISTED
from segcoord.data.checks.split import check_split
from segcoord.data.layouts import find_split
from segcoord.data.pack.writer import write_pack
from segcoord.utils.errors import UserError

# -- check_split


def test_check_split_counts_pixels_images_and_void(tmp_path: Path) -> None:
    root = tmp_path
    masks = {
        "a": [[0, 0, 1, 1, 1, 255]] * 4,
        "b": [[0, 7, 7, 7, 7, 7]] + [[255] * 6] * 3,  # 7 is void here
        "c": [[1] * 6] * 4,
    }
    for stem, values in masks.items():
        put_image(root / "images" / "train" / f"{stem}.png")
        put_mask(root / "masks" / "train" / f"{stem}.png", values)
    third = ClassConfig("absent", [1, 1, 1])
    data = folder(root, classes=[*CLASSES, third], void_ids=[7])
    progress = []
    check = check_split(find_split(data, "train"), progress.append)
    assert check.pixels.tolist() == [2 * 4 + 1, 3 * 4 + 24, 0]
    assert check.images.tolist() == [2, 2, 0]
    assert check.void == 4 + 5 + 18
    assert progress == [1, 2, 3]


def test_check_split_maps_ids_to_indices(tmp_path: Path) -> None:
    classes = [ClassConfig("a", [0, 0, 0], 200), ClassConfig("b", [0, 0, 0], 3)]
    put_image(tmp_path / "images" / "train" / "x.png")
    put_mask(tmp_path / "masks" / "train" / "x.png", [[200, 200, 200, 3, 3, 255]] * 4)
    check = check_split(find_split(folder(tmp_path, classes=classes), "train"))
    assert check.pixels.tolist() == [12, 8]
    assert check.void == 4


def test_check_split_rejects_binary_masks_with_valid_values(tmp_path: Path) -> None:
    """0/255 masks of two classes contain only class 0 and void."""
    put_image(tmp_path / "images" / "train" / "x.png")
    put_mask(tmp_path / "masks" / "train" / "x.png", [[0, 0, 255, 255, 255, 255]] * 4)
    with pytest.raises(UserError, match="contain only 'rock' and void"):
        check_split(find_split(folder(tmp_path), "train"))
    put_image(tmp_path / "images" / "train" / "y.png")
    put_mask(tmp_path / "masks" / "train" / "y.png", [[0, 0, 1, 1, 1, 255]] * 4)
    check = check_split(find_split(folder(tmp_path), "train"))
    assert check.images.tolist() == [2, 1]
    assert check.void == 20


def test_palette_masks_of_which_some_are_read_by_color_and_others_by_index(tmp_path: Path) -> None:
    """A slightly wrong color: 1 and 2 would both be the last class."""
    classes = [ClassConfig(str(c), c) for c in ([0, 0, 0], [255, 0, 0], [0, 255, 0])]
    for value, name in ((1, "x"), (2, "y")):
        put_image(tmp_path / "images" / "train" / f"{name}.png")
        mask = Image.fromarray(np.repeat(np.uint8([[0, 0, value]]), 2, 1).repeat(4, 0))
        mask.putpalette([0, 0, 0, 0, 255, 0, 254, 0, 0])
        (tmp_path / "masks" / "train").mkdir(parents=True, exist_ok=True)
        mask.save(tmp_path / "masks" / "train" / f"{name}.png")
    split = find_split(folder(tmp_path, classes=classes), "train")
    for read in (check_split, lambda split: write_pack(split, tmp_path / "pack", 1)):
        with pytest.raises(UserError, match=r"y\.png: the colors of its palette say .*x\.png"):
            read(split)


def test_check_split_without_labels(tmp_path: Path) -> None:
    put_image(tmp_path / "images" / "test" / "x.jpg")
    check = check_split(find_split(folder(tmp_path), "test"))
    assert check.pixels.tolist() == check.images.tolist() == [0, 0]
    assert check.void == 0
    raw = (tmp_path / "images" / "test" / "x.jpg").read_bytes()
    (tmp_path / "images" / "test" / "x.jpg").write_bytes(raw[: len(raw) * 6 // 10])
    with pytest.raises(UserError, match=r"1 of 1 samples can't be used\n.*x\.jpg"):
        check_split(find_split(folder(tmp_path), "test"))


def test_check_split_lists_all_unusable_samples(tmp_path: Path) -> None:
    root = folder_tree(tmp_path, ("cut", "deep", "fine", "ids", "rgb", "size", "turned"))
    images, masks = root / "images" / "train", root / "masks" / "train"
    raw = (images / "cut.png").read_bytes()
    (images / "cut.png").write_bytes(raw[: len(raw) * 6 // 10])
    Image.new("I;16", SIZE).save(images / "deep.png")
    put_mask(masks / "ids.png", [[0, 1, 40, 40, 0, 0]] * 4)
    Image.new("RGB", SIZE).save(masks / "rgb.png")
    put_mask(masks / "size.png", np.zeros((4, 5)))
    put_mask(masks / "turned.png", np.zeros((6, 4)))
    with pytest.raises(UserError) as caught:
        check_split(find_split(folder(root), "train"))
    first, *lines = str(caught.value).splitlines()
    assert first == "split 'train': 6 of 7 samples can't be used"
    for line, (path, problem) in zip(
        lines,
        (
            (images / "cut.png", "truncated"),
            (images / "deep.png", "more than 8 bits"),
            (masks / "ids.png", "mask values 40 (8 pixels) belong to no class"),
            (masks / "rgb.png", "belongs to no class"),
            (masks / "size.png", "the mask is 5x4 (width x height), its image 6x4"),
            (masks / "turned.png", "EXIF"),
        ),
        strict=True,
    ):
        assert line.startswith(f"{path}: ")
        assert problem in line


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("fraction", [0.0, 0.6, 0.9])
def test_check_split_finds_truncated_images(tmp_path: Path, suffix: str, fraction: float) -> None:
    root = folder_tree(tmp_path, ("a", "b"))
    (root / "images" / "train" / "b.png").unlink()
    path = root / "images" / "train" / f"b.{suffix}"
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)
    put_mask(root / "masks" / "train" / "b.png", np.ones((30, 40)))
    assert check_split(find_split(folder(root), "train")).pixels.sum() == 24 + 1200
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * fraction)])
    with pytest.raises(UserError, match=rf"1 of 2 samples can't be used\n.*b\.{suffix}: "):
        check_split(find_split(folder(root), "train"))


def test_check_split_reports_a_color_profile_that_pillow_rejects(tmp_path: Path) -> None:
    root = folder_tree(tmp_path)
    Image.new("RGB", SIZE).save(root / "images" / "train" / "b.png", icc_profile=bytes(2_000_000))
    with pytest.raises(UserError, match=r"1 of 2 samples .*\n.*b\.png: "):
        check_split(find_split(folder(root), "train"))


@pytest.mark.parametrize("bad", [MAX_LISTED, MAX_LISTED + 1, MAX_LISTED + 15])
def test_check_split_lists_the_first_errors_and_counts_the_others(tmp_path: Path, bad: int) -> None:
    root = folder_tree(tmp_path, tuple(f"{i:02}" for i in range(bad + 2)))
    for i in range(bad):
        put_mask(root / "masks" / "train" / f"{i + 1:02}.png", 9)
    with pytest.raises(UserError) as caught:
        check_split(find_split(folder(root), "train"))
    first, *lines = str(caught.value).splitlines()
    assert first == f"split 'train': {bad} of {bad + 2} samples can't be used"
    listed = [Path(line.partition(": ")[0]).stem for line in lines[:MAX_LISTED]]
    assert listed == [f"{i + 1:02}" for i in range(MAX_LISTED)]  # in the split's order
    rest = bad - MAX_LISTED
    assert lines[MAX_LISTED:] == ([f"... and {rest} more"] if rest else [])


def test_check_split_counts_a_large_mask_exactly(tmp_path: Path) -> None:
    """OpenCV counts in float32, in which 2**24 + 1 becomes 2**24."""
    width, height = 4099, 4097  # just above 2**24 pixels
    put_image(tmp_path / "images" / "train" / "x.png", (width, height))
    put_mask(tmp_path / "masks" / "train" / "x.png", np.ones((height, width), np.uint8))
    check = check_split(find_split(folder(tmp_path), "train"))
    assert check.pixels.tolist() == [0, width * height]
