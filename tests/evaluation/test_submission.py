"""Submission archives, read with the official tools."""

from __future__ import annotations

import io
import resource
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import getPrediction
from cityscapesscripts.helpers.csHelpers import getCsFileInfo
from cityscapesscripts.helpers.labels import id2label
from PIL import Image

import segcoord
from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import run
from segcoord.config.schema import DataConfig
from segcoord.data.labels import CITYSCAPES, CITYSCAPES_TRAIN_IDS, VOC, numbered_labels
from segcoord.data.layouts import find_split
from segcoord.data.split import Sample, Split
from segcoord.evaluation.submission import check_server, server_archive
from segcoord.utils.errors import UserError

FRAMES = ("berlin_000000_000019", "berlin_000001_000019", "bielefeld_000000_000321")


def voc_test(root: Path) -> list[str]:
    """VOC's test split of three images without masks; returns their stems."""
    folder = root / "VOCdevkit" / "VOC2012"
    (folder / "JPEGImages").mkdir(parents=True)
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    (folder / "SegmentationClass").mkdir()  # of trainval, in the same tree
    Image.new("P", (9, 9)).save(folder / "SegmentationClass" / "2007_000032.png")
    Image.new("RGB", (9, 9)).save(folder / "JPEGImages" / "2007_000032.jpg")
    sizes = {"2008_000006": (96, 128), "2008_000008": (64, 64), "2008_000011": (37, 50)}
    for stem, size in sizes.items():
        noise = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "JPEGImages" / f"{stem}.jpg")
    (folder / "ImageSets" / "Segmentation" / "test.txt").write_text("\n".join(sizes) + "\n")
    return list(sizes)


def test_voc_archive(tmp_path: Path, voc_checkpoint: Path, capsys) -> None:
    stems = voc_test(tmp_path)
    model = segcoord.load(voc_checkpoint)
    arguments = [
        f"--checkpoint={voc_checkpoint}",
        *(
            "--data.layout=voc",
            f"--data.root={tmp_path}",
            "--split=test",
            "--data.workers=0",
            "--export=voc-server",
        ),
    ]
    for name in ("a", "b"):
        assert run(evaluate, "evaluate.py", [*arguments, f"--out={tmp_path / name}.tar"]) == 0
    printed = capsys.readouterr().out
    assert "mIoU" not in printed
    assert (
        "The server scores the test split of 1456 images; a.tar has the 3 images of test" in printed
    )
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"VOCdevkit", "a.tar", "b.tar"}
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    with tarfile.open(tmp_path / "a.tar") as archive:
        # sprintf(VOCopts.seg.clsrespath, "comp6", "test", stem) of VOCcode/VOCinit.m
        expected = [f"results/VOC2012/Segmentation/comp6_test_cls/{stem}.png" for stem in stems]
        assert archive.getnames() == expected
        for stem, member in zip(stems, archive.getmembers()):
            assert (member.mode, member.mtime, member.uid) == (0o644, 0, 0)
            picture = Image.open(io.BytesIO(archive.extractfile(member).read()))
            photo = Image.open(folder / "JPEGImages" / f"{stem}.jpg")
            assert (picture.mode, picture.size) == ("P", photo.size)
            ids = np.array(picture)
            assert ids.max() <= 20
            assert (ids == segcoord.predict(model, folder / "JPEGImages" / f"{stem}.jpg")).all()
            colors = np.array(picture.getpalette()).reshape(256, 3)
            assert colors[[0, 1, 15, 20, 21, 255]].tolist() == [
                *([0, 0, 0], [128, 0, 0], [192, 128, 128], [0, 64, 128], [128, 64, 128]),
                [224, 224, 192],
            ]


@pytest.fixture
def cityscapes_test(tmp_path: Path) -> Path:
    """Three frames of the official size, with dummy labels as in the official test split."""
    for frame in FRAMES:
        city = frame.split("_")[0]
        for tree, name, shape in (
            ("leftImg8bit", f"{frame}_leftImg8bit.png", (1024, 2048, 3)),
            ("gtFine", f"{frame}_gtFine_labelIds.png", (1024, 2048)),
        ):
            path = tmp_path / "data" / tree / "test" / city / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full(shape, 3, np.uint8)).save(path, compress_level=1)
    return tmp_path / "data"


def read_officially(archive: Path, folder: Path) -> dict[str, np.ndarray]:
    """Unpacks an archive and reads what the official tool finds for each ground truth."""
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        file.extractall(folder)
    args = SimpleNamespace(predictionPath=str(folder), predictionWalk=None)
    found = {f: Path(getPrediction(args, f"/gt/{f}_gtFine_labelIds.png")) for f in FRAMES}
    assert {*found.values()} == {*folder.iterdir()}
    for frame, path in found.items():
        info = getCsFileInfo(path.name)
        assert f"{info.city}_{info.sequenceNb}_{info.frameNb}" == frame
    return {frame: np.array(Image.open(path)) for frame, path in found.items()}


