"""Cityscapes scores against those that the official tool prints and writes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import CAMVID, instances_of
from PIL import Image

from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import run
from segcoord.cli.score import score as score_masks
from segcoord.config.schema import DataConfig
from segcoord.data.labels import CITYSCAPES, VOID
from segcoord.data.layouts import find_split
from segcoord.data.mask_reader import read_mask
from segcoord.data.mask_writer import write_mask
from segcoord.evaluation.cityscapes import (
    AVERAGE_SIZES,
    CATEGORIES,
    VOID_INSTANCE_IDS,
    CityscapesScores,
    InstanceWeights,
    instances_path,
    read_instances,
)
from segcoord.evaluation.mean_iou import MeanIoU
from segcoord.evaluation.metrics import Scores
from segcoord.utils.errors import UserError

VOID_IDS = CITYSCAPES.void_ids

# Its last release, 2.3.0, calls np.in1d, which numpy 2.4 removed.
OFFICIAL = """
import numpy
numpy.in1d = numpy.isin
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import main
main()
"""


def official(root: Path, masks: Path) -> tuple[str, dict]:
    """Output and JSON of the official tool for exported masks."""
    folders = {"DATASET": root, "RESULTS": masks, "EXPORT_DIR": masks.parent}
    env = os.environ | {f"CITYSCAPES_{name}": str(path) for name, path in folders.items()}
    process = subprocess.run(
        [sys.executable, "-c", OFFICIAL], env=env, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout, json.loads(
        (masks.parent / "resultPixelLevelSemanticLabeling.json").read_text()
    )


def assert_equal(printed: str, written: dict, scores: Scores, extra: CityscapesScores) -> None:
    """Compares printed scores digit by digit and written ones to 1e-12."""
    ours = {
        "class": (scores.iou, extra.class_iiou, CITYSCAPES.names),
        "category": (extra.categories.iou, extra.category_iiou, CATEGORIES),
    }
    lines = re.findall(r"^(\w[\w ]*\w)\s*: +(\S+) +(\S+)$", printed, re.M)
    assert len(lines) == 19 + 1 + 7 + 1
    shown = []
    for kind, (ious, iious, names) in ours.items():
        plural = {"class": "Classes", "category": "Categories"}[kind]
        for values, inst in ((ious, ""), (iious, "Inst")):
            theirs = [written[f"{kind}{inst}Scores"][name] for name in names]
            np.testing.assert_allclose(values, theirs, rtol=1e-12, atol=0)
            mean = np.nanmean(values) if np.isfinite(values).any() else np.nan
            theirs = written[f"averageScore{inst}{plural}"]
            np.testing.assert_allclose(mean, theirs, rtol=1e-12, atol=0)
        shown += [(n, f"{a:.3f}", f"{b:.3f}") for n, a, b in zip(names, ious, iious)]
        shown.append(("Score Average", *(f"{np.nanmean(v):.3f}" for v in (ious, iious))))
    assert lines == shown


def score(root: Path, predictions: dict[str, np.ndarray], masks: Path) -> tuple:
    """Scores a prediction for each stem of val and exports it to `masks`."""
    split = find_split(DataConfig("cityscapes", str(root)), "val")
    metric, weights = MeanIoU(19), InstanceWeights()
    for sample in split.samples:
        prediction = predictions[sample.stem]
        truth = read_mask(sample.mask, sample.labels, prediction.shape)
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        weights.update(prediction, read_instances(instances_path(sample), prediction.shape))
        write_mask(masks / f"{sample.stem}.png", prediction, CITYSCAPES, palette=False)
    scores = metric.scores()
    return scores, CityscapesScores(scores.confusion, weights.weights)


def write_frame(root: Path, number: int, ids: np.ndarray, instances: np.ndarray) -> str:
    """Writes image, label ids and instances of a frame of val; returns the image's stem."""
    frame = f"{'elmbridge' if number % 2 else 'fernmouth'}_{number:06d}_000019"
    city = frame.split("_")[0]
    for folder in ("leftImg8bit", "gtFine"):
        (root / folder / "val" / city).mkdir(parents=True, exist_ok=True)
    image = np.zeros((*ids.shape, 3), np.uint8)
    cv2.imwrite(str(root / "leftImg8bit" / "val" / city / f"{frame}_leftImg8bit.png"), image)
    for name, values in (("labelIds", ids), ("instanceIds", instances)):
        cv2.imwrite(str(root / "gtFine" / "val" / city / f"{frame}_gtFine_{name}.png"), values)
    return f"{frame}_leftImg8bit"


