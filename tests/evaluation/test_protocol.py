"""The protocol of a score, test-time augmentation and memory of the evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import local_model, mean_iou
from PIL import Image

import segcoord
from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import main, run
from segcoord.data.split import Sample, Split
from segcoord.evaluation.evaluate import evaluate as evaluate_split
from segcoord.inference.scales_and_tiles import Views


def score(checkpoint: Path, folder: Path, *options: str) -> dict:
    path = folder / "score.json"
    arguments = [f"--checkpoint={checkpoint}", f"--json={path}", "--data.workers=0", *options]
    assert run(evaluate, "evaluate.py", arguments) == 0
    return json.loads(path.read_text())


def test_a_score_states_the_samples_left_out(tiny_run: Path, root: Path, tmp_path, capsys) -> None:
    base = root / "VOCdevkit" / "VOC2012"
    stem = (base / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[0]
    Image.new("L", (5, 5)).save(base / "SegmentationClass" / f"{stem}.png")
    options = [f"--data.root={root}", "--data.skip_bad=true"]
    protocol = score(tiny_run / "best.ckpt", tmp_path, *options)["protocol"]
    assert (protocol["images"], protocol["left_out"], protocol["exif"]) == (5, 1, "ignore")
    assert "1 of 6 samples left out (data.skip_bad)" in capsys.readouterr().out


def test_the_default_protocol_is_single_scale(
    tiny_run: Path, sample_voc: Path, tmp_path, capsys
) -> None:
    result = score(tiny_run / "best.ckpt", tmp_path)
    protocol = result["protocol"]
    known = {
        "split": "val",
        "layout": "voc",
        "root": str(sample_voc),
        "pack": None,
        "images": 6,
        "size": "original",
        "heights": [96, 96],
        "widths": [128, 128],
        "scales": [1.0],
        "flip": False,
        "tiles": None,
        "average_of_views": None,
        "classes": 8,
        "ignore_index": 255,
        "checkpoint": str(tiny_run / "best.ckpt"),
        "ema": False,
        "ema_decay": None,
        "encoder": "mobilenetv2_ca_050",
        "output_stride": 16,
        "device": "cpu",
        "processes": 1,
    }
    assert {key: protocol[key] for key in known} == known
    assert protocol["step"] in (3, 6)
    assert {"segcoord", "torch", "timm", "opencv"} <= protocol["versions"].keys()
    assert protocol["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"commit", "command", "date", "decoder", "reduction", "average"} <= protocol.keys()
    printed = capsys.readouterr().out
    assert "val: read from files\n" in printed
    assert "6 images\n" in printed


def test_augmented_predictions_are_exported_and_scored(
    tiny_run: Path, sample_voc, tmp_path, capsys
):
    """Exported masks have the reported score and equal `segcoord.predict` with the same views."""
    views = Views((0.5, 1.25), True, (64, 80), 16)
    options = ["--scales", "0.5", "1.25", "--flip", "--tile=64x80", "--overlap=16"]
    result = score(tiny_run / "best.ckpt", tmp_path, *options, f"--masks={tmp_path / 'masks'}")
    printed = capsys.readouterr().out
    name = "multi-scale 0.5 1.25 + flip + tiles of 64x80 overlapping by 16"
    assert f"val: read from files; {name}\n" in printed
    assert f"6 images, {name}\n" in printed
    protocol = result["protocol"]
    assert (protocol["scales"], protocol["flip"]) == ([0.5, 1.25], True)
    assert protocol["tiles"] == {"size": [64, 80], "overlap": 16}
    assert protocol["average_of_views"] == (
        "mean of the logits, weighted by the distance to the tile's edge, then mean of the views' "
        "softmax probabilities at the image's own size"
    )
    model = segcoord.load(tiny_run / "best.ckpt")
    folder = sample_voc / "VOCdevkit" / "VOC2012"
    pairs = []
    for path in (tmp_path / "masks").iterdir():
        ids = np.array(Image.open(path))
        photo = folder / "JPEGImages" / f"{path.stem}.jpg"
        assert (ids == segcoord.predict(model, photo, views)).all()
        pairs.append((np.array(Image.open(folder / "SegmentationClass" / path.name)), ids))
    assert result["miou"] == pytest.approx(mean_iou(pairs, list(range(8))), abs=1e-12)


def test_protocol_names_weights_step_and_pack(tiny_run: Path, tmp_path: Path) -> None:
    """With a moving average; with a checkpoint without training settings, read from a pack."""
    content = torch.load(tiny_run / "best.ckpt", weights_only=True)
    content["config"]["train"]["ema_decay"] = 0.99
    torch.save(content, tmp_path / "ema.ckpt")
    protocol = score(tmp_path / "ema.ckpt", tmp_path)["protocol"]
    assert (protocol["ema"], protocol["ema_decay"]) == (True, 0.99)
    segcoord.save(segcoord.load(tiny_run / "best.ckpt", fold=False), tmp_path / "bare.ckpt")
    config = f"--config={tiny_run / 'config.yaml'}"
    assert main(["data", "pack", config, "--split=val", f"--out={tmp_path / 'packs'}"]) == 0
    packed = [config, f"--data.pack={tmp_path / 'packs'}"]
    protocol = score(tmp_path / "bare.ckpt", tmp_path, *packed)["protocol"]
    assert (protocol["ema"], protocol["ema_decay"], protocol["step"]) == (None, None, None)
    assert protocol["pack"] == str(tmp_path / "packs" / "val")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scales", "1.0", "0"], "scales: found 0, expected above 0, and 16 at most"),
        (["--scales", "-1"], "scales: found -1"),
        (["--scales", "big"], "scales"),
        (["--tile=769"], "--tile: found '769', expected HEIGHTxWIDTH"),
        (["--tile=64x64", "--overlap=64"], "overlap: found 64, expected 0 to 63"),
        (["--overlap=0"], "--overlap: found 0 without --tile"),
    ],
)
def test_invalid_views_are_refused(tiny_run: Path, capsys, options, message) -> None:
    assert run(evaluate, "evaluate.py", [f"--checkpoint={tiny_run / 'best.ckpt'}", *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def resident(field: str = "VmRSS") -> float:
    """Resident memory of this process in MB; its peak with VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(field)) / 1000


@pytest.mark.parametrize("views", [Views(), Views((0.5,), True)], ids=["one view", "two"])
def test_memory_does_not_grow_with_the_split(views: Views, tmp_path: Path) -> None:
    """Keeping the images would take 40 MB."""
    cv2.imwrite(str(tmp_path / "i.png"), np.zeros((256, 320, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "m.png"), np.zeros((256, 320), np.uint8))
    model = local_model(8)
    paths = tmp_path / "i.png", tmp_path / "m.png"
    split = Split("val", [Sample(str(i), *paths, model.labels) for i in range(180)], model.labels)
    seen = []
    scores = evaluate_split(model, split, 0, lambda *_: seen.append(resident()), views)
    assert scores.truth.sum() == 180 * 256 * 320
    assert max(seen[20:]) - seen[20] < 10


def test_averaging_views_allocates_no_full_size_logits() -> None:
    """Logits of a whole image would take 160 MB per view."""
    image, model = np.zeros((1024, 2048, 3), np.uint8), local_model(16, classes=19)
    views = Views((0.5, 1.0), True)
    segcoord.predict(model, image[:64], views)  # loads libraries
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident()
    segcoord.predict(model, image, views)
    assert resident("VmHWM") - before < 130