def test_cityscapes_archive(cityscapes_test: Path, tmp_path: Path) -> None:
    data = DataConfig("cityscapes", str(cityscapes_test))
    split = find_split(data, "test")
    random = np.random.default_rng(0)
    predictions = [
        random.integers(19, size=(128, 256), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        for _ in FRAMES
    ]
    for name in ("a.zip", "b.zip"):
        assert "1525" in check_server("cityscapes-server", tmp_path / name, split, data.layout)
        with server_archive("cityscapes-server", tmp_path / name, split) as add:
            for sample, prediction in zip(split.samples, predictions):
                add(sample, prediction)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    read = read_officially(tmp_path / "a.zip", tmp_path / "unpacked")
    for frame, prediction in zip(FRAMES, predictions):
        ids = read[frame]
        assert (ids.dtype, ids.shape) == (np.uint8, (1024, 2048))
        for index, label in enumerate(CITYSCAPES.names):
            assert {id2label[i].name for i in np.unique(ids[prediction == index])} == {label}


def test_evaluate_writes_a_cityscapes_archive(
    cityscapes_test: Path, cityscapes_checkpoint: Path, tmp_path: Path, capsys
) -> None:
    """Dummy masks are not scored; a small scale saves time."""
    arguments = [
        f"--checkpoint={cityscapes_checkpoint}",
        *("--data.layout=cityscapes", f"--data.root={cityscapes_test}", "--split=test"),
        *("--data.workers=0", "--scales=0.1", "--export=cityscapes-server"),
    ]
    assert run(evaluate, "evaluate.py", [*arguments, f"--out={tmp_path / 'out.zip'}"]) == 0
    printed = capsys.readouterr().out
    assert "(dummy masks); it is not scored" in printed
    assert "mIoU" not in printed
    read = read_officially(tmp_path / "out.zip", tmp_path / "unpacked")
    trained = {c.id for c in CITYSCAPES.classes}
    assert all({*np.unique(ids).tolist()} <= trained for ids in read.values())


def test_archives_hold_label_ids_even_if_masks_hold_train_ids(tmp_path: Path) -> None:
    sample = Sample(f"{FRAMES[0]}_leftImg8bit", Path("a"), Path("b"), CITYSCAPES_TRAIN_IDS)
    split = Split("val", [sample], CITYSCAPES)
    with server_archive("cityscapes-server", tmp_path / "a.zip", split) as add:
        add(sample, np.full((1024, 2048), 18, np.uint8))
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        ids = np.array(Image.open(io.BytesIO(file.read(f"{sample.stem}.png"))))
    assert np.unique(ids).tolist() == [33]


def one_sample(labels=VOC, stem: str = "2008_000006") -> Split:
    return Split("test", [Sample(stem, Path(f"{stem}.png"), None, labels)], labels)


FRAME = one_sample(CITYSCAPES, f"{FRAMES[0]}_leftImg8bit")


@pytest.mark.parametrize(
    ("server", "name", "split", "layout", "message"),
    [
        ("voc", "a.tar", one_sample(), "voc", "found 'voc', expected voc-server or cityscapes-se"),
        ("voc-server", "a.tar", FRAME, "cityscapes", "expected data.layout voc, found cityscapes"),
        ("cityscapes-server", "a.zip", one_sample(), "voc", "expected data.layout cityscapes"),
        ("cityscapes-server", "a.zip", one_sample(), "folder", "found folder"),
        (
            "voc-server",
            "a.tar",
            one_sample(numbered_labels(21)),
            "voc",
            "21 classes, found 21 of data.cl",
        ),
        ("voc-server", "a.zip", one_sample(), "voc", "a.zip: expected a name ending in .tar"),
        ("cityscapes-server", "results", FRAME, "cityscapes", "ending in .zip"),
        (
            "cityscapes-server",
            "a.zip",
            one_sample(CITYSCAPES, "frame1_leftImg8bit"),
            "cityscapes",
            "frame1_leftImg8bit.png: the server can't parse this file name",
        ),
    ],
)
def test_invalid_submissions_are_refused(server, name, split, layout, message) -> None:
    with pytest.raises(UserError, match=message):
        check_server(server, Path(name), split, layout)


def test_a_prediction_of_another_size_leaves_no_archive(tmp_path: Path) -> None:
    archive = server_archive("cityscapes-server", tmp_path / "a.zip", FRAME)
    with pytest.raises(UserError, match=r"is 1024x512; .* of 2048x1024"), archive as add:
        add(FRAME.samples[0], np.zeros((512, 1024), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("server", ["voc-server", "cityscapes-server"])
def test_a_full_disk_is_an_error_and_leaves_no_archive(server: str, tmp_path: Path) -> None:
    split = FRAME if server == "cityscapes-server" else one_sample()
    noise = np.random.default_rng(0).integers(19, size=(1024, 2048), dtype=np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with (
            pytest.raises(UserError, match=r"results: could not be written .*the free space"),
            server_archive(server, tmp_path / "results", split) as add,
        ):
            add(split.samples[0], noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--export=voc-server"], "--export: found without --out; give both or none"),
        (["--out=a.tar"], "--out: found without --export"),
    ],
)
def test_export_and_out_need_each_other(voc_checkpoint: Path, capsys, options, message) -> None:
    arguments = [f"--checkpoint={voc_checkpoint}", "--data.layout=voc", "--data.root=a", *options]
    assert run(evaluate, "evaluate.py", arguments) == 1
    assert message in capsys.readouterr().err
