"""The sample dataset: exact trees and masks, reproducible bytes, not too easy."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from segcoord.data.synthetic import dataset as sample
from segcoord.data.synthetic.dataset import CITIES, CLASSES, TEST_IMAGES, void_border, write_sample
from segcoord.data.synthetic.scenes import canvas, draw_scene
from segcoord.utils.errors import UserError

SIZE = {"width": 128, "height": 96}
VOC = Path("VOCdevkit", "VOC2012")


def files(root: Path) -> dict[str, bytes]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough scenes to use two processes on two cores."""
    out = tmp_path_factory.mktemp("sample") / "voc"
    write_sample(out, "voc", train=36, val=16, seed=3, **SIZE)
    return out


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "cityscapes"
    write_sample(out, "cityscapes", train=3, val=2, seed=3, **SIZE)
    return out


@pytest.fixture(scope="module")
def scenes(voc: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N, H, W, 3) and masks (N, H, W) of each split, read back from the files."""
    arrays = {}
    for split in ("train", "val"):
        names = (voc / VOC / f"ImageSets/Segmentation/{split}.txt").read_text().split()
        images = [np.array(Image.open(voc / VOC / f"JPEGImages/{n}.jpg")) for n in names]
        masks = [np.array(Image.open(voc / VOC / f"SegmentationClass/{n}.png")) for n in names]
        arrays[split] = np.stack(images), np.stack(masks)
    return arrays


def test_ids_of_the_drawing_are_the_class_indices() -> None:
    names = ("ROAD", "SIDEWALK", "BUILDING", "VEGETATION", "SKY", "PERSON", "CAR", "SIGN")
    assert [getattr(canvas, name) for name in names] == list(range(len(CLASSES)))
    assert [name.split()[-1].upper() for name, _, _ in CLASSES] == list(names)


def test_files_of_the_voc_layout(voc: Path) -> None:
    train = [f"2026_{i:06d}" for i in range(1, 37)]
    val = [f"2026_{i:06d}" for i in range(500_001, 500_017)]
    expected = {f"{VOC.as_posix()}/JPEGImages/{stem}.jpg" for stem in train + val}
    expected |= {f"{VOC.as_posix()}/SegmentationClass/{stem}.png" for stem in train + val}
    lists = f"{VOC.as_posix()}/ImageSets/Segmentation"
    expected |= {f"{lists}/{name}.txt" for name in ("train", "val", "trainval")}
    found = files(voc)
    assert set(found) == expected
    for name, stems in (("train", train), ("val", val), ("trainval", train + val)):
        assert found[f"{lists}/{name}.txt"] == "".join(f"{s}\n" for s in stems).encode()


def test_files_of_the_cityscapes_layout(cityscapes: Path) -> None:
    stems = [("train", "brickford", 0), ("train", "glasshaven", 0), ("train", "brickford", 1)]
    stems += [("val", "elmbridge", i) for i in range(2)]
    labeled = {f"{split}/{city}/{city}_{i:06d}_000019" for split, city, i in stems}
    (city,) = CITIES["test"]
    test = {f"test/{city}/{city}_{i:06d}_000019" for i in range(TEST_IMAGES)}
    expected = {f"leftImg8bit/{stem}_leftImg8bit.png" for stem in labeled | test}
    expected |= {f"gtFine/{stem}_gtFine_labelIds.png" for stem in labeled}
    assert set(files(cityscapes)) == expected


def test_both_layouts_have_the_same_scenes(voc: Path, cityscapes: Path) -> None:
    image, ids = draw_scene(3, "val", 1, **SIZE)
    stem = "elmbridge/elmbridge_000001_000019"
    png = Image.open(cityscapes / f"leftImg8bit/val/{stem}_leftImg8bit.png")
    labels = Image.open(cityscapes / f"gtFine/val/{stem}_gtFine_labelIds.png")
    assert (png.mode, labels.mode) == ("RGB", "L")
    assert np.array_equal(png, image)
    labels = np.array(labels)
    for index, (_, _, label) in enumerate(CLASSES):
        assert np.array_equal(labels == label, ids == index)
    assert set(np.unique(labels[ids == canvas.STATIC])) <= {1, 4}

    mask = np.array(Image.open(voc / VOC / "SegmentationClass/2026_500002.png"))
    assert np.array_equal(mask, void_border(ids))
    jpeg = np.array(Image.open(voc / VOC / "JPEGImages/2026_500002.jpg")).astype(int)
    assert np.abs(jpeg - image).mean() < 4


def test_bytes_do_not_depend_on_processes_or_number_of_scenes(voc: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "few", "voc", train=3, val=1, seed=3, **SIZE)
    many = files(voc)
    for name, content in files(tmp_path / "few").items():
        if "ImageSets" not in name:
            assert content == many[name], name


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_sample(tmp_path / name, "voc", train=1, val=1, seed=seed, **SIZE)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys() and a != c


def test_all_images_differ(voc: Path, cityscapes: Path) -> None:
    for root, suffix in ((voc, ".jpg"), (cityscapes, "_leftImg8bit.png")):
        images = [content for name, content in files(root).items() if name.endswith(suffix)]
        assert len({hashlib.sha256(content).digest() for content in images}) == len(images)


def test_every_class_is_common(scenes: dict) -> None:
    masks = np.concatenate([masks for _, masks in scenes.values()])
    for index, (name, _, _) in enumerate(CLASSES):
        fraction = (masks == index).mean(axis=(1, 2))
        assert fraction.mean() > 0.015, name
        assert (fraction > 0).mean() > 0.6, name


def test_masks_have_the_palette_of_the_classes(voc: Path) -> None:
    mask = Image.open(voc / VOC / "SegmentationClass/2026_000001.png")
    assert mask.mode == "P"
    ids, colors = np.array(mask), np.array(mask.convert("RGB"))
    assert set(np.unique(ids)) <= {*range(len(CLASSES)), 255}
    for index, (_, color, _) in enumerate(CLASSES):
        assert (colors[ids == index] == color).all()
    assert (colors[ids == 255] == (224, 224, 192)).all()


def test_void_separates_classes(scenes: dict) -> None:
    masks = np.concatenate([masks for _, masks in scenes.values()]).astype(int)
    for a, b in ((masks[:, 1:], masks[:, :-1]), (masks[:, :, 1:], masks[:, :, :-1])):
        assert ((a == b) | (a == 255) | (b == 255)).all()
    assert 0.05 < (masks == 255).mean() < 0.4


@pytest.mark.parametrize(("width", "band"), [(128, 2), (256, 3), (512, 5), (1024, 10)])
def test_width_of_the_void_border(width: int, band: int) -> None:
    ids = np.zeros((96, width), np.uint8)
    ids[:, width // 2 :] = 3
    ids[0, 0] = canvas.STATIC
    mask = void_border(ids)
    assert (mask[50] == 255).sum() == band
    assert mask[0, 0] == 255


def test_masks_are_aligned_with_the_images() -> None:
    """Image gradients are strongest at the edges of the masks, not a pixel beside them."""
    strength = dict.fromkeys((-2, -1, 0, 1, 2), 0.0)
    for index in range(4):
        image, ids = draw_scene(0, "train", index)
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)
        for axis in (0, 1):
            edges = np.abs(np.diff(gray, axis=axis))
            border = np.diff(ids.astype(int), axis=axis) != 0
            for shift in strength:
                strength[shift] += np.roll(edges, shift, axis)[border].mean()
    assert max(strength, key=strength.get) == 0
    assert strength[0] > 1.3 * max(strength[-1], strength[1])


def test_color_alone_does_not_predict_the_classes(scenes: dict) -> None:
    """A classifier of pixel colors, a histogram of 16^3 bins, has a low mIoU."""
    bins = {
        split: (images.astype(int) >> 4) @ [256, 16, 1] for split, (images, _) in scenes.items()
    }
    counts = np.zeros((4096, len(CLASSES)))
    counted = scenes["train"][1] < len(CLASSES)
    np.add.at(counts, (bins["train"][counted], scenes["train"][1][counted]), 1)
    for votes in (counts, counts / counts.sum(0)):  # class priors of the data; uniform priors
        counted = scenes["val"][1] < len(CLASSES)
        truth, guess = scenes["val"][1][counted], votes.argmax(1)[bins["val"][counted]]
        confusion = np.zeros((len(CLASSES),) * 2)
        np.add.at(confusion, (truth, guess), 1)
        hit = np.diag(confusion)
        assert (hit / (confusion.sum(0) + confusion.sum(1) - hit)).mean() < 0.45


@pytest.mark.parametrize(("width", "height"), [(128, 96), (96 * 4, 128), (160, 224), (640, 480)])
def test_images_of_any_size(width: int, height: int) -> None:
    image, ids = draw_scene(1, "test", 0, width, height)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8
    assert ids.shape == (height, width) and ids.dtype == np.uint8
    assert set(np.unique(ids)) <= {*range(len(CLASSES)), 254}
    assert len(np.unique(ids)) > 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "coco"}, "voc, cityscapes"),
        ({"train": 0}, "train: found 0"),
        ({"val": -1}, "val: found -1"),
        ({"seed": -1}, "seed: found -1"),
        ({"width": 64}, "expected 128"),
        ({"height": 64}, "expected 96"),
    ],
)
def test_arguments_out_of_range_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_sample(**{"out": tmp_path / "x", "layout": "voc", "train": 1, "val": 1} | change)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_or_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"exists and is not empty; name another folder"):
        write_sample(tmp_path, "voc", train=1, val=1, **SIZE)
    with pytest.raises(UserError, match="exists and is not empty"):
        write_sample(tmp_path / "notes.txt", "voc", train=1, val=1, **SIZE)
    assert files(tmp_path) == {"notes.txt": b"mine"}


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_sample(tmp_path / "out", "cityscapes", train=1, val=1, **SIZE)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"leftImg8bit", "gtFine"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_or_error_leaves_nothing(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(scene: sample._Scene) -> None:
        sample._write_voc(scene)
        if scene.index == 1:
            raise error("stopped")

    monkeypatch.setitem(sample._WRITERS, "voc", write)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else UserError):
        write_sample(tmp_path / "made" / "out", "voc", train=3, val=1, **SIZE)
    assert not list((tmp_path / "made").iterdir())
