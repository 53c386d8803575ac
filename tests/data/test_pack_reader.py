"""A pack gives what the files give, and tells when it is wrong."""

from __future__ import annotations

import csv
import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    CAMVID,
    CLASSES,
    MEAN,
    ROOT,
    SMALL,
    flip_byte,
    images_of,
    pack_config,
    packed,
    refusal,
    same_pixels,
    shorten,
)
from PIL import Image

from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import main, run
from segcoord.cli.train import train
from segcoord.config.schema import DataConfig
from segcoord.data.checks.split import inspect_split
from segcoord.data.layouts import find_split
from segcoord.data.loader import EpochShuffle, StepBatchSampler, TrainDataset, train_loader
from segcoord.data.pack.reader import IMAGES, INDEX, MASKS, open_pack, read_index, verify, with_pack
from segcoord.data.pack.writer import write_pack
from segcoord.data.split import Split
from segcoord.data.transforms import TrainTransform
from segcoord.utils.errors import UserError

# -- the same pixels


def test_voc_of_several_sizes(root: Path) -> None:
    first, second = sorted(images_of(root).iterdir())[:2]
    masks = root / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    for path, box in ((first, (3, 5, 98, 52)), (second, (0, 0, 31, 90))):
        Image.open(path).crop(box).save(path)
        mask = masks / f"{path.stem}.png"
        Image.open(mask).crop(box).save(mask)
    split, _ = packed(root)
    found = with_pack(split, pack_config(root))
    assert found.pack is not None
    assert found.read(0)[0].shape == (47, 95, 3)
    assert same_pixels(found, split)
    assert with_pack(split, pack_config(root, pack="off")).pack is None


def test_cityscapes_and_a_split_without_labels(sample_cityscapes: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(sample_cityscapes, tmp_path / "cs"))
    data = DataConfig("cityscapes", str(root))
    for name in ("train", "val", "test"):
        split = find_split(data, name)
        write_pack(split, root / ".segcoord" / name, workers=1)
        found = with_pack(split, data)
        assert found.pack is not None
        assert same_pixels(found, split)
    assert found.read(0)[1] is None
    assert not (root / ".segcoord" / "test" / MASKS).exists()


def test_folder_layout(tmp_path: Path, sample_voc: Path) -> None:
    voc = sample_voc / "VOCdevkit" / "VOC2012"
    shutil.copytree(voc / "JPEGImages", tmp_path / "images" / "train")
    shutil.copytree(voc / "SegmentationClass", tmp_path / "masks" / "train")
    data = DataConfig("folder", str(tmp_path), classes=CLASSES)
    split = find_split(data, "train")
    write_pack(split, tmp_path / ".segcoord" / "train", workers=1)
    assert same_pixels(with_pack(find_split(data, "train"), data), split)


def test_several_processes_write_the_same_bytes(root: Path, tmp_path: Path) -> None:
    split, folder = packed(root)
    told = []
    write_pack(split, tmp_path / "other", workers=2, progress=told.append)
    assert told == list(range(len(split) + 1))
    for name in (IMAGES, MASKS, INDEX):
        assert (folder / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == sorted((IMAGES, MASKS, INDEX))
    assert not list(tmp_path.glob("**/*.part"))


def test_the_index_tells_what_docs_promise(root: Path) -> None:
    split, folder = packed(root)
    header, records = read_index(folder / INDEX)
    assert header["images"] == len(split) == len(records)
    assert header["classes"] == split.labels.names
    totals = np.zeros(256, int)
    for index, record in enumerate(records):
        image, mask = split.read(index)
        assert record["size"] == list(mask.shape)
        pixels = np.fromfile(folder / IMAGES, np.uint8, image.size, offset=3 * record["start"])
        assert (pixels.reshape(image.shape) == image).all()
        counts = np.bincount(mask.ravel(), minlength=256)
        assert record["pixels"] == {str(i): n for i, n in enumerate(counts.tolist()) if n}
        totals += counts
    assert totals.sum() == header["pixels"]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_equal_with_and_without(root: Path, workers: int) -> None:
    split, _ = packed(root)
    data = pack_config(root)

    def batches(split: Split, workers: int) -> list[dict]:
        dataset = TrainDataset(split, TrainTransform(data, MEAN), seed=4)
        shares = StepBatchSampler(EpochShuffle(len(dataset), 5, seed=4), (0, 7))
        return list(train_loader(dataset, shares, workers))

    files, pack = batches(split, 0), batches(with_pack(split, data), workers)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(files, pack, strict=True) for k in a)


