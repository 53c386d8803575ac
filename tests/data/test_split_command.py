"""`segcoord data split`: its lists, its guarantees, its output and its errors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import CAMVID, ROOT
from PIL import Image

from segcoord.cli.main import main
from segcoord.config.schema import DataConfig
from segcoord.data.layouts import find_all, find_split

SIZES = {"a": 12, "b": 4, "c": 3, "d": 5, "e": 4, "f": 2}
DRIVE = r"--group=^(\w)_"
THREE = "--fractions=0.6,0.2,0.2"


def write_drives(root: Path, sizes: dict[str, int] = SIZES, alike: bool = False) -> Path:
    """Photos and labels of drives; only drive b has the third class.

    The frames of a drive look alike on request.
    """
    rng = np.random.default_rng(0)
    for folder in ("photos", "labels"):
        (root / folder).mkdir(parents=True)
    for drive, size in sizes.items():
        base = rng.integers(20, 236, (24, 34, 3))
        for frame in range(size):
            noise = rng.integers(-2, 3, base.shape)
            image = base + noise if alike else rng.integers(0, 256, base.shape)
            Image.fromarray(image.astype(np.uint8)).save(
                root / "photos" / f"{drive}_{frame:02}.png"
            )
            mask = np.zeros((24, 34), np.uint8)
            mask[:8] = 1 if frame % 2 else 255
            mask[8:9] = 2 if drive == "b" else 0
            Image.fromarray(mask).save(root / "labels" / f"{drive}_{frame:02}.png")
    return write_config(root)


def write_config(root: Path, **settings: object) -> Path:
    """The configuration of the drives, beside their folder."""
    data = {"layout": "folder", "root": str(root), "images": "photos", "masks": "labels"}
    data |= {"classes": ["road", "car", "sign"], "crop_size": 32, **settings}
    path = root.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({"data": data}))
    return path


def read_config(path: Path, **settings: object) -> DataConfig:
    data = DataConfig(**{**yaml.safe_load(path.read_text())["data"], **settings})
    data.check()
    return data


def divide(config: Path, *options: str) -> int:
    out = f"--out={config.with_suffix('') / 'lists'}"
    return main(["data", "split", f"--config={config}", out, *options])


def printed_settings(text: str) -> dict:
    return yaml.safe_load(text.partition("put these lines into the config:\n\n")[2])["data"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_drives(tmp_path / "data")


def test_drives_and_copies_never_straddle_and_the_printed_settings_read_the_lists(
    config: Path, capsys
) -> None:
    root = config.with_suffix("")
    Image.open(root / "photos" / "a_03.png").save(root / "photos" / "f_99.bmp")
    shutil.copy(root / "labels" / "a_03.png", root / "labels" / "f_99.png")
    assert divide(config, THREE, DRIVE) == 0
    printed = capsys.readouterr().out
    assert "duplicate images in a split" in printed
    assert "Both are in the same part." in printed
    settings = printed_settings(printed)
    assert settings == {"lists": "lists/{split}.txt", "train_split": "train", "val_split": "val"}
    data = read_config(config, **settings)
    part_of = {}
    for name in ("train", "val", "test"):
        samples = find_split(data, name).samples
        assert 2 <= len(samples) <= 22
        for sample in samples:
            assert sample.mask == root / "labels" / f"{sample.stem}.png"
            assert part_of.setdefault(sample.stem[0], name) == name
    assert part_of["a"] == part_of["f"] == "train"
    assert {s.stem for s in find_all(data).samples} == {
        line.split("\t")[0].removeprefix("photos/").rpartition(".")[0]
        for file in (root / "lists").iterdir()
        for line in file.read_text().splitlines()
    }
    checked = write_config(root, **settings)
    assert main(["data", "check", f"--config={checked}"]) == 0
    assert "across splits" not in capsys.readouterr().out


def test_table_has_images_groups_and_the_share_of_each_class(config: Path, capsys) -> None:
    assert divide(config, "--fractions=0.6,0.4", DRIVE, "--names=train,test") == 0
    lines = [line.split() for line in capsys.readouterr().out.strip().splitlines() if line]
    rows = {line[0]: line[1:] for line in lines}
    assert lines[0] == ["all", "train", "test"]
    total, train, percent, _, test, *_ = rows["images"]
    assert (int(total), int(train) + int(test)) == (30, 30)
    assert percent == f"({100 * int(train) / 30:.1f}"
    assert int(rows["groups"][0]) == int(rows["groups"][1]) + int(rows["groups"][2]) == 6
    assert rows["road"][0] == "30"
    assert sorted(rows["sign"]) == ["%", "100.0", "4", "absent"]


def test_lists_are_the_same_again_and_are_replaced_only_on_request(config: Path, capsys) -> None:
    lists = config.with_suffix("") / "lists"
    assert divide(config, THREE, DRIVE) == 0
    first = {file.name: file.read_text() for file in lists.iterdir()}
    assert [*sorted(first)] == ["test.txt", "train.txt", "val.txt"]
    assert divide(config, THREE, "--seed=1") == 1
    assert "train.txt exists already; choose another folder, or" in capsys.readouterr().err
    assert {file.name: file.read_text() for file in lists.iterdir()} == first
    assert divide(config, THREE, DRIVE, "--replace") == 0
    assert {file.name: file.read_text() for file in lists.iterdir()} == first
    capsys.readouterr()
    assert divide(config, "--fractions=0.5,0.5", "--seed=1", "--replace") == 0
    assert "also contains test.txt: don't use" in " ".join(capsys.readouterr().out.split())
    assert (lists / "train.txt").read_text() != first["train.txt"]


def test_interrupted_replacement_leaves_no_lists_of_two_splits(
    config: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert divide(config, THREE) == 0
    rename = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if target.name == "val.txt":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    assert divide(config, THREE, "--seed=1", "--replace") == 1
    assert "val.txt: could not be written (No space left" in capsys.readouterr().err
    assert [f.name for f in (config.with_suffix("") / "lists").iterdir()] == ["test.txt"]


def test_frames_that_look_alike_are_reported_unless_groups_keep_them_together(
    tmp_path: Path, capsys
) -> None:
    config = write_drives(tmp_path / "data", alike=True)
    assert divide(config, THREE) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning, train and val: images that look alike in two splits (" in printed
    assert "keep them together with --group" in printed
    assert divide(config, THREE, DRIVE, "--replace") == 0
    assert "look alike" not in capsys.readouterr().out


def test_flat_images_are_not_reported_as_alike(tmp_path: Path, capsys) -> None:
    config = write_drives(tmp_path / "data")
    for number, path in enumerate(sorted((tmp_path / "data" / "photos").iterdir())):
        image = np.full((24, 34, 3), 200, np.uint8)
        image[number % 20 : number % 20 + 2, number // 2 : number // 2 + 2] = 0
        Image.fromarray(image).save(path)
    assert divide(config, THREE) == 0
    assert "look alike" not in capsys.readouterr().out


def test_split_folders_are_divided_anew(config: Path, capsys) -> None:
    """The lists name the images in the folders of both splits."""
    root = config.with_suffix("")
    for path in sorted(root.glob("*/*.png")):
        split = "val" if path.stem[0] in "ab" else "train"
        target = root / path.parent.name / split / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    config = write_config(root, images="photos/{split}", masks="labels/{split}")
    assert divide(config, "--fractions=0.75,0.25", DRIVE) == 0
    data = read_config(config, **printed_settings(capsys.readouterr().out))
    train, val = (find_split(data, name).samples for name in ("train", "val"))
    assert len(train) + len(val) == 30
    assert {s.image.parent.name for s in train} == {"train", "val"}
    only = [f"--out={root / 'train_lists'}", "--split=train", "--fractions=0.5,0.5"]
    assert main(["data", "split", f"--config={config}", *only]) == 0
    assert "images 14 7" in " ".join(capsys.readouterr().out.split())


def test_default_folders_and_a_fraction_in_the_configuration(config: Path, capsys) -> None:
    root = config.with_suffix("")
    (root / "photos").rename(root / "images")
    (root / "labels").rename(root / "masks")
    config = write_config(root, images=None, masks=None, val_fraction=0.2, split_seed=3)
    assert divide(config, THREE, "--names=fit,tune,final") == 0
    settings = printed_settings(capsys.readouterr().out)
    assert settings["train_split"] == "fit" and settings["val_split"] == "tune"
    data = read_config(config, **settings)
    assert sum(len(find_split(data, name)) for name in ("fit", "tune", "final")) == 30


def test_voc_tree_without_its_lists(sample_voc: Path, tmp_path: Path, capsys) -> None:
    settings = [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={sample_voc}"]
    lists = tmp_path / "lists"
    options = [f"--out={lists}", "--fractions=0.5,0.25,0.25"]
    assert main(["data", "split", *settings, *options]) == 0
    assert printed_settings(capsys.readouterr().out)["lists"] == f"{lists}/{{split}}.txt"
    sample = yaml.safe_load((ROOT / "configs" / "sample.yaml").read_text())["data"]
    data = DataConfig(**{**sample, "root": str(sample_voc), "lists": f"{lists}/{{split}}.txt"})
    sizes = [len(find_split(data, name)) for name in ("train", "val", "test")]
    assert sizes[0] == 11 and sum(sizes) == 22


def damage_mask(root: Path) -> None:
    path = root / "labels" / "a_00.png"
    path.write_bytes(path.read_bytes()[:60])


def test_unusable_images_are_an_error_or_left_out(config: Path, capsys) -> None:
    damage_mask(config.with_suffix(""))
    assert divide(config, THREE) == 1
    error = capsys.readouterr().err
    assert "1 of 30 samples can't be used" in error and "a_00.png" in error
    assert divide(config, THREE, "--data.skip_bad=true") == 0
    printed = capsys.readouterr().out
    assert "1 of 30 samples left out (data.skip_bad)" in printed
    lists = (config.with_suffix("") / "lists").iterdir()
    assert "a_00" not in "".join(file.read_text() for file in lists)


def every_mask(root: Path, value: int) -> None:
    for path in (root / "labels").iterdir():
        Image.new("L", (34, 24), value).save(path)


BREAK: dict[str, tuple[Callable[[Path], object], str]] = {
    "an image without a mask": (
        lambda root: (root / "labels" / "a_00.png").unlink(),
        "has no mask; 1 of 30 images in split 'all' have no mask.",
    ),
    "no masks": (
        lambda root: shutil.rmtree(root / "labels"),
        "none of the 30 images in",
    ),
    "only void": (lambda root: every_mask(root, 255), "has only void in its masks"),
    "an unknown class": (lambda root: every_mask(root, 9), "mask values 9"),
    "no images": (lambda root: shutil.rmtree(root / "photos"), "no such folder"),
    "a name with a tab": (
        lambda root: [
            path.rename(path.with_name("a\tb.png")) for path in sorted(root.glob("*/a_00.png"))
        ],
        "contains a tab, a line break",
    ),
    "lists is a file": (lambda root: (root / "lists").write_text(""), "is not a folder"),
}


@pytest.mark.parametrize("case", BREAK)
def test_unsuitable_data_is_an_error(case: str, config: Path, capsys) -> None:
    damage, message = BREAK[case]
    damage(config.with_suffix(""))
    assert divide(config, THREE) == 1
    output = capsys.readouterr()
    assert message in " ".join(output.err.split())
    assert "Traceback" not in output.err + output.out
    assert not (config.with_suffix("") / "lists").is_dir()


OPTIONS = {
    ("--fractions=0.8,0.1",): "fractions: found 0.8, 0.1, whose sum is 0.9",
    ("--fractions=1",): "fractions: found 1, whose sum is 1; expected two or more",
    ("--fractions=1,0",): "expected two or more numbers above 0",
    ("--fractions=most,few",): "--fractions: found 'most,few', expected numbers",
    (): "missing, but required: fractions",
    (THREE, "--names=a,b"): "--names: found 'a,b', expected 3 different names",
    (THREE, "--names=a,b,b"): "expected 3 different names",
    (THREE, "--names=a,b,../c"): "without folders, + or a dot in front",
    ("--fractions=0.25,0.25,0.25,0.25",): "--names: found none, expected 4 different names",
    (THREE, "--group=(a"): "group pattern: found '(a', wrong at character 1",
    (THREE, "--group=^a_"): "finds no group in 18 of 30 names: 'b_00'",
    (THREE, "--group=_"): "found 1 (_), expected at least 3, one for each part",
    (THREE, "--seed=x"): "--seed: found x, expected an integer",
    (THREE, "--split=none"): "data.images: found 'photos', expected a path that contains {split}",
    (THREE, "--data.root=gone"): "gone: no such folder (data.root)",
    (THREE, "--data.layout=cityscapes", "--data.classes=null"): "data.images: found photos",
}


@pytest.mark.parametrize("options", OPTIONS)
def test_wrong_options_are_errors(options: tuple[str, ...], config: Path, capsys) -> None:
    assert divide(config, *options) == 1
    output = capsys.readouterr()
    assert OPTIONS[options] in " ".join(output.err.split())
    assert "Traceback" not in output.err + output.out
    assert not (config.with_suffix("") / "lists").exists()


def test_cityscapes_has_splits_of_its_own(sample_cityscapes: Path, tmp_path: Path, capsys) -> None:
    settings = ["--data.layout=cityscapes", f"--data.root={sample_cityscapes}"]
    assert main(["data", "split", *settings, f"--out={tmp_path / 'lists'}", THREE]) == 1
    assert "found cityscapes, whose folders make its splits" in capsys.readouterr().err


@pytest.mark.camvid
def test_camvid_by_drive(tmp_path: Path, capsys) -> None:
    """The example in docs/split.md."""
    config = f"--config={ROOT / 'configs' / 'camvid_os16.yaml'}"
    options = [f"--out={tmp_path}", "--fractions=0.8,0.1,0.1", "--group=^([^_]+)_"]
    assert main(["data", "split", config, f"--data.root={CAMVID}", *options]) == 0
    printed = capsys.readouterr().out
    drives = [
        {Path(line).name[:6] for line in (tmp_path / f"{name}.txt").read_text().splitlines()}
        for name in ("train", "val", "test")
    ]
    assert drives[0] == {"0016E5"}
    assert sorted(map(sorted, drives[1:])) == [["0001TP"], ["0006R0"]]
    assert "images" in printed and "look alike" not in printed
