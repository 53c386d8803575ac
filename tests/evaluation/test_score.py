"""The score command: masks of any program, against evaluate and against their definition."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, truncate
from layout_trees import put_image, put_mask
from PIL import Image

from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import run
from segcoord.cli.predict import predict
from segcoord.cli.score import score
from segcoord.data.labels import CITYSCAPES
from segcoord.utils.files import write_json

SAMPLE = f"--config={ROOT / 'configs' / 'sample.yaml'}"


def scored(predictions: Path, *arguments: str) -> dict:
    """The JSON of a score."""
    file = predictions.parent / "score.json"
    options = [f"--predictions={predictions}", f"--json={file}", *arguments]
    assert run(score, "segcoord score", options) == 0
    return json.loads(file.read_text())


def refusal(predictions: Path | str, *arguments: str, capsys: pytest.CaptureFixture) -> str:
    capsys.readouterr()
    assert run(score, "segcoord score", [f"--predictions={predictions}", *arguments]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


@pytest.fixture(scope="module")
def voc(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A folder with the masks of `tiny_run` for val, and the JSON that `evaluate` wrote."""
    folder = tmp_path_factory.mktemp("voc")
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", "--data.workers=0"]
    arguments += [f"--masks={folder / 'masks'}", f"--json={folder / 'score.json'}"]
    assert run(evaluate, "evaluate.py", arguments) == 0
    return folder / "masks", json.loads((folder / "score.json").read_text())


@pytest.fixture
def masks(voc: tuple[Path, dict], tmp_path: Path) -> Path:
    """A copy of the masks that a test may change."""
    return Path(shutil.copytree(voc[0], tmp_path / "masks"))


@pytest.fixture
def sample(sample_voc: Path) -> list[str]:
    return [SAMPLE, f"--data.root={sample_voc}"]


def test_exported_masks_score_as_the_checkpoint_did(
    voc: tuple[Path, dict], masks: Path, sample: list[str], tiny_run: Path, tmp_path: Path, capsys
) -> None:
    """To the bit: palette and gray PNGs, other palettes, and what `segcoord predict` writes."""
    expected = dict(voc[1])
    protocol = expected.pop("protocol")
    capsys.readouterr()
    result = scored(masks, *sample)
    printed = capsys.readouterr().out
    assert f"mIoU {100 * expected['miou']:.2f} %" in printed and "void" not in printed
    ours = result.pop("protocol")
    assert result == expected | {"predicted_void": 0}
    for key in ("split", "layout", "root", "pack", "images", "left_out", "exif", "size", "average"):
        assert ours[key] == protocol[key]
    for key in ("classes", "ignore_index", "heights", "widths", "commit", "versions"):
        assert key == "versions" or ours[key] == protocol[key]
    assert (ours["predictions"], ours["mask_values"]) == (str(masks), "ids")

    for number, path in enumerate(masks.iterdir()):
        ids, colors = np.array(Image.open(path)), Image.open(path).getpalette()
        gray = Image.fromarray(ids if number % 2 else 7 - ids)
        if number % 2 == 0:  # as a program that sorts the colors writes it
            gray.putpalette(np.array(colors).reshape(-1, 3)[7::-1].ravel().tolist())
        gray.save(path)
    images = Path(protocol["root"]) / "VOCdevkit" / "VOC2012" / "JPEGImages"
    photos = [str(images / f"{path.stem}.jpg") for path in masks.iterdir()]
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", f"--out={tmp_path / 'predicted'}"]
    assert run(predict, "segcoord predict", [*photos, *arguments]) == 0
    for folder in (masks, tmp_path / "predicted" / "masks"):
        again = scored(folder, *sample)
        again.pop("protocol")
        assert again == result


