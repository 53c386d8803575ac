"""The trainaug split: which masks win, which images it has, errors for wrong trees and files."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from segcoord.cli.main import main
from segcoord.config.schema import DataConfig
from segcoord.data import voc_trainaug as trainaug
from segcoord.data.labels import VOC
from segcoord.data.layouts import find_split
from segcoord.data.mask_reader import read_mask_values
from segcoord.data.mask_writer import write_mask
from segcoord.data.voc_trainaug import PUBLISHED, make_trainaug, read_sbd
from segcoord.utils.errors import UserError

SIZE = (6, 9)  # (H, W)
LISTS = {
    "VOC train": ["voc_only", "voc_and_sbd"],
    "VOC val": ["val_only", "val_and_sbd_train", "val_and_sbd_val"],
    "SBD train": ["sbd_train", "voc_and_sbd", "val_and_sbd_train"],
    "SBD val": ["sbd_val", "val_and_sbd_val"],
}
OUT = ["sbd_train", "sbd_val", "voc_and_sbd", "voc_only"]
COUNTS = {which: len(names) for which, names in LISTS.items()} | {"trainaug": len(OUT)}


def ids_of(owner: str, stem: str) -> np.ndarray:
    """Ids that identify the owner and the image; only VOC has void."""
    stems = sorted({n for names in LISTS.values() for n in names})
    ids = np.full(SIZE, stems.index(stem) + (10 if owner == "SBD" else 1), np.uint8)
    ids[0] = 0
    if owner == "VOC":
        ids[:, 4] = 255
    return ids


def write_mat(path: Path, ids: object) -> None:
    """Write a file as in SBD's cls folder: sparse boundaries of 20 classes, ids, class list."""
    boundaries = np.empty((20, 1), dtype=object)
    for k in range(20):
        boundaries[k, 0] = csc_matrix(np.asarray(ids) == k + 1)
    present = np.setdiff1d(ids, [0]).astype(np.uint8)[:, None]
    fields = {"Boundaries": boundaries, "Segmentation": ids, "CategoriesPresent": present}
    savemat(path, {"GTcls": fields}, do_compression=True)


