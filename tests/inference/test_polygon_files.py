"""`segcoord predict --to`: the files of each format, read by parsers of this test."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from helpers import images_of
from PIL import Image
from polygon_masks import winding

import segcoord
from segcoord.cli.main import run
from segcoord.cli.predict import predict
from segcoord.data.labels import LabelClass, LabelSet, binary_labels
from segcoord.inference.inputs import Source
from segcoord.inference.polygon_files.export import FORMATS, PolygonExport, PolygonOptions
from segcoord.utils.errors import UserError

LABELS = LabelSet(
    [
        LabelClass("road", (128, 64, 128), 0),
        LabelClass('a & "b"', (0, 255, 10), 1),
        LabelClass("Fußgänger", (220, 20, 60), 2),
        LabelClass("sky", (70, 130, 180), 3),
    ]
)
SIZES = {"a.jpg": (30, 44), 'day/ä & "b".png': (23, 17)}
ALL = list(FORMATS)

Shapes = dict[str, list[tuple[str, np.ndarray]]]
"""Class name and (H, W) bool mask of each shape, by the image's path."""


def blobs(size: tuple[int, int]) -> np.ndarray:
    """Classes 0 to 3 in regions of which some have holes."""
    noise = np.random.default_rng(0).normal(size=(*size, 4)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 1.5).argmax(2).astype(np.uint8)


def source(images: Path, name: str) -> Source:
    return Source(images / name, Path(name).with_suffix(""))


def write(to: str, out: Path, probabilities: bool = False, **options: object) -> Path:
    """Write the polygons of `blobs`; returns the folder of the format."""
    settings = {"tolerance": 0.0, "min_area": 0, "skipped": None, **options}
    chosen = PolygonOptions(to, out / "polygons" / to, **settings)
    with PolygonExport(chosen, LABELS, "run/best.ckpt") as export:
        for name, size in SIZES.items():
            classes = blobs(size)
            values = np.full((4, *size), 0.75, np.float16) if probabilities else None
            export.add(export.find(source(out / "images", name), classes, values))
    return chosen.folder