def test_cityscapes_label_ids_and_train_ids(
    cityscapes_checkpoint: Path, sample_cityscapes: Path, tmp_path: Path, capsys
) -> None:
    data = ["--data.layout=cityscapes", f"--data.root={sample_cityscapes}"]
    arguments = [f"--checkpoint={cityscapes_checkpoint}", "--data.workers=0"]
    arguments += [f"--masks={tmp_path / 'ids'}", f"--json={tmp_path / 'evaluated.json'}"]
    assert run(evaluate, "evaluate.py", [*arguments, *data]) == 0
    expected = json.loads((tmp_path / "evaluated.json").read_text())
    expected.pop("protocol")
    result = scored(tmp_path / "ids", *data)
    assert result.pop("protocol")["mask_values"] == "ids"
    assert result == expected | {"predicted_void": 0}

    for path in (tmp_path / "ids").iterdir():  # in the folders and names of the dataset
        frame = path.stem.removesuffix("_leftImg8bit")
        target = tmp_path / "train" / frame.partition("_")[0] / f"{frame}_gtFine_labelTrainIds.png"
        put_mask(target, CITYSCAPES.to_index[np.array(Image.open(path))])
    by_index = scored(tmp_path / "train", "--mask-values=indices", *data)
    assert by_index.pop("protocol")["mask_values"] == "indices"
    assert by_index == result

    for path in (tmp_path / "train").rglob("*.png"):  # those of a network that finds every class
        put_mask(path, np.arange(128 * 96).reshape(96, 128) % 19)
    error = refusal(tmp_path / "train", *data, capsys=capsys)
    assert "differ for 0 (void or road), 1 (void or sidewalk), " in error and "15 more" in error
    assert "add --mask-values indices" in error
    assert scored(tmp_path / "train", "--mask-values=ids", *data)["predicted_void"] > 0


@pytest.mark.parametrize("seed", range(4))
def test_the_score_follows_its_definition(seed: int, tmp_path: Path) -> None:
    """Ids that are no positions, nested names, void in truth and prediction, absent classes."""
    random = np.random.default_rng(seed)
    ids, names = [3, 0, 77, 9], ["a", "b", "c", "d"]
    classes = [{"name": name, "id": id} for name, id in zip(names, ids)]
    write_json(
        tmp_path / "c.yaml",
        {"data": {"layout": "folder", "root": str(tmp_path), "classes": classes}},
    )
    true_positives, either = np.zeros((2, 4), int)
    for stem in ("x", "drive/x", "drive/y"):
        size = tuple(random.integers(1, 9, 2))
        truth, prediction = (
            random.choice([*ids[:3], 255], size, p=[0.3, 0.3, 0.2, 0.2]) for _ in "12"
        )
        put_image(tmp_path / "images" / "val" / f"{stem}.png", size[::-1])
        put_mask(tmp_path / "masks" / "val" / f"{stem}.png", truth)
        put_mask(tmp_path / "out" / f"{stem}_net.png", prediction)
        for index, value in enumerate(ids):
            in_truth, predicted = truth == value, (prediction == value) & (truth != 255)
            true_positives[index] += (in_truth & predicted).sum()
            either[index] += (in_truth | predicted).sum()
    result = scored(tmp_path / "out" / "{name}_net.png", f"--config={tmp_path / 'c.yaml'}")
    expected = [t / e if e else None for t, e in zip(true_positives, either)]
    assert [c["iou"] for c in result["classes"]] == pytest.approx(expected)
    assert result["miou"] == pytest.approx(np.mean([v for v in expected if v is not None]))
    assert result["predicted_void"] > 0 and result["classes_counted"] == 3


def test_predicted_void_is_wrong_and_the_report_shows_it(
    masks: Path, voc: tuple[Path, dict], sample: list[str], tmp_path: Path, capsys
) -> None:
    for path in masks.iterdir():
        picture = Image.open(path)
        ids = np.array(picture)
        ids[:40] = 255
        void = Image.fromarray(ids)
        void.putpalette(picture.getpalette())
        void.save(path)
    outputs = ["--report={}/r.html", "--figures={}/f", "--sheet={}/s.png", "--overlays={}/o"]
    options = [option.format(tmp_path) for option in outputs]
    capsys.readouterr()
    result = scored(masks, f"--against={voc[0]}", *options, *sample)
    printed = capsys.readouterr().out
    assert f"{result['predicted_void']} of " in printed and "counted as wrong" in printed
    assert result["predicted_void"] > 10_000
    for ours, before in zip(result["classes"], voc[1]["classes"]):
        assert ours["pixels"] == before["pixels"]
    assert result["pixel_accuracy"] < voc[1]["pixel_accuracy"]
    assert result["comparison"]["difference"]["value"] < 0
    assert f"A: {voc[0]}\nB: {masks}" in printed
    page = (tmp_path / "r.html").read_text()
    assert "Masks of another program" in page and "Calibration" not in page
    assert columns(page) == [c["name"] for c in result["classes"]] + ["void"]
    assert (tmp_path / "f" / "confusion.png").is_file() and (tmp_path / "s.png").is_file()
    assert not (tmp_path / "f" / "calibration.png").exists()
    assert len([*(tmp_path / "o").iterdir()]) == 6