def blocks(random: np.random.Generator, size: tuple[int, int], values: list[int]) -> np.ndarray:
    """(H, W) uint8 of rectangles, some of a single pixel."""
    ids = np.full(size, random.choice(values), np.uint8)
    for _ in range(random.integers(0, 12)):
        y, x = (random.integers(n) for n in size)
        h, w = (1, 1) if random.random() < 0.4 else random.integers(1, 12, 2)
        ids[y : y + h, x : x + w] = random.choice(values)
    return ids


@pytest.fixture(scope="module")
def edge_cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """60 frames of 1x1 to 40x40 in the Cityscapes layout, and a prediction for each.

    Some have few classes, some are all void, train (31) and terrain (22) are absent, wall is only
    predicted, caravans and trailers are void instances.
    """
    root = tmp_path_factory.mktemp("edge_cases")
    random = np.random.default_rng(0)
    counted = [c.id for c in CITYSCAPES.classes if c.name not in ("train", "terrain", "wall")]
    predictions = {}
    for number in range(60):
        size = (1, 1) if number < 4 else tuple(random.integers(1, 41, 2))
        values = [*random.choice(counted, random.integers(1, 8)), *random.choice(VOID_IDS, 2)]
        ids = blocks(random, size, VOID_IDS if number % 10 == 9 else values)
        stem = write_frame(root, number, ids, instances_of(ids))
        prediction = CITYSCAPES.to_index[np.roll(ids, random.integers(-2, 3, 2), (0, 1))]
        holes = blocks(random, size, [3, *random.integers(0, 9, 3), 11, 12, 13, 17, 18])
        wrong = (prediction == VOID) | (random.random(size) < 0.1)
        predictions[stem] = np.where(wrong, holes, prediction)
    return root, predictions


def test_edge_cases_score_as_with_the_official_tool(edge_cases, tmp_path: Path) -> None:
    root, predictions = edge_cases
    scores, extra = score(root, predictions, tmp_path / "masks")
    absent = [CITYSCAPES.names[i] for i in scores.absent]
    assert absent == ["terrain", "train"]
    assert scores.iou[3] == 0  # wall, which is only predicted
    assert np.isfinite(extra.class_iiou).sum() == 7  # of the 8 classes with instances
    assert_equal(*official(root, tmp_path / "masks"), scores, extra)


def test_predicted_void_scores_as_with_the_official_tool(edge_cases, tmp_path: Path) -> None:
    """Void is label id 0; the official tool counts it as wrong."""
    root, predictions = edge_cases
    random = np.random.default_rng(1)
    (tmp_path / "masks").mkdir()
    for stem, prediction in predictions.items():
        ids = CITYSCAPES.to_value[prediction]
        ids[random.random(ids.shape) < 0.2] = 0
        cv2.imwrite(str(tmp_path / "masks" / f"{stem}.png"), ids)
    arguments = ["--data.layout=cityscapes", f"--data.root={root}"]
    arguments += [f"--predictions={tmp_path / 'masks'}", f"--json={tmp_path / 'score.json'}"]
    assert run(score_masks, "segcoord score", arguments) == 0
    ours = json.loads((tmp_path / "score.json").read_text())
    assert ours["predicted_void"] > 1000
    _, theirs = official(root, tmp_path / "masks")
    for rows, name, key in (
        (ours["classes"], "class", "iou"),
        (ours["cityscapes"]["categories"], "category", "iou"),
        (ours["cityscapes"]["classes"], "classInst", "iiou"),
        (ours["cityscapes"]["categories"], "categoryInst", "iiou"),
    ):
        for row in rows:
            value = theirs[f"{name}Scores"][row["name"]]
            expected = None if np.isnan(value) else pytest.approx(value, rel=1e-12)
            assert row[key] == expected, (name, row)


def test_void_only_scores_as_with_the_official_tool(tmp_path: Path) -> None:
    ids = np.array([[0, 29], [4, 30]], np.uint8)
    stem = write_frame(tmp_path / "data", 0, ids, instances_of(ids))
    predictions = {stem: np.full((2, 2), 13, np.uint8)}
    scores, extra = score(tmp_path / "data", predictions, tmp_path / "masks")
    _, written = official(tmp_path / "data", tmp_path / "masks")
    for ours, theirs in (
        (scores.miou, "Classes"),
        (extra.categories.miou, "Categories"),
        (extra.to_dict()["iiou"], "InstClasses"),
        (extra.to_dict()["category_iiou"], "InstCategories"),
    ):
        assert ours is None or np.isnan(ours)
        assert np.isnan(written[f"averageScore{theirs}"])


