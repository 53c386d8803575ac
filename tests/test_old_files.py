"""Files of every format that an older version wrote load, resume and score the same."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, weights

import segcoord
from segcoord.cli.main import main, run
from segcoord.cli.train import train
from segcoord.config.loading import read_yaml
from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.layouts import find_split
from segcoord.data.pack.reader import pixel_source, verify, with_pack
from segcoord.models.classifier import create_classifier
from segcoord.training.init_from import init_from

OLD = ROOT / "tests" / "fixtures" / "v0"
EXPECTED = json.loads((OLD / "expected.json").read_text())


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in; the run names its data relative to it."""
    folder = Path(shutil.copytree(OLD, tmp_path / "old"))
    for split in ("train", "val"):  # a pack knows its files by time too, which git doesn't keep
        base = folder / "data" / "VOCdevkit" / "VOC2012"
        for line in (
            (folder / "data/.segcoord" / split / "index.jsonl").read_text().splitlines()[1:]
        ):
            row = json.loads(line)
            if "stem" not in row:  # the last line, a checksum
                continue
            for kind, file in (
                ("image", f"JPEGImages/{row['stem']}.jpg"),
                ("mask", f"SegmentationClass/{row['stem']}.png"),
            ):
                os.utime(base / file, ns=(row[kind][1], row[kind][1]))
    monkeypatch.chdir(folder)
    return folder


def data_of(folder: Path, **more: object) -> DataConfig:
    settings = read_yaml(folder / "run" / "config.yaml")["data"]
    classes = [ClassConfig(**c) for c in settings["classes"]]
    return DataConfig("voc", str(folder / "data"), classes=classes, **more)


def test_a_run_resumes_to_the_same_weights(old: Path) -> None:
    assert run(train, "train.py", ["--resume=run"]) == 0
    found = weights(old / "run")
    expected = EXPECTED["finished"]
    assert found.keys() == expected["norms"].keys()
    for name, tensor in found.items():  # another CPU may round in another way
        assert float(tensor.double().norm()) == pytest.approx(
            expected["norms"][name], rel=1e-3, abs=1e-5
        )


@pytest.mark.parametrize(
    "source",
    ["run/best.ckpt", "shared", "exported/onnx", "exported/openvino", "exported/torchscript"],
)
def test_each_format_scores_the_same(old: Path, source: str) -> None:
    options = [f"--checkpoint={source}", "--json=score.json", "--config=run/config.yaml"]
    assert main(["evaluate", *options]) == 0
    score = json.loads((old / "score.json").read_text())
    assert score["miou"] == pytest.approx(EXPECTED["miou"], abs=1e-4)
    assert [c["iou"] for c in score["classes"]] == pytest.approx(EXPECTED["ious"], abs=1e-3)


def test_a_half_precision_pt2_folder_predicts_the_same(old: Path) -> None:
    image = next((old / "data").rglob("2026_500001.jpg"))
    masks = [segcoord.predict(segcoord.load(f), image) for f in ("run/best.ckpt", "exported/pt2")]
    assert (masks[0] == masks[1]).mean() > 0.999


def test_coordinate_attention_has_its_names(old: Path) -> None:
    model = segcoord.load("coordinate_attention_half.ckpt")
    image = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    mask, probabilities = segcoord.predict_probabilities(model, image)
    expected = EXPECTED["coordinate_attention"]
    counts = np.bincount(mask.ravel(), minlength=5)
    assert np.abs(counts - expected["mask_counts"]).max() <= 2
    assert list(probabilities.shape) == expected["shape"]
    assert float(probabilities.astype(float).std()) == pytest.approx(
        expected["probability_std"], rel=1e-3
    )


def test_a_pack_is_read(old: Path) -> None:
    data = data_of(old)
    for name in ("train", "val"):
        split = with_pack(find_split(data, name), data)
        assert split.pack is not None and ".segcoord" in pixel_source(split, data)
        verify(split.pack, split)


def test_a_classifier_starts_a_backbone(old: Path) -> None:
    model = create_classifier("test_efficientnet", ["a", "b"], None, None)
    report = init_from(model, old / "classifier.ckpt")
    assert not report.new and not report.unused
    other = segcoord.create_model("test_efficientnet", 3, decoder="pan")
    report = init_from(other, old / "classifier.ckpt")
    assert report.matched and not any(".encoder." in name for name in report.new)
    assert all(torch.isfinite(t).all() for t in other.state_dict().values())