def filled(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    assert all(len(ring) >= 3 for ring in rings)
    return winding(rings, size) % 2 == 1


def read_coco(folder: Path, images: Path, sizes: dict[str, tuple[int, int]]) -> Shapes:
    content = json.loads((folder / "instances.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    files = {image["id"]: image for image in content["images"]}
    shapes: Shapes = {image["file_name"]: [] for image in files.values()}
    assert [a["id"] for a in content["annotations"]] == [*range(1, len(content["annotations"]) + 1)]
    for annotation in content["annotations"]:
        image, polygons = files[annotation["image_id"]], annotation["segmentation"]
        size = sizes[image["file_name"]]
        assert size == (image["height"], image["width"])
        if isinstance(polygons, dict):
            assert polygons["size"] == [*size]
            counts = polygons["counts"]
            column = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
            mask = column.reshape(size[::-1]).T
        else:
            (points,) = polygons
            mask = filled([np.reshape(points, (-1, 2))], size)
        assert annotation["iscrowd"] == 0
        shapes[image["file_name"]].append((names[annotation["category_id"]], mask))
    return shapes


def read_labelme(folder: Path, images: Path, sizes: dict[str, tuple[int, int]]) -> Shapes:
    shapes: Shapes = {}
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text())
        image = (path.parent / content["imagePath"]).resolve().relative_to(images.resolve())
        size = sizes[image.as_posix()]
        assert path.relative_to(folder) == image.with_suffix(".json")
        assert size == (content["imageHeight"], content["imageWidth"])
        assert content["version"].startswith("5.")
        assert content["imageData"] is None and content["flags"] == {}
        shapes[image.as_posix()] = [
            (shape["label"], filled([np.array(shape["points"])], size))
            for shape in content["shapes"]
        ]
        for shape in content["shapes"]:
            assert (shape["shape_type"], shape["group_id"], shape["flags"]) == ("polygon", None, {})
    return shapes


def read_cvat(folder: Path, images: Path, sizes: dict[str, tuple[int, int]]) -> Shapes:
    root = ElementTree.parse(folder / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    names = [label.findtext("name") for label in root.iterfind("meta/task/labels/label")]
    shapes: Shapes = {}
    for number, image in enumerate(root.iterfind("image")):
        name = image.get("name")
        size = int(image.get("height")), int(image.get("width"))
        assert (int(image.get("id")), size) == (number, sizes[name])
        shapes[name] = []
        for polygon in image:
            assert polygon.tag == "polygon" and polygon.get("label") in names
            assert (polygon.get("occluded"), polygon.get("z_order")) == ("0", "0")
            points = [point.split(",") for point in polygon.get("points").split(";")]
            mask = filled([np.array(points, float)], size)
            shapes[name].append((polygon.get("label"), mask))
    return shapes


def read_label_studio(folder: Path, images: Path, sizes: dict[str, tuple[int, int]]) -> Shapes:
    interface = ElementTree.parse(folder / "interface.xml").getroot()
    control = interface.find("PolygonLabels")
    names = [label.get("value") for label in control]
    shapes: Shapes = {}
    for task in json.loads((folder / "tasks.json").read_text()):
        name = unquote(task["data"]["image"].removeprefix("/data/local-files/?d="))
        (prediction,) = task["predictions"]
        assert interface.find("Image").get("value") == "$image"
        height, width = sizes[name]
        shapes[name] = []
        assert len({result["id"] for result in prediction["result"]}) == len(prediction["result"])
        for result in prediction["result"]:
            assert result["type"] == "polygonlabels"
            assert result["from_name"] == control.get("name")
            assert result["to_name"] == control.get("toName") == interface.find("Image").get("name")
            assert (result["original_width"], result["original_height"]) == (width, height)
            (label,) = result["value"]["polygonlabels"]
            assert label in names
            points = np.array(result["value"]["points"])
            assert points.min() >= 0 and points.max() <= 100
            mask = filled([(points / 100 * (width, height)).round(4)], (height, width))
            shapes[name].append((label, mask))
    return shapes


def read_yolo(folder: Path, images: Path, sizes: dict[str, tuple[int, int]]) -> Shapes:
    content = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    assert [*content["names"]] == [*range(len(content["names"]))]
    shapes: Shapes = {}
    for line in (folder / content["train"]).read_text(encoding="utf-8").splitlines():
        name = line.removeprefix("./images/train/")
        height, width = sizes[name]
        shapes[name] = []
        label = folder / line.replace("/images/", "/labels/").rpartition(".")[0]
        for row in label.with_name(f"{label.name}.txt").read_text().splitlines():
            number, *values = row.split()
            points = np.array(values, float).reshape(-1, 2)
            assert points.min() >= 0 and points.max() <= 1
            mask = filled([(points * (width, height)).round(4)], (height, width))
            shapes[name].append((content["names"][int(number)], mask))
    return shapes


READERS: dict[str, Callable[..., Shapes]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "cvat": read_cvat,
    "labelstudio": read_label_studio,
    "yolo": read_yolo,
}


def painted(shapes: list[tuple[str, np.ndarray]], labels: LabelSet, size: tuple) -> np.ndarray:
    """(H, W) uint8 class indices, 255 without a shape; shapes must not overlap."""
    indices = np.full(size, 255, np.uint8)
    for name, mask in shapes:
        assert mask.any() and (indices[mask] == 255).all()
        indices[mask] = labels.names.index(name)
    return indices


@pytest.mark.parametrize("to", ALL)
def test_each_format_holds_the_mask(to: str, tmp_path: Path) -> None:
    folder = write(to, tmp_path)
    read = READERS[to](folder, tmp_path / "images", SIZES)
    assert {*read} == {*SIZES}
    for name, size in SIZES.items():
        np.testing.assert_array_equal(painted(read[name], LABELS, size), blobs(size))
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("to", ALL)
def test_skipped_classes_are_absent(to: str, tmp_path: Path) -> None:
    folder = write(to, tmp_path, skipped=("road", "Fußgänger"))
    read = READERS[to](folder, tmp_path / "images", SIZES)
    for name, size in SIZES.items():
        expected = blobs(size)
        expected[(expected == 0) | (expected == 2)] = 255
        np.testing.assert_array_equal(painted(read[name], LABELS, size), expected)


@pytest.mark.parametrize("to", ALL)
def test_simplified_polygons_differ_little(to: str, tmp_path: Path) -> None:
    """All formats hold the same shapes."""
    read = READERS[to](write(to, tmp_path, tolerance=1.0), tmp_path / "images", SIZES)
    coco = read_coco(write("coco", tmp_path / "b", tolerance=1.0), tmp_path, SIZES)
    for name, size in SIZES.items():
        shown = np.full(size, 255)
        for label, mask in read[name]:
            shown[mask] = LABELS.names.index(label)
        assert (shown == blobs(size)).mean() > 0.85
        masks = dict.fromkeys(LABELS.names, 0)
        for sign, shapes in ((1, read[name]), (-1, coco[name])):
            for label, mask in shapes:
                masks[label] += sign * mask.astype(int)
        # Rounding may give a pixel whose center is on an edge to either side.
        assert all(np.count_nonzero(mask) <= 3 for mask in masks.values())


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools
def test_coco_is_read_by_pycocotools(tmp_path: Path) -> None:
    tools = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    masks = pytest.importorskip("pycocotools.mask")
    folder = write("coco", tmp_path)
    read, kinds = read_coco(folder, tmp_path, SIZES), set()
    coco = tools.COCO(str(folder / "instances.json"))
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == dict(
        enumerate(LABELS.names, 1)
    )
    for number, name in enumerate(SIZES, 1):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=number))
        assert len(annotations) == len(read[name]) > 4
        for annotation, (_, mask) in zip(annotations, read[name]):
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == masks.toBbox(coco.annToRLE(annotation)).tolist()
            kinds.add(type(annotation["segmentation"]))
    assert kinds == {dict, list}


def test_scores_of_coco_and_label_studio(tmp_path: Path) -> None:
    content = json.loads((write("coco", tmp_path, True) / "instances.json").read_text())
    assert {annotation["score"] for annotation in content["annotations"]} == {0.75}
    tasks = json.loads((write("labelstudio", tmp_path, True) / "tasks.json").read_text())
    for task in tasks:
        (prediction,) = task["predictions"]
        assert (prediction["model_version"], prediction["score"]) == ("run/best.ckpt", 0.75)
        assert {result["score"] for result in prediction["result"]} == {0.75}


def test_category_ids_are_those_of_all_classes(tmp_path: Path) -> None:
    """They stay the same if classes are skipped; YOLO's numbers have to be consecutive."""
    folder = write("coco", tmp_path, skipped=("road",))
    content = json.loads((folder / "instances.json").read_text())
    assert [c["id"] for c in content["categories"]] == [2, 3, 4]
    folder = write("yolo", tmp_path, skipped=("road",))
    names = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"]
    assert names == dict(enumerate(LABELS.names[1:]))


def test_an_exception_leaves_no_file_for_all_images(tmp_path: Path) -> None:
    for to in ("coco", "cvat", "labelstudio", "yolo"):
        options = PolygonOptions(to, tmp_path / to, 0.0, 0, None)
        with pytest.raises(RuntimeError), PolygonExport(options, LABELS, "model") as export:
            export.add(export.find(source(tmp_path, "a.jpg"), blobs((9, 9)), None))
            raise RuntimeError
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [Path("yolo", "labels", "train", "a.txt")]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    """They can't be written in XML and JSON as they are; the bytes are replaced."""
    for to in ALL:
        options = PolygonOptions(to, tmp_path / to, 0.0, 0, None)
        with PolygonExport(options, LABELS, "model") as export:
            name = "a\udcff\x01.jpg"
            export.add(export.find(source(tmp_path, name), blobs((9, 9)), None))
    ElementTree.parse(tmp_path / "cvat" / "annotations.xml")
    content = json.loads((tmp_path / "coco" / "instances.json").read_text())
    assert content["images"][0]["file_name"] == "a\ufffd\x01.jpg"


def test_classes_to_write() -> None:
    def classes(skipped: tuple[str, ...] | None, labels: LabelSet) -> list[str]:
        return [
            c.name for c in PolygonOptions("coco", Path(), 0, 0, skipped).classes(labels).values()
        ]

    binary = binary_labels("pole", (255, 0, 0))
    assert classes(None, binary) == ["pole"]
    assert classes((), binary) == ["background", "pole"]
    assert classes(None, LABELS) == LABELS.names
    assert classes(("sky",), LABELS) == LABELS.names[:3]
    with pytest.raises(UserError, match="--skip-classes: found 'cloud', expected some of road, "):
        classes(("cloud",), LABELS)
    with pytest.raises(UserError, match="--skip-classes: found all classes"):
        classes(("background", "pole"), binary)


@pytest.fixture
def photos(sample_voc: Path, tmp_path: Path) -> Path:
    scenes = sorted(images_of(sample_voc).iterdir())
    (tmp_path / "photos" / "day").mkdir(parents=True)
    for scene, name in zip(scenes, ("a.jpg", "day/b.jpg")):
        shutil.copy(scene, tmp_path / "photos" / name)
    with Image.open(scenes[2]) as image:
        turned = image.crop((0, 0, 90, 61))
        exif = Image.Exif()
        exif[0x0112] = 6  # which viewers turn by 90 degrees
        turned.save(tmp_path / "photos" / "turned.jpg", exif=exif)
    return tmp_path / "photos"


def command(tiny_run: Path, *options: object) -> int:
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", "--device=cpu", *map(str, options)]
    return run(predict, "segcoord predict", arguments)


@pytest.mark.parametrize("to", ALL)
def test_the_command_writes_what_it_predicts(
    to: str, photos: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    options = [f"--out={out}", f"--to={to}", "--no-overlays"]
    assert command(tiny_run, photos, *options, "--tolerance=0") == 0
    labels = segcoord.load(tiny_run / "best.ckpt").labels
    masks = {}
    for path in (out / "masks").rglob("*.png"):
        name = path.relative_to(out / "masks").with_suffix(".jpg").as_posix()
        masks[name] = labels.indices(np.array(Image.open(path)))
    sizes = {name: mask.shape for name, mask in masks.items()}
    assert sizes["turned.jpg"] == (90, 61)
    read = READERS[to](out / "polygons" / to, photos, sizes)
    assert {*read} == {*masks}
    for name, mask in masks.items():
        np.testing.assert_array_equal(painted(read[name], labels, mask.shape), mask)
    printed = capsys.readouterr().out
    count = sum(map(len, read.values()))
    assert f"polygons   {out / 'polygons'}" in printed
    assert f"{count} regions in the format of {FORMATS[to].title}" in printed

    # The files may have been edited, so that they are not replaced, and they are no inputs.
    before = {path: path.read_bytes() for path in (out / "polygons").rglob("*") if path.is_file()}
    assert command(tiny_run, photos, *options) == 1
    assert "exists, and may hold corrected labels" in capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in before.items())


def test_scores_small_regions_and_failed_images(
    photos: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (photos / "broken.jpg").write_text("hello")
    out = tmp_path / "out"
    options = [f"--out={out}", "--to=labelstudio", "--probs", "--no-overlays", "--min-area=50"]
    assert command(tiny_run, photos, *options) == 3
    tasks = json.loads((out / "polygons" / "labelstudio" / "tasks.json").read_text())
    assert [task["data"]["image"].rpartition("=")[2] for task in tasks] == [
        *("a.jpg", "day/b.jpg", "turned.jpg")
    ]
    for task in tasks:
        (prediction,) = task["predictions"]
        scores = [result["score"] for result in prediction["result"]]
        assert 0 < min(scores) <= prediction["score"] <= max(scores) <= 1
        assert prediction["model_version"] == f"{tiny_run.name}/best.ckpt"
    count = sum(len(task["predictions"][0]["result"]) for task in tasks)
    printed = capsys.readouterr().out
    assert f"{count} regions in the format of Label Studio; " in printed
    assert "of fewer than 50 pixels were dropped" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to=voc"], "--to: found 'voc', expected one of coco, labelme, cvat, labelstudio, yolo"),
        (["--tolerance=1"], "--tolerance: applies to polygons only; add --to"),
        (["--min-area=0"], "--min-area: applies to polygons only; add --to"),
        (["--skip-classes", "sky"], "--skip-classes: applies to polygons only; add --to"),
        (["--to=coco", "--tolerance=-1"], "--tolerance: found -1, expected 0 or more pixels"),
        (["--to=coco", "--tolerance=.nan"], "--tolerance: found nan, expected 0 or more pixels"),
        (["--to=coco", "--min-area=-1"], "--min-area: found -1, expected 0 or more pixels"),
        (
            ["--to=coco", "--skip-classes", "cloud"],
            "--skip-classes: found 'cloud', expected some of",
        ),
        (["--to=yolo", "clip.mp4"], "--to: applies to images only"),
    ],
)
def test_wrong_options_fail_before_anything_is_written(
    arguments: list[str], message: str, photos: Path, tiny_run: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(photos)
    (photos / "clip.mp4").touch()
    inputs = [argument for argument in arguments if argument == "clip.mp4"]
    options = [argument for argument in arguments if argument not in inputs]
    assert command(tiny_run, "a.jpg", *inputs, "--out=out", *options) == 1
    assert message in capsys.readouterr().err
    assert not (photos / "out").exists()


@pytest.mark.parametrize("to", ALL)
def test_no_room_is_an_error_and_leaves_no_part_of_a_file(to: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 4, (80, 80), np.uint8)
    options = PolygonOptions(to, tmp_path / "out", 0.0, 0, None)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with (
            pytest.raises(UserError, match=r"could not be written \(File too large\)"),
            PolygonExport(options, LABELS, "model") as export,
        ):
            export.add(export.find(source(tmp_path, "a.jpg"), noise, None))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_without_an_image_no_file_is_written(tmp_path: Path) -> None:
    with PolygonExport(PolygonOptions("yolo", tmp_path, 0.0, 0, None), LABELS, "model"):
        pass
    assert not any(tmp_path.iterdir())