def test_an_opened_pack_is_handed_on_without_its_pixels(root: Path) -> None:
    split, folder = packed(root)
    pack = open_pack(folder, split)
    pack[0]
    assert len(pickle.dumps(pack)) < 3000
    assert (pickle.loads(pickle.dumps(pack))[3][0] == pack[3][0]).all()
    assert not pack[0][0].flags.writeable


# -- a run


def losses(folder: Path) -> list[dict]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in r.items() if k != "seconds"} for r in csv.DictReader(file)]


def curve(config: str, root: Path, folder: Path, monkeypatch, *more: str) -> list[dict]:
    monkeypatch.setattr("segcoord.training.loop.LOG_INTERVAL", 1)
    arguments = [f"--config={ROOT / 'configs' / config}", f"--data.root={root}", f"--run={folder}"]
    assert run(train, "train.py", [*arguments, *SMALL, *more]) == 0
    return losses(folder)


def test_a_run_says_what_it_reads_and_ends_the_same(
    root: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    arguments = [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={root}"]
    steps = ["--train.max_steps=3", "--train.val_interval=3"]
    plain = curve("sample.yaml", root, tmp_path / "a", monkeypatch, *steps)
    assert "train: read from files\nval: read from files\n" in capsys.readouterr().out
    assert main(["data", "pack", *arguments]) == 0
    told = capsys.readouterr().out
    assert f"{root}/.segcoord/train: 16 images, 0.8 MB\n" in told
    assert curve("sample.yaml", root, tmp_path / "b", monkeypatch, *steps) == plain
    told = capsys.readouterr().out
    assert f"train: read from pack {root}/.segcoord/train\n" in told
    assert f"val: read from pack {root}/.segcoord/val\n" in told
    weights = [torch.load(tmp_path / x / "best.ckpt")["state_dict"] for x in "ab"]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    checkpoint = f"--checkpoint={tmp_path / 'b' / 'best.ckpt'}"
    scores = []
    for pack in ("auto", "off"):
        path = tmp_path / f"{pack}.json"
        options = [checkpoint, f"--json={path}", f"--data.pack={pack}", "--data.workers=0"]
        assert run(evaluate, "evaluate.py", options) == 0
        scores.append(json.loads(path.read_text())["classes"])
    assert scores[0] == scores[1]
    assert "read from files" in capsys.readouterr().out


@pytest.mark.camvid
@pytest.mark.parametrize("workers", [0, 2])
def test_camvid_has_the_same_loss_curve(tmp_path: Path, monkeypatch, capsys, workers: int) -> None:
    base = Path("VOCdevkit") / "VOC2012"
    lists = tmp_path / base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, count in (("train", 24), ("val", 2)):
        stems = (CAMVID / base / "ImageSets" / "Segmentation" / f"{name}.txt").read_text().split()
        (lists / f"{name}.txt").write_text("\n".join(stems[:count]))
    for name in ("JPEGImages", "SegmentationClass"):
        (tmp_path / base / name).symlink_to(CAMVID / base / name)
    steps = ["--train.max_steps=8", f"--data.workers={workers}"]
    run_of = tmp_path / "files"
    plain = curve("camvid_os16.yaml", tmp_path, run_of, monkeypatch, *steps)
    options = [f"--config={ROOT / 'configs' / 'camvid_os16.yaml'}", f"--data.root={tmp_path}"]
    assert main(["data", "pack", *options, "--workers=2"]) == 0
    capsys.readouterr()
    assert curve("camvid_os16.yaml", tmp_path, tmp_path / "pack", monkeypatch, *steps) == plain
    assert "read from pack" in capsys.readouterr().out
    assert len(plain) == 9  # 8 losses and a validation


# -- what data.pack means


def test_off_in_a_yaml_file_is_no_folder_named_false(root: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"base: {ROOT / 'configs' / 'sample.yaml'}\ndata:\n  pack: off\n")
    arguments = [f"--config={file}", f"--data.root={root}", f"--run={tmp_path / 'run'}", *SMALL]
    assert run(train, "train.py", [*arguments, "--train.max_steps=1"]) == 0
    assert "pack: 'off'" in (tmp_path / "run" / "config.yaml").read_text()
    assert run(train, "train.py", [f"--resume={tmp_path / 'run'}", "--data.pack=auto"]) == 0


def test_another_folder(root: Path, tmp_path: Path, capsys) -> None:
    elsewhere = tmp_path / "fast" / "disk"
    assert "there is no pack in it" in refusal(root, pack=str(elsewhere))
    arguments = [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={root}"]
    assert main(["data", "pack", *arguments, f"--out={elsewhere}", "--split=train"]) == 0
    assert f"--data.pack {elsewhere}" in capsys.readouterr().out
    data = pack_config(root, pack=str(elsewhere))
    assert with_pack(find_split(data, "train"), data).pack.folder == elsewhere / "train"
    assert with_pack(find_split(data, "val"), data).pack is None
    assert with_pack(find_split(data, "train"), pack_config(root)).pack is None


# -- what training looks at before it begins


def checked(split: Split) -> tuple:
    """What the check before a training finds."""
    check = inspect_split(split)
    numbers = [check.pixels, check.images, check.pixels_where_present, check.void]
    return [np.array(n).tolist() for n in numbers], check.sizes, check.findings, check.unusable


def test_the_check_of_a_pack_finds_what_that_of_the_files_does(root: Path, monkeypatch) -> None:
    split = find_split(pack_config(root), "train")
    exif = Image.Exif()
    exif[0x0112] = 6
    image = split.samples[2].image
    Image.open(image).save(image, exif=exif)
    for index, value in ((4, 255), (9, 0)):
        ids = np.array(Image.open(split.samples[index].mask))
        ids = np.where(ids == 255, 255, value) if value == 0 else ids * 0 + value
        Image.fromarray(ids.astype(np.uint8)).save(split.samples[index].mask)
    found = checked(split)
    assert [f.kind for f in found[2]] == [
        "images with an EXIF orientation",
        "masks with only void",
        "masks with only 0 and void",
    ]
    split, _ = packed(root)
    for name in ("count_mask", "read_header", "read_image"):
        monkeypatch.delattr(f"segcoord.data.reading.{name}")  # no file is read again
    assert checked(with_pack(split, pack_config(root))) == found
    assert checked(with_pack(packed_unlabelled(root), pack_config(root)))[0] == [[0] * 8] * 3 + [0]


def packed_unlabelled(root: Path) -> Split:
    shutil.rmtree(root / "VOCdevkit" / "VOC2012" / "SegmentationClass")
    return packed(root, "val")[0]


@pytest.mark.parametrize("value", [153, 3])
def test_damaged_masks_of_a_pack_end_it_before_the_training(
    root: Path, tmp_path: Path, capsys, value: int
) -> None:
    """153 would be an index out of range, 3 a class: wrong without a sound."""
    split, folder = packed(root)
    masks = np.memmap(folder / MASKS, np.uint8, "r+")
    masks[12288 * 5 : 12288 * 5 + 99] = value
    masks.flush()
    arguments = [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={root}"]
    run_of = f"--run={tmp_path / 'run'}"
    assert run(train, "train.py", [*arguments, run_of, *SMALL, "--train.max_steps=1"]) == 1
    told = capsys.readouterr().err
    assert f"{split.samples[5].image}: its mask in {folder / MASKS} is not as it was" in told
    assert "Remove the pack's folder and run segcoord data pack again" in told
    assert not (tmp_path / "run").exists()


def test_damaged_masks_of_a_pack_are_not_scored(root: Path, tiny_run: Path, capsys) -> None:
    split, folder = packed(root, "val")
    flip_byte(folder / MASKS, 12288 * 2 + 5)
    checkpoint = [f"--checkpoint={tiny_run / 'best.ckpt'}", f"--data.root={root}"]
    assert run(evaluate, "evaluate.py", [*checkpoint, "--data.workers=0"]) == 1
    told = capsys.readouterr().err
    assert f"1 of 6 masks are not as they were written ({split.samples[2].stem})" in told


# -- packs that are no longer right


def test_a_changed_file_makes_it_stale(root: Path, capsys) -> None:
    packed(root)
    image = sorted(images_of(root).iterdir())[3]
    later = image.stat().st_mtime_ns + 1
    os.utime(image, ns=(later, later))
    told = refusal(root)
    assert "not up to date: 1 of 16 samples changed since" in told
    assert str(image) in told
    assert "--data.pack off" in told
    arguments = [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={root}"]
    assert main(["data", "pack", *arguments, "--split=train", "--verify"]) == 1
    assert main(["data", "pack", *arguments, "--split=train"]) == 0
    assert "1 of 16 samples changed since" in capsys.readouterr().out
    assert main(["data", "pack", *arguments, "--split=train", "--verify"]) == 0
    assert main(["data", "pack", *arguments, "--split=train"]) == 0
    assert "is up to date" in capsys.readouterr().out


def test_other_classes_or_another_list_make_it_stale(root: Path) -> None:
    packed(root)
    assert "with other classes" in refusal(root, classes=CLASSES[:7], void_ids=[7])
    mask = sorted((root / "VOCdevkit" / "VOC2012" / "SegmentationClass").iterdir())[0]
    content = mask.read_bytes()
    mask.write_bytes(content + b"\0")
    assert str(mask) in refusal(root)
    mask.unlink()
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt"
    stems = lists.read_text().split()
    lists.write_text("\n".join([*stems[1:-1], "2026_500001"]))
    told = refusal(root)
    assert "1 images are new, the first 2026_500001 and 2 are gone" in told
    lists.write_text("\n".join(stems[1:]))
    assert f"1 are gone, the first {stems[0]}" in refusal(root)


def test_reordered_list(root: Path) -> None:
    packed(root)
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt"
    lists.write_text("\n".join(reversed(lists.read_text().split())))
    assert "its list has another order" in refusal(root)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: shorten(f / IMAGES), "589823 bytes, expected 589824"),
        (lambda f: shorten(f / MASKS), "196607 bytes, expected 196608"),
        (lambda f: (f / MASKS).unlink(), "masks.u8: the pack is damaged: this file can't be read"),
        (lambda f: (f / INDEX).unlink(), "index.jsonl: the pack is damaged: No such file"),
        (lambda f: shorten(f / INDEX, 2), "cut short"),
        (lambda f: os.truncate(f / INDEX, 700), "cut short"),
        (lambda f: os.truncate(f / INDEX, 0), "cut short"),
        (lambda f: flip_byte(f / INDEX, 400), "its index was changed"),
        (lambda f: (f / INDEX).write_bytes(b"\x80PNG\n\xff\n"), "cut short or no index"),
        (
            lambda f: (f / INDEX).write_text('{"format": "segcoord pack", "version": 9}\n{}\n'),
            "version 9; this version of segcoord reads 'segcoord pack', version 1",
        ),
    ],
)
def test_damage_is_told_and_mended(root: Path, damage, told: str, capsys) -> None:
    split, folder = packed(root)
    damage(folder)
    found = refusal(root)
    assert told in found
    assert str(folder) in found
    assert "Run segcoord data pack again" in found
    arguments = [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={root}"]
    assert main(["data", "pack", *arguments, "--split=train"]) == 0
    assert same_pixels(with_pack(split, pack_config(root)), split)


@pytest.mark.parametrize(("name", "at"), [(IMAGES, 3 * 12288 * 5 + 7), (MASKS, 12288 * 5 + 7)])
def test_verify_finds_one_flipped_bit(root: Path, name: str, at: int) -> None:
    split, folder = packed(root)
    verify(open_pack(folder, split), split)
    flip_byte(folder / name, at)
    with pytest.raises(UserError, match="1 of 16 images are not as they were") as caught:
        verify(open_pack(folder, split), split)
    assert split.samples[5].stem in str(caught.value)


def test_an_unreadable_pack(root: Path, monkeypatch) -> None:
    _, folder = packed(root)
    stat = Path.stat

    def denied(self: Path, **options):
        if self == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", denied)
    assert "can't be read (Permission denied)" in refusal(root)


def test_a_pack_that_is_replaced_in_use(root: Path) -> None:
    split, folder = packed(root)
    opened, unopened = (open_pack(folder, split) for _ in range(2))
    before = opened[0][0].copy()
    write_pack(split, folder, workers=1)
    assert (opened[0][0] == before).all()  # what is mapped stays
    with pytest.raises(UserError, match="written anew while it was in use"):
        unopened[0]