def columns(page: str) -> list[str]:
    """The columns of the confusion matrix."""
    header = page.partition('<span class="axes">')[2].partition("</tr>")[0]
    return [part.partition("</span>")[0] for part in header.split('class="up"><span>')[1:]]


def save(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(change(np.array(Image.open(path)))).save(path)


def to_jpeg(path: Path) -> None:
    Image.open(path).convert("L").save(path.with_suffix(".jpg"))
    path.unlink()


def to_floats(path: Path) -> None:
    probabilities = np.array(Image.open(path)) / np.float32(8)
    Image.fromarray(probabilities).save(path.with_suffix(".tif"))
    path.unlink()


BREAK: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "half the size": (
        save(lambda ids: ids[::2, ::2]),
        ["the prediction is 64x48", "its image 128x96", "before the argmax"],
    ),
    "cropped": (save(lambda ids: ids[:-1]), ["128x95", "Predict the original image"]),
    "turned": (save(lambda ids: ids.T.copy()), ["96x128", "Width and height are swapped"]),
    "RGB": (
        lambda path: Image.open(path).convert("RGB").save(path),
        ["an RGB image, expected one class id per pixel", "segcoord data ids"],
    ),
    "out of range": (
        save(lambda ids: np.where(ids == ids[0, 0], 8, ids).astype(np.uint8)),
        ["mask values 8 (", "expected 0 to 7 and 255 for void", "with these classes"],
    ),
    "floating point": (to_floats, ["a mask of mode F"]),
    "damaged": (lambda path: truncate(path, 0.5), ["can't be read as an image", "Write it again"]),
    "a link to nothing": (
        lambda path: (path.unlink(), path.symlink_to("nothing.png")),
        ["a link to a file that does not exist", "Write it again"],
    ),
    "missing": (Path.unlink, ["1 of 6 images have no prediction", "Found", "a pattern such as"]),
    "JPEG": (to_jpeg, ["has lossy compression", "Write PNGs"]),
    "extra": (
        lambda path: shutil.copy(path, path.with_name("other.png")),
        ["other.png belongs to no image of split 'val'", "Remove it, ", "--allow-extra"],
    ),
}


@pytest.mark.parametrize("case", BREAK)
def test_wrong_predictions_are_refused(case: str, masks: Path, sample: list[str], capsys) -> None:
    path = sorted(masks.iterdir())[2]
    change, messages = BREAK[case]
    change(path)
    error = refusal(masks, *sample, capsys=capsys)
    assert str(masks) in error and all(message in error for message in messages), error
    if case in ("missing", "JPEG", "half the size", "out of range"):
        assert path.stem in error


def test_extra_masks_are_ignored_on_request(masks: Path, sample: list[str], capsys) -> None:
    before = scored(masks, *sample)
    for name in ("train_1.png", "seq/train_2.png", "notes.txt"):
        (masks / "seq").mkdir(exist_ok=True)
        shutil.copy(next(masks.glob("*.png")), masks / name)
    error = refusal(masks, *sample, capsys=capsys)
    assert f"{masks}: seq/train_2.png, train_1.png belong to no image" in error
    assert "Remove them, " in error
    capsys.readouterr()
    after = scored(masks, "--allow-extra", *sample)
    assert after["classes"] == before["classes"]
    assert (before["protocol"]["extra"], after["protocol"]["extra"]) == (0, 2)
    assert "2 masks belong to no image and were ignored" in capsys.readouterr().out


