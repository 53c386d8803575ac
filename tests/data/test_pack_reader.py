"""Reading packs: the same pixels, scores and losses as from the files; errors for wrong packs."""

from __future__ import annotations

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
    rows,
    same_pixels,
    shorten,
    weights,
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


def sample_config(root: Path) -> list[str]:
    return [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={root}"]


# -- the same pixels


def test_voc_images_of_several_sizes_are_equal(root: Path) -> None:
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


def test_cityscapes_and_an_unlabeled_split_are_equal(
    sample_cityscapes: Path, tmp_path: Path
) -> None:
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


def test_the_folder_layout_is_equal(tmp_path: Path, sample_voc: Path) -> None:
    voc = sample_voc / "VOCdevkit" / "VOC2012"
    shutil.copytree(voc / "JPEGImages", tmp_path / "images" / "train")
    shutil.copytree(voc / "SegmentationClass", tmp_path / "masks" / "train")
    data = DataConfig("folder", str(tmp_path), classes=CLASSES)
    split = find_split(data, "train")
    write_pack(split, tmp_path / ".segcoord" / "train", workers=1)
    assert same_pixels(with_pack(find_split(data, "train"), data), split)


def test_several_processes_write_the_same_bytes(root: Path, tmp_path: Path) -> None:
    split, folder = packed(root)
    done: list[int] = []
    write_pack(split, tmp_path / "other", workers=2, progress=done.append)
    assert done == list(range(len(split) + 1))
    for name in (IMAGES, MASKS, INDEX):
        assert (folder / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == sorted((IMAGES, MASKS, INDEX))
    assert not list(tmp_path.glob("**/*.part"))


def test_the_index_has_the_documented_fields(root: Path) -> None:
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
def test_batches_from_files_and_from_the_pack_are_equal(root: Path, workers: int) -> None:
    split, _ = packed(root)
    data = pack_config(root)

    def batches(split: Split, workers: int) -> list[dict]:
        dataset = TrainDataset(split, TrainTransform(data, MEAN), seed=4)
        batches = StepBatchSampler(EpochShuffle(len(dataset), 5, seed=4), (0, 7))
        return list(train_loader(dataset, batches, workers))

    files, pack = batches(split, 0), batches(with_pack(split, data), workers)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(files, pack, strict=True) for k in a)


def test_a_pack_pickles_without_its_pixels_and_is_read_only(root: Path) -> None:
    split, folder = packed(root)
    pack = open_pack(folder, split)
    pack[0]
    assert len(pickle.dumps(pack)) < 3000
    assert (pickle.loads(pickle.dumps(pack))[3][0] == pack[3][0]).all()
    assert not pack[0][0].flags.writeable


# -- training and evaluation


def curve(config: str, root: Path, folder: Path, *more: str) -> list[dict[str, str]]:
    """Rows of metrics.csv of a run."""
    arguments = [f"--config={ROOT / 'configs' / config}", f"--data.root={root}", f"--run={folder}"]
    assert run(train, "train.py", [*arguments, *SMALL, *more]) == 0
    return rows(folder)


def test_a_run_reads_the_pack_and_ends_the_same(
    root: Path, tiny_run: Path, tmp_path: Path, capsys
) -> None:
    assert main(["data", "pack", *sample_config(root)]) == 0
    assert f"{root}/.segcoord/train: 16 images, 0.8 MB\n" in capsys.readouterr().out
    steps = ["--train.max_steps=6", "--train.val_interval=3"]  # as tiny_run, which read the files
    assert curve("sample.yaml", root, tmp_path / "run", *steps) == rows(tiny_run)
    output = capsys.readouterr().out
    assert f"train: read from pack {root}/.segcoord/train\n" in output
    assert f"val: read from pack {root}/.segcoord/val\n" in output
    theirs, ours = weights(tiny_run, "best.ckpt"), weights(tmp_path / "run", "best.ckpt")
    assert all(torch.equal(theirs[k], ours[k]) for k in theirs)
    checkpoint = f"--checkpoint={tmp_path / 'run' / 'best.ckpt'}"
    scores = []
    for pack in ("auto", "off"):
        path = tmp_path / f"{pack}.json"
        options = [checkpoint, f"--json={path}", f"--data.pack={pack}", "--data.workers=0"]
        assert run(evaluate, "evaluate.py", options) == 0
        scores.append(json.loads(path.read_text())["classes"])
    assert scores[0] == scores[1]
    assert "read from files" in capsys.readouterr().out


@pytest.mark.camvid
def test_camvid_has_the_same_loss_curve(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("segcoord.training.loop.LOG_INTERVAL", 1)
    base = Path("VOCdevkit") / "VOC2012"
    lists = tmp_path / base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, count in (("train", 12), ("val", 1)):
        stems = (CAMVID / base / "ImageSets" / "Segmentation" / f"{name}.txt").read_text().split()
        (lists / f"{name}.txt").write_text("\n".join(stems[:count]))
    for name in ("JPEGImages", "SegmentationClass"):
        (tmp_path / base / name).symlink_to(CAMVID / base / name)
    steps = ["--train.max_steps=4", "--data.workers=2"]
    from_files = curve("camvid_os16.yaml", tmp_path, tmp_path / "files", *steps)
    options = [f"--config={ROOT / 'configs' / 'camvid_os16.yaml'}", f"--data.root={tmp_path}"]
    assert main(["data", "pack", *options, "--workers=2"]) == 0
    capsys.readouterr()
    assert curve("camvid_os16.yaml", tmp_path, tmp_path / "pack", *steps) == from_files
    assert "read from pack" in capsys.readouterr().out
    assert len(from_files) == 5  # 4 losses and a validation


# -- data.pack


def test_off_in_yaml_is_not_a_folder_named_false(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"base: {ROOT / 'configs' / 'sample.yaml'}\ndata:\n  pack: off\n")
    arguments = [f"--config={file}", f"--data.root={root}", f"--run={tmp_path / 'run'}", *SMALL]
    assert run(train, "train.py", [*arguments, "--train.max_steps=1"]) == 0
    assert "pack: 'off'" in (tmp_path / "run" / "config.yaml").read_text()
    assert run(train, "train.py", [f"--resume={tmp_path / 'run'}", "--data.pack=auto"]) == 0


def test_packs_in_another_folder(root: Path, tmp_path: Path, capsys) -> None:
    elsewhere = tmp_path / "fast" / "disk"
    assert "contains no pack" in refusal(root, pack=str(elsewhere))
    assert main(["data", "pack", *sample_config(root), f"--out={elsewhere}", "--split=train"]) == 0
    assert f"--data.pack {elsewhere}" in capsys.readouterr().out
    data = pack_config(root, pack=str(elsewhere))
    assert with_pack(find_split(data, "train"), data).pack.folder == elsewhere / "train"
    assert with_pack(find_split(data, "val"), data).pack is None
    assert with_pack(find_split(data, "train"), pack_config(root)).pack is None


def test_joined_splits_have_a_pack_and_a_score_of_their_own(root: Path, tiny_run: Path) -> None:
    assert main(["data", "pack", *sample_config(root), "--split=train+val"]) == 0
    data, report = pack_config(root), root.parent / "score.json"
    splits = [with_pack(find_split(data, name), data) for name in ("train+val", "train", "val")]
    assert [split.pack is not None for split in splits] == [True, False, False]
    assert len(splits[0]) == len(splits[1]) + len(splits[2])
    last, expected = splits[0].read(len(splits[0]) - 1), splits[2].read(len(splits[2]) - 1)
    for found, file in zip(last, expected):
        np.testing.assert_array_equal(found, file)
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", f"--data.root={root}"]
    arguments += ["--split=train+val", "--data.workers=0", f"--json={report}"]
    assert run(evaluate, "evaluate.py", arguments) == 0
    protocol = json.loads(report.read_text())["protocol"]
    assert protocol["split"] == "train+val"
    assert protocol["images"] == len(splits[0])
    assert protocol["pack"].endswith("/train+val")


# -- the check before training


def checked(split: Split) -> tuple:
    """Results of the check before training."""
    check = inspect_split(split)
    numbers = [check.pixels, check.images, check.pixels_where_present, check.void]
    return [np.array(n).tolist() for n in numbers], check.sizes, check.findings, check.unusable


def test_the_check_of_a_pack_finds_the_same_as_that_of_the_files(root: Path, monkeypatch) -> None:
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
    for name in ("read_header", "read_image"):
        monkeypatch.delattr(f"segcoord.data.image_io.{name}")  # no file is read again
    monkeypatch.delattr("segcoord.data.inspection.count_mask")
    assert checked(with_pack(split, pack_config(root))) == found
    assert checked(with_pack(packed_unlabelled(root), pack_config(root)))[0] == [[0] * 8] * 3 + [0]


def packed_unlabelled(root: Path) -> Split:
    shutil.rmtree(root / "VOCdevkit" / "VOC2012" / "SegmentationClass")
    return packed(root, "val")[0]


@pytest.mark.parametrize("value", [153, 3])
def test_damaged_masks_of_a_pack_are_refused_before_training(
    root: Path, tmp_path: Path, capsys, value: int
) -> None:
    """153 is an index out of range; 3 is a class, which would train wrongly without an error."""
    split, folder = packed(root)
    masks = np.memmap(folder / MASKS, np.uint8, "r+")
    masks[12288 * 5 : 12288 * 5 + 99] = value
    masks.flush()
    options = [f"--run={tmp_path / 'run'}", *SMALL, "--train.max_steps=1"]
    assert run(train, "train.py", [*sample_config(root), *options]) == 1
    errors = capsys.readouterr().err
    assert f"{split.samples[5].image}: its mask in {folder / MASKS} doesn't match" in errors
    assert "Remove the pack's folder and run segcoord data pack again" in errors
    assert not (tmp_path / "run").exists()


def test_damaged_masks_of_a_pack_are_not_scored(root: Path, tiny_run: Path, capsys) -> None:
    split, folder = packed(root, "val")
    flip_byte(folder / MASKS, 12288 * 2 + 5)
    checkpoint = [f"--checkpoint={tiny_run / 'best.ckpt'}", f"--data.root={root}"]
    assert run(evaluate, "evaluate.py", [*checkpoint, "--data.workers=0"]) == 1
    message = f"1 of 6 masks don't match their checksums ({split.samples[2].stem})"
    assert message in capsys.readouterr().err


# -- stale and damaged packs


def test_a_changed_file_makes_the_pack_stale_until_it_is_packed_again(root: Path, capsys) -> None:
    packed(root)
    image = sorted(images_of(root).iterdir())[3]
    later = image.stat().st_mtime_ns + 1
    os.utime(image, ns=(later, later))
    message = refusal(root)
    assert "not up to date: 1 of 16 samples changed since" in message
    assert str(image) in message
    assert "--data.pack off" in message
    command = ["data", "pack", *sample_config(root), "--split=train"]
    assert main([*command, "--verify"]) == 1
    assert main(command) == 0
    assert "1 of 16 samples changed since" in capsys.readouterr().out
    assert main([*command, "--verify"]) == 0
    assert main(command) == 0
    assert "is up to date" in capsys.readouterr().out


def test_other_classes_or_another_list_make_the_pack_stale(root: Path) -> None:
    packed(root)
    message = refusal(root, classes=CLASSES[:7], void_ids=[7])
    assert "with other classes" in message
    assert "segcoord data pack --out DIR" in message
    assert "--data.pack DIR" in message
    voc = root / "VOCdevkit" / "VOC2012"
    names = voc / "ImageSets" / "Segmentation" / "train.txt"
    stems = names.read_text().split()
    names.write_text("\n".join(reversed(stems)))
    assert "its list has another order" in refusal(root)
    names.write_text("\n".join([*stems[1:-1], "2026_500001"]))
    assert "1 images are new, the first 2026_500001 and 2 are gone" in refusal(root)
    names.write_text("\n".join(stems[1:]))
    assert f"1 are gone, the first {stems[0]}" in refusal(root)
    names.write_text("\n".join(stems))
    mask = voc / "SegmentationClass" / f"{stems[0]}.png"
    mask.write_bytes(mask.read_bytes() + b"\0")
    assert str(mask) in refusal(root)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shorten(f / IMAGES), "589823 bytes, expected 589824"),
        (lambda f: shorten(f / MASKS), "196607 bytes, expected 196608"),
        (lambda f: (f / MASKS).unlink(), "masks.u8: the pack is damaged: this file can't be read"),
        (lambda f: (f / INDEX).unlink(), "index.jsonl: the pack is damaged: No such file"),
        (lambda f: shorten(f / INDEX, 2), "truncated"),
        (lambda f: os.truncate(f / INDEX, 0), "truncated"),
        (lambda f: flip_byte(f / INDEX, 400), "its index doesn't match its checksum"),
        (lambda f: (f / INDEX).write_bytes(b"\x80PNG\n\xff\n"), "truncated or not an index"),
        (
            lambda f: (f / INDEX).write_text('{"format": "segcoord pack", "version": 9}\n{}\n'),
            "version 9; this version of segcoord reads 'segcoord pack', version 1",
        ),
    ],
)
def test_damage_is_reported_and_packing_again_repairs_it(root: Path, damage, message: str) -> None:
    split, folder = packed(root)
    damage(folder)
    error = refusal(root)
    assert message in error
    assert str(folder) in error
    assert "Run segcoord data pack again" in error
    assert main(["data", "pack", *sample_config(root), "--split=train"]) == 0
    assert same_pixels(with_pack(split, pack_config(root)), split)


@pytest.mark.parametrize(("name", "at"), [(IMAGES, 3 * 12288 * 5 + 7), (MASKS, 12288 * 5 + 7)])
def test_verify_finds_one_flipped_bit(root: Path, name: str, at: int) -> None:
    split, folder = packed(root)
    verify(open_pack(folder, split), split)
    flip_byte(folder / name, at)
    with pytest.raises(UserError, match="1 of 16 images don't match their checksums") as caught:
        verify(open_pack(folder, split), split)
    assert split.samples[5].stem in str(caught.value)


def test_an_unreadable_pack_is_an_error(root: Path, monkeypatch) -> None:
    _, folder = packed(root)
    stat = Path.stat

    def denied(self: Path, **options):
        if self == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", denied)
    assert "can't be read (Permission denied)" in refusal(root)


def test_a_pack_replaced_while_in_use_is_an_error(root: Path) -> None:
    split, folder = packed(root)
    opened, unopened = (open_pack(folder, split) for _ in range(2))
    before = opened[0][0].copy()
    write_pack(split, folder, workers=1)
    assert (opened[0][0] == before).all()  # what is mapped stays
    with pytest.raises(UserError, match="replaced while it was in use"):
        unopened[0]
