"""Bad samples: left out with data.skip_bad, or listed without by --write-lists."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import png_by_hand
from pair_files import folder, pairs, write
from PIL import Image

from segcoord.config.schema import ClassConfig
from segcoord.data.checks.run import check_data
from segcoord.data.checks.usable_lists import usable_lists
from segcoord.data.inspection import inspect_sample
from segcoord.data.layouts import find_split
from segcoord.data.pack.reader import pixel_source
from segcoord.utils.errors import UserError


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
