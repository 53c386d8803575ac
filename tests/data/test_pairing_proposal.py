"""Settings that `data check` proposes where the current ones pair nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from pair_files import folder, write
from PIL import Image

from segcoord.data.checks.run import check_data
from segcoord.data.layouts import find_split
from segcoord.data.pairing_proposal import propose_pairing
from segcoord.utils.errors import UserError

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
