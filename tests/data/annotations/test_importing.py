"""`segcoord data import` from a folder to a dataset that trains."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from export_files import box, import_to, labelme, mask_of, names_in, photo, shape
from helpers import SMALL
from PIL import Image

from segcoord.cli.main import main
from segcoord.config.loading import read_yaml
from segcoord.data.annotations import importing
from segcoord.data.annotations.convert import convert

CAR, DOG = shape("car", box(0, 0, 30, 20)), shape("dog", box(40, 10, 60, 40))


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Six photos of 60x40 with a car and a dog each, and one without annotation."""
    folder = tmp_path / "export"
    for number in range(6):
        photo(folder / f"{number}.jpg")
        labelme(folder / f"{number}.json", CAR, DOG)
    photo(folder / "new.jpg")
    return folder


def config(out: Path) -> dict:
    return read_yaml(out / "config.yaml")


def test_an_export_becomes_a_dataset_that_trains(export: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "data"
    assert import_to(out, export) == 0
    printed = capsys.readouterr().out
    assert "labelme JSON: 6 JSON files, such as 0.json with shapes" in printed
    assert "6 images: train 5, val 1" in printed
    assert "unlabelled pixels: 50.00 %, now class 'background'" in printed
    assert "images without annotation: left out" in printed
    assert f"Train: segcoord train --config {out / 'config.yaml'}" in printed
    expected = np.zeros((40, 60), np.uint8)
    expected[:20, :30], expected[10:, 40:] = 1, 2
    for number in range(6):
        assert np.array_equal(mask_of(out, f"{number}"), expected)
        copied = (out / "JPEGImages" / f"{number}.jpg").read_bytes()
        assert copied == (export / f"{number}.jpg").read_bytes()
    assert sorted(names_in(out, "train") + names_in(out, "val")) == list("012345")
    data = config(out)["data"]
    assert [c["name"] for c in data["classes"]] == ["background", "car", "dog"]
    palette = Image.open(out / "SegmentationClass" / "0.png").getpalette()
    assert palette[3:9] == data["classes"][1]["color"] + data["classes"][2]["color"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "export"]
    option = f"--config={out / 'config.yaml'}"
    assert main(["data", "check", option]) == 0
    run = ["train", option, f"--run={tmp_path / 'run'}", "--train.max_steps=1", *SMALL]
    assert main(run) == 0


def test_nothing_is_overwritten_without_replace(export: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "data"
    assert import_to(out, export) == 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert import_to(out, export) == 1
    assert "exists already. Choose another folder, or replace it with" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    (out / "notes.txt").touch()
    assert import_to(out, export, "--replace") == 1
    assert "contains 'notes.txt', which no import wrote" in capsys.readouterr().err
    assert (out / "notes.txt").exists()
    (out / "notes.txt").unlink()
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.partition("\n")[2])
    assert import_to(out, export, "--replace") == 1
    assert "so no import wrote this dataset" in capsys.readouterr().err
    assert (out / "JPEGImages").is_dir()
    for wrong in (export, export / "data", tmp_path):
        assert import_to(wrong, export, "--replace") == 1
    assert len([*export.iterdir()]) == 13


def test_classes_keep_their_ids_when_more_is_imported(export: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "data"
    assert import_to(out, export) == 0
    photo(export / "6.jpg")
    labelme(export / "6.json", shape("bus", box(0, 0, 30, 20)), DOG)
    for number in range(6):
        labelme(export / f"{number}.json", DOG)
    capsys.readouterr()
    assert import_to(out, export, "--replace") == 0
    names = [c["name"] for c in config(out)["data"]["classes"]]
    assert names == ["background", "car", "dog", "bus"]
    assert set(np.unique(mask_of(out, "6"))) == {0, 2, 3}
    printed = capsys.readouterr().out
    assert "classes of the dataset before, which the export lacks: car" in printed
    assert "classes without a pixel, kept: car" in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "export"]


def test_classes_void_and_images_without_annotation(export: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "data"
    options = ["--unlabelled=void", "--classes", "dog,car=animal", "--unannotated=keep"]
    assert import_to(out, export, *options) == 1
    assert "--unannotated keep: with --unlabelled void" in capsys.readouterr().err
    assert import_to(out, export, "--unannotated=keep", "--classes", "dog") == 0
    assert not mask_of(out, "new").any()
    assert np.unique(mask_of(out, "0")).tolist() == [0, 1]
    assert "classes that --classes leaves out, now unlabelled: car" in capsys.readouterr().out
    assert import_to(tmp_path / "void", export, "--unlabelled=void") == 0
    assert np.unique(mask_of(tmp_path / "void", "0")).tolist() == [0, 1, 255]


def test_bad_images_are_listed_and_left_out_on_request(
    export: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "data"
    (export / "1.jpg").write_bytes((export / "1.jpg").read_bytes()[:-300])
    photo(export / "2.jpg", (20, 32))
    (export / "3.json").write_text((export / "3.json").read_text()[:100])
    assert import_to(out, export) == 1
    printed = capsys.readouterr().out
    assert "3 of 6 images can't be imported; nothing was written to" in printed
    assert "the annotation is for 60x40 pixels (width x height), but its image 2.jpg has 32x20" in (
        printed
    )
    assert "Roboflow" in printed
    assert "1.jpg: truncated or damaged" in printed
    assert "3.json: JSON that is cut short" in printed
    assert not out.exists()
    assert import_to(out, export, "--skip-bad") == 0
    printed = capsys.readouterr().out
    assert "continuing: 3 of 6 images were done before" in printed
    assert "images that can't be used: left out (--skip-bad): 3" in printed
    assert sorted(p.name for p in (out / "JPEGImages").iterdir()) == ["0.jpg", "4.jpg", "5.jpg"]


def test_an_interrupted_import_continues(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    out, converted = tmp_path / "data", []

    def interrupted(job, record):
        if len(converted) == 4:
            raise KeyboardInterrupt
        converted.append(record.name)
        return convert(job, record)

    monkeypatch.setattr(importing, "convert", interrupted)
    assert import_to(out, export) == 130
    assert not out.exists()
    part = tmp_path / ".data.part"
    journal = part / "done.jsonl"
    journal.write_text(journal.read_text()[:-10])  # killed while it wrote the fourth line
    (part / "SegmentationClass" / "1.png").write_bytes(b"")  # lost in a power cut
    monkeypatch.setattr(importing, "convert", lambda job, record: convert(job, record))
    assert import_to(out, export) == 0
    printed = capsys.readouterr().out
    assert "continuing: 2 of 6 images were done before" in printed
    assert "unlabelled pixels: 50.00 %" in printed
    assert mask_of(out, "1").any()
    assert sorted(p.name for p in out.iterdir()) == [
        "ImageSets",
        "JPEGImages",
        "SegmentationClass",
        "config.yaml",
    ]


def test_a_changed_source_starts_from_the_beginning(export: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "data"
    (export / "1.jpg").unlink()
    assert import_to(out, export) == 1
    labelme(export / "0.json", DOG)
    photo(export / "1.jpg")
    capsys.readouterr()
    assert import_to(out, export) == 0
    assert "the source or the options changed: starting from" in capsys.readouterr().out
    assert np.unique(mask_of(out, "0")).tolist() == [0, 2]


@pytest.mark.parametrize("orientation", [3, 6, 8])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_photos_that_viewers_turn_are_written_upright(
    orientation: int, suffix: str, tmp_path: Path, capsys
) -> None:
    """The annotation is drawn on the turned photo, of which a corner is marked."""
    export, out = tmp_path / "export", tmp_path / "data"
    stored = photo(export / f"a{suffix}", (40, 60), orientation)
    size = (40, 60) if orientation == 3 else (60, 40)
    labelme(export / "a.json", shape("car", box(0, 0, 12, 8)), image=stored.name, size=size)
    photo(export / f"b{suffix}", (40, 60), orientation)
    labelme(export / "b.json", shape("car", box(0, 0, 12, 8)), image=f"b{suffix}", size=size)
    assert import_to(out, export) == 0
    assert "photos turned upright, as their EXIF orientation says: 2" in capsys.readouterr().out
    mask = mask_of(out, "a")
    assert mask.shape == size and (mask[:8, :12] == 1).all() and mask.sum() == 96
    written = Image.open(out / "JPEGImages" / f"a{suffix}")
    assert written.getexif().get(0x0112, 1) == 1
    turns = {3: Image.ROTATE_180, 6: Image.ROTATE_270, 8: Image.ROTATE_90}
    expected = np.array(Image.open(stored).transpose(turns[orientation]), int)
    assert np.abs(np.array(written, int) - expected).mean() < (4 if suffix == ".jpg" else 0.01)


def test_an_annotation_of_the_stored_pixels_is_turned_with_the_photo(
    tmp_path: Path, capsys
) -> None:
    export, out = tmp_path / "export", tmp_path / "data"
    for name in ("a", "b"):
        photo(export / f"{name}.jpg", (40, 60), 6)
        labelme(export / f"{name}.json", shape("car", box(0, 0, 12, 8)), size=(40, 60))
    assert import_to(out, export) == 0
    assert "refers to the stored pixels, before the EXIF orientation: 2" in capsys.readouterr().out
    mask = mask_of(out, "a")
    assert mask.shape == (60, 40) and (mask[:12, -8:] == 1).all() and mask.sum() == 96


def test_embedded_images_keep_their_bytes(tmp_path: Path) -> None:
    export, out = tmp_path / "export", tmp_path / "data"
    raw = {}
    for name in ("a.jpg", "b.png"):
        raw[name] = photo(tmp_path / name).read_bytes()
        labelme(export / f"{name[0]}.json", CAR, image=name, data=raw[name])
    assert import_to(out, export) == 0
    assert {p.name: p.read_bytes() for p in (out / "JPEGImages").iterdir()} == raw


def test_splits_and_groups(tmp_path: Path, capsys) -> None:
    export, out = tmp_path / "export", tmp_path / "data"
    for sequence in range(8):
        for frame in range(2):
            name = f"seq{sequence}_{frame}"
            photo(export / f"{name}.jpg")
            labelme(export / f"{name}.json", CAR if sequence % 2 else DOG)
    options = ["--split=0.5,0.25,0.25", "--group=seq\\d+", "--link"]
    assert import_to(out, export, *options) == 0
    parts = [names_in(out, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [8, 4, 4]
    groups = [{name[:4] for name in part} for part in parts]
    assert not groups[0] & groups[1] and not groups[1] & groups[2] and not groups[0] & groups[2]
    assert (out / "JPEGImages" / "seq0_0.jpg").samefile(export / "seq0_0.jpg")
    capsys.readouterr()
    for option, message in (
        ("--split=0.5,0.6", "--split: found '0.5,0.6', expected the fractions"),
        ("--group=(", "--group: found '(', expected a regular expression"),
        ("--overlap=top", "--overlap: found 'top', expected order or smaller or last or error"),
        ("--workers=0", "--workers: found 0, expected 1 or more"),
        ("--format=coko", "--format: found 'coko'; did you mean coco?"),
    ):
        assert import_to(tmp_path / "other", export, option) == 1
        assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "export"]


def test_a_zip_file_with_several_processes(export: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path, "export")
    out = tmp_path / "new" / "data"
    assert import_to(out, Path(archive), "--workers=2") == 0
    assert len([*(out / "JPEGImages").iterdir()]) == 6
    assert [p.name for p in out.parent.iterdir()] == ["data"]


def test_folders_of_voc_and_cityscapes_train_as_they_are(
    sample_voc: Path, sample_cityscapes: Path, tmp_path: Path, capsys
) -> None:
    for root, layout in ((sample_voc, "voc"), (sample_cityscapes, "cityscapes")):
        assert import_to(tmp_path / "data", root) == 1
        error = capsys.readouterr().err
        assert "train as they are, without import" in error
        assert f"layout: {layout}" in error
    assert not [*tmp_path.iterdir()]


def test_an_export_without_shapes_says_what_it_has(tmp_path: Path, capsys) -> None:
    photo(tmp_path / "export" / "a.jpg")
    labelme(tmp_path / "export" / "a.json", shape("car", [[1, 1]], "point"))
    assert import_to(tmp_path / "data", tmp_path / "export") == 1
    error = capsys.readouterr().err
    assert "labelme JSON without an annotated shape; nothing was written. Left out: " in error
    assert "point" in error


def test_images_and_names_that_can_not_be_used(tmp_path: Path, capsys) -> None:
    export = tmp_path / "export"
    for name in ("a", "b", "c"):
        photo(export / f"{name}.jpg")
        labelme(export / f"{name}.json", CAR)
    labelme(export / "again.json", CAR, image="a.jpg")
    photo(export / " c.jpg")
    labelme(export / " c.json", CAR, image=" c.jpg")
    assert import_to(tmp_path / "data", export) == 1
    printed = capsys.readouterr().out
    assert "a.jpg: is annotated twice, in" in printed
    assert "the image name ' c' would leave the dataset, be hidden, or can't be listed" in printed
    assert import_to(tmp_path / "data", export, "--skip-bad") == 0
    names = {path.stem for path in (tmp_path / "data" / "JPEGImages").iterdir()}
    assert names == {"b", "c"}  # which of the two annotations of a is right is not known