def write_list(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{n}\n" for n in names))


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    base = root / "VOCdevkit" / "VOC2012"
    (base / "JPEGImages").mkdir(parents=True)
    for stem in {n for names in LISTS.values() for n in names}:  # VOC 2012 has all of SBD's images
        Image.new("RGB", SIZE[::-1], (10, 200, 30)).save(base / "JPEGImages" / f"{stem}.jpg")
    for split in ("train", "val"):
        names = LISTS[f"VOC {split}"]
        write_list(base / "ImageSets" / "Segmentation" / f"{split}.txt", names)
        for stem in names:
            path = base / "SegmentationClass" / f"{stem}.png"
            write_mask(path, ids_of("VOC", stem), VOC, palette=True)
    return root


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    base = tmp_path / "sbd" / "benchmark_RELEASE" / "dataset"
    (base / "cls").mkdir(parents=True)
    (base / "img").mkdir()
    for split in ("train", "val"):
        names = LISTS[f"SBD {split}"]
        write_list(base / f"{split}.txt", names)
        for stem in names:
            write_mat(base / "cls" / f"{stem}.mat", ids_of("SBD", stem))
            (base / "img" / f"{stem}.jpg").touch()
    return tmp_path / "sbd"


def masks(voc: Path) -> dict[str, np.ndarray]:
    folder = voc / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    return {p.stem: read_mask_values(p) for p in sorted(folder.iterdir())}


def list_file(voc: Path) -> Path:
    return voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "trainaug.txt"


def mat_file(sbd: Path, stem: str) -> Path:
    return sbd / "benchmark_RELEASE" / "dataset" / "cls" / f"{stem}.mat"


def test_lists_must_have_the_published_lengths(voc, sbd) -> None:
    assert list(PUBLISHED.values()) == [1464, 1449, 8498, 2857, 10582]
    found = (
        r"found 2 in VOC train \(of 1464\), 3 in VOC val \(of 1449\), 3 in SBD train \(of 8498\)"
    )
    rest = (
        r", 2 in SBD val \(of 2857\), 4 in trainaug \(of 10582\)\. Download those that differ again"
    )
    with pytest.raises(UserError, match=found + rest):
        make_trainaug(voc, sbd)
    assert not list_file(voc).exists()


def test_voc_masks_win_and_val_images_are_excluded(voc, sbd, capsys) -> None:
    assert make_trainaug(voc, sbd, COUNTS) == list_file(voc)
    assert list_file(voc).read_text().split() == OUT  # nothing of val
    made = masks(voc)
    assert list(made) == OUT
    for stem, values in made.items():
        owner = "VOC" if stem in LISTS["VOC train"] else "SBD"
        assert (values == ids_of(owner, stem)).all(), stem
        assert (255 in values) == (owner == "VOC")
    out = capsys.readouterr().out
    assert "4 written" in out
    assert "4 images, none of them in val" in out


def test_masks_have_the_palette_of_voc(voc, sbd) -> None:
    make_trainaug(voc, sbd, COUNTS)
    base = voc / "VOCdevkit" / "VOC2012"
    with (
        Image.open(base / "SegmentationClassAug" / "sbd_val.png") as ours,
        Image.open(base / "SegmentationClass" / "voc_only.png") as theirs,
    ):
        assert ours.mode == theirs.mode == "P"
        assert ours.getpalette() == theirs.getpalette()


def test_the_split_loads_without_overlap_with_val(voc, sbd) -> None:
    make_trainaug(voc, sbd, COUNTS)
    data = DataConfig(layout="voc", root=str(voc))
    split, val = find_split(data, "trainaug"), find_split(data, "val")
    assert [s.stem for s in split.samples] == OUT
    assert all(s.mask.parent.name == "SegmentationClassAug" for s in split.samples)
    assert not {s.stem for s in split.samples} & {s.stem for s in val.samples}
    assert len(find_split(data, "train")) == 2


@pytest.mark.parametrize("voc_below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("sbd_below", ["", "benchmark_RELEASE", "benchmark_RELEASE/dataset"])
def test_any_folder_of_the_trees_is_accepted(voc, sbd, voc_below: str, sbd_below: str) -> None:
    make_trainaug(voc / voc_below, sbd / sbd_below, COUNTS)
    assert list(masks(voc)) == OUT


def test_a_second_run_writes_no_mask(voc, sbd, monkeypatch, capsys) -> None:
    make_trainaug(voc, sbd, COUNTS)
    monkeypatch.setattr(trainaug, "write_mask", None)
    make_trainaug(voc, sbd, COUNTS)
    assert "4 already written" in capsys.readouterr().out


def test_an_interrupted_run_continues(voc, sbd, monkeypatch, capsys) -> None:
    def interrupted(path: Path, *args: object, **kwargs: object) -> None:
        if path.stem == "voc_and_sbd":
            raise KeyboardInterrupt
        write_mask(path, *args, **kwargs)

    monkeypatch.setattr(trainaug, "write_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_trainaug(voc, sbd, COUNTS)
    assert "voc_and_sbd" not in masks(voc)
    assert not list_file(voc).exists()
    monkeypatch.undo()
    existing = len(masks(voc))
    make_trainaug(voc, sbd, COUNTS)
    assert f"{existing} already written, {4 - existing} written" in capsys.readouterr().out
    assert list(masks(voc)) == OUT


def test_damaged_and_different_masks_are_replaced(voc, sbd, capsys) -> None:
    make_trainaug(voc, sbd, COUNTS)
    good = masks(voc)
    folder = voc / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    cut = folder / "sbd_val.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    write_mask(folder / "voc_only.png", np.zeros(SIZE, np.uint8), VOC, palette=True)
    make_trainaug(voc, sbd, COUNTS)
    assert "2 already written, 2 different and replaced" in capsys.readouterr().out
    assert all((good[stem] == values).all() for stem, values in masks(voc).items())


def cut_mat(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def scribbled_mat(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[150:400] = bytes(250)
    path.write_bytes(content)


STRANGE_MATS = {
    "cut": (cut_mat, r"damaged, or not from SBD's cls folder"),
    "scribbled": (scribbled_mat, r"damaged, or not from SBD's cls folder"),
    "empty": (lambda p: p.write_bytes(b""), r"damaged, or not from SBD's cls folder"),
    "html": (lambda p: p.write_text("<html>" * 99), r"damaged, or not from SBD's cls folder"),
    "inst": (
        lambda p: savemat(p, {"GTinst": {"Segmentation": np.ones(SIZE, np.uint8)}}),
        r"KeyError: 'GTcls'.*expected a struct GTcls with a field Segmentation",
    ),
    "no field": (
        lambda p: savemat(p, {"GTcls": {"Boundaries": np.ones(SIZE)}}),
        r"expected a struct GTcls with a field Segmentation",
    ),
    "text": (lambda p: savemat(p, {"GTcls": "a" * 9}), r"expected a struct GTcls with a field"),
    "doubles": (
        lambda p: write_mat(p, np.ones(SIZE)),
        r"is float64 of shape \(6, 9\), expected ui",
    ),
    "cube": (lambda p: write_cube(p), r"is uint8 of shape \(6, 9, 3\), expected uint8 of \(height"),
    "id": (lambda p: write_mat(p, np.full(SIZE, 21, np.uint8)), r"the ids 21, expected 0 to 20"),
    "void": (lambda p: write_mat(p, np.full(SIZE, 255, np.uint8)), r"the ids 255, expected 0 to"),
    "transposed": (
        lambda p: write_mat(p, np.ones(SIZE[::-1], np.uint8)),
        r"the mask is 6x9 \(width x height\), its image 9x6; they must agree",
    ),
}


def write_cube(path: Path) -> None:
    savemat(path, {"GTcls": {"Segmentation": np.ones((*SIZE, 3), np.uint8)}})


@pytest.mark.parametrize(("spoil", "message"), STRANGE_MATS.values(), ids=STRANGE_MATS)
def test_a_strange_mat_is_named_and_there_is_no_list(voc, sbd, spoil, message, recwarn) -> None:
    path = mat_file(sbd, "sbd_val")
    spoil(path)
    with pytest.raises(UserError, match=message) as caught:
        make_trainaug(voc, sbd, COUNTS)
    assert f"{path}: " in str(caught.value)
    message = "1 of 4 masks can't be made, so trainaug.txt was not written (3 written)"
    assert message in str(caught.value)
    assert not list_file(voc).exists()
    assert "sbd_val" not in masks(voc)
    assert not recwarn.list


def test_ids_equal_those_that_scipy_reads(sbd) -> None:
    path = mat_file(sbd, "sbd_val")
    struct = loadmat(path)["GTcls"]
    assert set(struct.dtype.names) == {"Boundaries", "Segmentation", "CategoriesPresent"}
    assert struct[0]["Boundaries"][0][19][0].shape == SIZE
    assert (struct[0]["Segmentation"][0] == read_sbd(path)).all()


def test_voc_masks_are_checked(voc, sbd) -> None:
    path = voc / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "voc_only.png"
    Image.fromarray(np.full(SIZE, 77, np.uint8)).save(path)
    with pytest.raises(UserError, match=r"voc_only\.png: mask values 77"):
        make_trainaug(voc, sbd, COUNTS)


def test_a_damaged_image_is_named(voc, sbd) -> None:
    (voc / "VOCdevkit" / "VOC2012" / "JPEGImages" / "sbd_val.jpg").write_bytes(b"no jpeg")
    with pytest.raises(UserError, match=r"sbd_val\.jpg: can't be read as an image"):
        make_trainaug(voc, sbd, COUNTS)


def test_images_that_only_sbd_has_are_named(voc, sbd) -> None:
    (voc / "VOCdevkit" / "VOC2012" / "JPEGImages" / "sbd_val.jpg").unlink()
    with pytest.raises(
        UserError, match=r"JPEGImages: 1 files .* \(sbd_val\.jpg\).* VOC 2012's JPEG"
    ):
        make_trainaug(voc, sbd, COUNTS)
    assert not (voc / "VOCdevkit" / "VOC2012" / "SegmentationClassAug").exists()


def test_missing_mats_are_named(voc, sbd) -> None:
    mat_file(sbd, "sbd_train").unlink()
    with pytest.raises(
        UserError, match=r"cls: 1 files of the split are missing \(sbd_train\.mat\)"
    ):
        make_trainaug(voc, sbd, COUNTS)


def test_wrong_trees_are_reported(voc, sbd, tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"--sbd .*/none lacks cls.* \(no such folder\)\. Expected a"
    ):
        make_trainaug(voc, tmp_path / "none", COUNTS)
    with pytest.raises(UserError, match=r"--sbd .* lacks cls.* \(found VOCdevkit\)"):
        make_trainaug(voc, voc, COUNTS)
    with pytest.raises(UserError, match=r"--voc .* lacks JPEGImages.* \(found benchmark_RELEASE\)"):
        make_trainaug(sbd, sbd, COUNTS)
    shutil.rmtree(voc / "VOCdevkit" / "VOC2012" / "SegmentationClass")
    with pytest.raises(UserError, match=r"VOC2012 lacks SegmentationClass \(found ImageSets, JPEG"):
        make_trainaug(voc, sbd, COUNTS)


def test_a_name_that_leaves_the_folder_is_refused(voc, sbd) -> None:
    write_list(sbd / "benchmark_RELEASE" / "dataset" / "val.txt", ["../../evil", "sbd_val"])
    with pytest.raises(UserError, match=r"val\.txt:1: '\.\./\.\./evil' is not a plain file name"):
        make_trainaug(voc, sbd, COUNTS)


def test_a_disk_that_is_too_small_is_refused_before_writing(voc, sbd, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(
        UserError, match=r"SegmentationClassAug: found 1 bytes? of free disk .* for 4 masks"
    ):
        make_trainaug(voc, sbd, COUNTS)
    assert not (voc / "VOCdevkit" / "VOC2012" / "SegmentationClassAug").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_tree_is_reported(voc, sbd) -> None:
    base = voc / "VOCdevkit" / "VOC2012"
    base.chmod(0o555)
    with pytest.raises(UserError, match=r"could not be written \(Permission denied\)"):
        make_trainaug(voc, sbd, COUNTS)
    base.chmod(0o755)


def test_the_command_checks_the_published_lengths_and_its_options(voc, sbd, capsys) -> None:
    assert main(["data", "trainaug", f"--voc={voc}", f"--sbd={sbd}"]) == 1
    assert "4 in trainaug (of 10582)" in capsys.readouterr().err
    assert main(["data", "trainaug", f"--voc={voc}"]) == 1
    assert "sbd" in capsys.readouterr().err