@pytest.mark.camvid
def test_camvid_in_cityscapes_layout_scores_as_with_the_official_tool(tmp_path: Path) -> None:
    """CamVid's 11 classes as similar Cityscapes classes; the prediction is the shifted truth."""
    nearest = "sky,building,pole,road,sidewalk,vegetation,traffic sign,fence,car,person,rider"
    to_id = np.zeros(256, np.uint8)
    to_id[:11] = [CITYSCAPES.classes[CITYSCAPES.names.index(n)].id for n in nearest.split(",")]
    folder = CAMVID / "VOCdevkit" / "VOC2012"
    stems = (folder / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    assert len(stems) == 101
    predictions = {}
    for number, stem in enumerate(stems):
        ids = to_id[np.array(Image.open(folder / "SegmentationClass" / f"{stem}.png"))]
        prediction = CITYSCAPES.to_index[np.roll(ids, (3, -5), (0, 1))]
        prediction[prediction == VOID] = 0
        predictions[write_frame(tmp_path / "data", number, ids, instances_of(ids))] = prediction
    scores, extra = score(tmp_path / "data", predictions, tmp_path / "masks")
    assert scores.classes_counted == 11
    assert_equal(*official(tmp_path / "data", tmp_path / "masks"), scores, extra)


def test_evaluate_prints_and_writes_the_official_scores(
    tmp_path: Path, sample_cityscapes: Path, cityscapes_checkpoint: Path, capsys
) -> None:
    root = tmp_path / "data"
    shutil.copytree(sample_cityscapes, root)
    arguments = [f"--checkpoint={cityscapes_checkpoint}", f"--json={tmp_path / 'score.json'}"]
    arguments += ["--data.layout=cityscapes", f"--data.root={root}", "--data.workers=0"]
    assert run(evaluate, "evaluate.py", arguments) == 0
    result = json.loads((tmp_path / "score.json").read_text())["cityscapes"]
    assert sorted(result) == ["categories", "category_miou"]
    printed = capsys.readouterr().out
    assert "iIoU is left out: 4 of 4 masks have no instance file beside them" in printed
    assert f"category mIoU {100 * result['category_miou']:.2f} %" in printed

    for mask in (root / "gtFine" / "val").glob("*/*_labelIds.png"):
        ids = np.array(Image.open(mask))
        path = mask.with_name(mask.name.replace("labelIds", "instanceIds"))
        cv2.imwrite(str(path), instances_of(ids))
    assert run(evaluate, "evaluate.py", [*arguments, f"--masks={tmp_path / 'masks'}"]) == 0
    result = json.loads((tmp_path / "score.json").read_text())["cityscapes"]
    _, written = official(root, tmp_path / "masks")
    for ours, theirs in (
        ("category_miou", "Categories"),
        ("iiou", "InstClasses"),
        ("category_iiou", "InstCategories"),
    ):
        assert result[ours] == pytest.approx(written[f"averageScore{theirs}"], rel=1e-12)
    assert [c["name"] for c in result["categories"]] == list(CATEGORIES)
    assert [c["name"] for c in result["classes"]] == list(AVERAGE_SIZES)
    assert f"mean iIoU {100 * result['iiou']:.2f} % over classes" in capsys.readouterr().out


def test_tables_equal_the_official_ones() -> None:
    from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import args
    from cityscapesscripts.helpers.labels import name2label

    for category, names in CATEGORIES.items():
        for name in names:
            assert name2label[name].category == category
    assert sum(CATEGORIES.values(), ()) == tuple(CITYSCAPES.names)
    with_instances = {n for n, label in name2label.items() if label.hasInstances}
    ignored = {n for n in with_instances if name2label[n].ignoreInEval}
    assert {name2label[n].id for n in ignored} == {*VOID_INSTANCE_IDS}
    assert {n: s for n, s in args.avgClassSize.items() if n not in ignored} == AVERAGE_SIZES


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 3), 26001, np.uint16), r"found \(2, 3\) uint16, expected \(2, 2\)"),
        (np.zeros((2, 2, 3), np.uint8), r"found \(2, 2, 3\) uint8"),
        (np.full((2, 2), 7001, np.uint16), "an instance of label id 7, expected .* 24, 25, 26"),
        (None, "can't be read as an image"),
    ],
)
def test_invalid_instance_files_are_refused(
    values: np.ndarray | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a_gtFine_instanceIds.png"
    path.write_bytes(b"not an image") if values is None else cv2.imwrite(str(path), values)
    with pytest.raises(UserError, match=message) as error:
        read_instances(path, (2, 2))
    assert str(path) in str(error.value)