def test_wrong_options_are_refused(
    masks: Path,
    sample: list[str],
    sample_voc: Path,
    sample_cityscapes: Path,
    tmp_path: Path,
    capsys,
) -> None:
    truth = sample_voc / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    cityscapes = ["--data.layout=cityscapes", f"--data.root={sample_cityscapes}", "--split=test"]
    (tmp_path / "empty").mkdir()
    for predictions, options, message in (
        (tmp_path / "none", sample, "none: no such folder (--predictions)"),
        (tmp_path / "empty", sample, "Found no files. Give the folder that contains the masks"),
        (next(masks.iterdir()), sample, "is a file, expected a folder of masks"),
        (truth, [*sample, "--allow-extra"], "is the ground truth itself"),
        (masks, [*sample, f"--json={truth / 's.json'}"], "is in a folder of the dataset"),
        (masks, cityscapes, "split 'test' has no masks, so it can't be scored"),
        (masks, [*sample, "--mask-values=x"], "--mask-values: found x, expected ids or indices"),
        (masks, [*sample, "--split=train"], "16 of 16 images have no prediction"),
    ):
        assert message in refusal(predictions, *options, capsys=capsys)


def test_outputs_never_overwrite_the_scored_masks(
    voc: tuple[Path, dict], masks: Path, sample: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    other = Path(shutil.copytree(masks, tmp_path / "other"))
    (tmp_path / "link").symlink_to(masks)
    (tmp_path / "linked").mkdir()
    for path in masks.iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    file = sorted(masks.iterdir())[0]
    before = {path: path.read_bytes() for path in (*masks.iterdir(), *other.iterdir())}
    folder = f"--overlays {masks}: contains masks of --predictions and could overwrite them"
    mask = f"{file}: is a mask of --predictions; choose another file"
    for predictions, option, message in (
        (masks, f"--overlays={masks}", folder),
        (masks, f"--overlays={masks}/../link", "link: contains masks of --predictions"),
        (masks / "{name}.png", f"--overlays={masks}", folder),
        ("~/masks", f"--overlays={masks}", folder),
        (masks, "--overlays=~/masks", folder),
        (tmp_path / "linked", f"--overlays={masks}", folder),
        (masks, f"--figures={masks}", f"--figures {masks}: contains masks of --predictions"),
        (masks, f"--sheet={file}", f"--sheet {mask}"),
        ("~/masks/{name}.*", f"--json={file}", f"--json {mask}"),
        (masks, f"--report={file}", f"--report {mask}"),
    ):
        assert message in refusal(predictions, option, *sample, capsys=capsys)
    against = [f"--against={other}/{{name}}.png", *sample]
    for option in (f"--overlays={other}", f"--sheet={other / file.name}"):
        assert "of --against" in refusal(masks, option, *against, capsys=capsys)
    assert {path: path.read_bytes() for path in before} == before


def test_overlays_of_nested_names_never_overwrite_masks(tmp_path: Path, capsys) -> None:
    classes = [{"name": "a", "id": 0}, {"name": "b", "id": 1}]
    data = {"layout": "folder", "root": str(tmp_path), "classes": classes}
    write_json(tmp_path / "c.yaml", {"data": data})
    put_image(tmp_path / "images" / "val" / "drive" / "x.png", (4, 4))
    for folder in ("masks/val", "out/val"):
        put_mask(tmp_path / folder / "drive" / "x.png", np.zeros((4, 4)))
    (tmp_path / "links" / "drive").mkdir(parents=True)
    (tmp_path / "links" / "drive" / "x.png").symlink_to(
        tmp_path / "out" / "val" / "drive" / "x.png"
    )
    config = f"--config={tmp_path / 'c.yaml'}"
    overlays = f"--overlays={tmp_path / 'out' / 'val'}"
    error = refusal(tmp_path / "links", overlays, config, capsys=capsys)
    assert "contains masks of --predictions" in error
    scored(tmp_path / "links", f"--overlays={tmp_path / 'out'}", config)
    assert (tmp_path / "out" / "drive" / "x.png").is_file()


def test_the_command_starts_without_torch(masks: Path, sample: list[str]) -> None:
    code = "import sys; from segcoord.cli.main import main; assert main(sys.argv[1:]) == 0; "
    code += "assert not {'torch', 'timm', 'matplotlib'} & sys.modules.keys()"
    words = [sys.executable, "-c", code, "score", f"--predictions={masks}", *sample]
    result = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
