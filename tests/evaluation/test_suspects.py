"""Suspect labels: faults planted in small label maps, and the command on the sample dataset."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, images_of
from PIL import Image

from segcoord.cli.data.suspects import suspects
from segcoord.cli.main import run
from segcoord.data.labels import VOID
from segcoord.evaluation.suspects.ranking import SuspectRanking, describe, region_score
from segcoord.evaluation.suspects.regions import Region, find_regions, region_mask
from segcoord.evaluation.suspects.uncertainty import measure

NAMES = ["sky", "road", "building", "car"]
HEIGHT, WIDTH = 180, 240


def street(seed: int) -> np.ndarray:
    """A building in the sky above a road with two cars, (180, 240)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    horizon = int(rng.integers(80, 100))
    labels[horizon:] = 1
    labels[rng.integers(20, 50) : horizon, rng.integers(20, 70) : rng.integers(120, 170)] = 2
    for left in (rng.integers(5, 60), rng.integers(130, 190)):
        top = rng.integers(horizon + 10, 140)
        labels[top : top + 26, left : left + 42] = 3
    return labels


def moved(labels: np.ndarray, down: int, right: int, fill: int | None = None) -> np.ndarray:
    """Shifts a map; the pixels that enter it repeat the edge, or have the value `fill`."""
    mode = {"mode": "edge"} if fill is None else {"constant_values": fill}
    margin = max(abs(down), abs(right))
    padded = np.pad(labels, margin, **mode)
    top, left = margin - down, margin - right
    return padded[top : top + HEIGHT, left : left + WIDTH].copy()


def network(truth: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What a network might predict: blurred, up to 4 pixels off, and unsure of one place."""
    rng = np.random.default_rng(seed)
    seen = moved(truth, *rng.integers(-4, 5, 2).tolist())
    planes = [cv2.GaussianBlur((seen == c).astype(np.float32), (0, 0), 2) for c in range(4)]
    probabilities = 0.03 + 0.88 * np.stack(planes)
    y, x = int(rng.integers(0, 140)), int(rng.integers(0, 200))
    probabilities[:, y : y + 30, x : x + 30] = 0.4 * probabilities[:, y : y + 30, x : x + 30] + 0.05
    probabilities[rng.integers(4), y : y + 30, x : x + 30] += 0.4
    return probabilities.argmax(0).astype(np.uint8), probabilities.astype(np.float16)


def swap_class(labels: np.ndarray, seed: int) -> np.ndarray:
    return np.where(labels == 2, 3, labels).astype(np.uint8)


def drop_region(labels: np.ndarray, seed: int) -> np.ndarray:
    labels[:, :120][labels[:, :120] == 3] = 1
    return labels


def shift_mask(labels: np.ndarray, seed: int) -> np.ndarray:
    return moved(labels, 14, -16, VOID)


def spill_polygon(labels: np.ndarray, seed: int) -> np.ndarray:
    corners = np.array([(150, 90), (225, 60), (230, 120), (190, 150)])
    return cv2.fillPoly(labels, [corners], 2)


def take_other_mask(labels: np.ndarray, seed: int) -> np.ndarray:
    return street(seed + 1000)


FAULTS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "class swapped": swap_class,
    "region missing": drop_region,
    "mask shifted": shift_mask,
    "polygon spilled": spill_polygon,
    "mask of another frame": take_other_mask,
}


def ranking_of(faults: dict[int, str], images: int) -> SuspectRanking:
    ranking = SuspectRanking(NAMES)
    for index in range(images):
        truth = street(index)
        labels = FAULTS[faults[index]](truth.copy(), index) if index in faults else truth
        ranking.add(index, labels, *network(truth, index))
    return ranking


@pytest.mark.parametrize("kind", FAULTS)
def test_a_planted_fault_ranks_before_clean_images(kind: str) -> None:
    first, second, *others = ranking_of({2: kind, 5: kind}, 8).ranked()
    assert {first.index, second.index} == {2, 5}
    assert others  # the network is wrong in clean images too
    assert second.score > 1.2 * others[0].score


def test_all_kinds_of_faults_rank_before_clean_images() -> None:
    faults = dict(zip(range(1, 11, 2), FAULTS))
    ranked = ranking_of(faults, 16).ranked()
    assert {suspect.index for suspect in ranked[:5]} == faults.keys()


def test_a_fault_is_described_and_located() -> None:
    truth = street(0)
    labels = drop_region(truth.copy(), 0)
    ranking = SuspectRanking(NAMES)
    prediction, probabilities = network(truth, 0)
    ranking.add(7, labels, prediction, probabilities)
    (suspect,) = ranking.ranked()
    region = suspect.worst.region
    assert (suspect.index, NAMES[region.given], NAMES[region.predicted]) == (7, "road", "car")
    assert suspect.worst.reason == "car not labeled in road"
    missing = (truth == 3) & (labels == 1)
    assert missing[region.center[::-1]]
    mask = region_mask(region, labels, prediction)
    assert mask.sum() == region.area == pytest.approx(missing.sum(), rel=0.4)
    assert cv2.boundingRect(mask) == region.box


def flat(labels: np.ndarray, prediction: np.ndarray) -> list[Region]:
    """Regions with probability 0.8 of each predicted, and 0.1 of each given class."""
    shape = labels.shape
    confidence, support = np.full(shape, 0.8, np.float32), np.full(shape, 0.1, np.float32)
    return find_regions(labels, prediction, confidence, support)


def test_thin_disagreement_counts_less_than_a_compact_one_with_fewer_pixels() -> None:
    labels, prediction = np.zeros((2, 200, 200), np.uint8)
    prediction[20:24] = 1  # 800 pixels
    prediction[100:115, 50:65] = 1  # 225 pixels
    compact, thin = flat(labels, prediction)
    assert (compact.area, thin.area) == (225, 800)
    assert (compact.radius, thin.radius) == (8, 2)
    assert compact.thickness == pytest.approx(512 / (512 + 1.5**3))
    assert thin.thickness == pytest.approx(8 / (8 + 1.5**3))  # 1.5 is 0.75 % of 200
    assert compact.confidence == pytest.approx(0.8) and thin.support == pytest.approx(0.1)


def test_lines_and_void_are_no_regions() -> None:
    labels, prediction = np.zeros((2, 60, 60), np.uint8)
    prediction[10:12] = 1
    prediction[30:50, 30:50] = 1
    labels[30:50, 30:50] = VOID
    assert flat(labels, prediction) == []


def test_the_self_confidence_of_a_class_is_its_mean_probability_where_it_is_labeled() -> None:
    labels = np.array([[0, 0, 1, VOID]], np.uint8)
    first = np.array([[0.5, 0.75, 0.25, 0.5]])
    probabilities = np.stack([first, 1 - first, 0 * first]).astype(np.float16)
    ranking = SuspectRanking(["a", "b", "c"])
    ranking.add(0, labels, probabilities.argmax(0).astype(np.uint8), probabilities)
    assert ranking.self_confidence.tolist() == [0.625, 0.75, 1]  # no pixel is labeled c
    assert ranking.pixels.tolist() == [2, 1, 0]


def test_an_image_of_void_is_not_ranked() -> None:
    ranking = SuspectRanking(NAMES)
    ranking.add(0, np.full((HEIGHT, WIDTH), VOID, np.uint8), *network(street(0), 0))
    assert ranking.images == 0 and ranking.ranked() == []


def made_up(**changes: float) -> Region:
    values = {"given": 0, "predicted": 1, "box": (0, 0, 9, 9), "center": (4, 4), "area": 81}
    values |= {"radius": 5.0, "thickness": 0.5, "confidence": 0.75, "support": 0.125}
    return Region(**{**values, "part_of_labeled": 0.2, "part_of_predicted": 0.3, **changes})


def test_the_score_is_the_margin_relative_to_the_self_confidences() -> None:
    region = made_up()
    others = [0.9] * 7
    assert region_score(region, np.array([0.5, *others])) == 0.5 * (0.75 - 0.25)
    unreliable = region_score(region, np.array([0.25, *others]))
    assert unreliable == 0.5 * (0.75 - 0.5)
    assert region_score(made_up(support=0.5), np.array([0.5, *others])) == 0  # as sure as usual
    assert region_score(made_up(support=0.0), np.array([0.125, *others])) == 0  # an unknown class


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        ({"part_of_labeled": 0.9}, "labeled sky, looks like road"),
        ({"part_of_predicted": 0.9}, "road not labeled in sky"),
        ({}, "sky extends over road"),
    ],
)
def test_reasons(shares: dict[str, float], reason: str) -> None:
    assert describe(made_up(**shares), NAMES) == reason


def test_a_mask_that_disagrees_much_more_than_the_others_is_noted() -> None:
    ranked = ranking_of({3: "mask of another frame"}, 8).ranked()
    assert "% of the mask disagrees" in ranked[0].worst.reason
    assert all("of the mask" not in suspect.worst.reason for suspect in ranked[1:])


@pytest.mark.parametrize(
    ("probabilities", "entropy", "margin"),
    [((0.25,) * 4, 1, 0), ((1, 0, 0, 0), 0, 1), ((0, 0.5, 0, 0.5), 0.5, 0)],
)
def test_uncertainty(probabilities: tuple[float, ...], entropy: float, margin: float) -> None:
    planes = np.array(probabilities, np.float16)[:, None, None] * np.ones((1, 3, 5), np.float16)
    found = measure(np.ones((3, 5), np.uint8), planes)
    assert found.entropy == pytest.approx(entropy, abs=1e-6)
    assert found.margin == pytest.approx(margin, abs=1e-6)
    assert found.by_class.tolist() == [0, 1 if entropy else 0, 0, 0]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def sure(tiny_run: Path, tmp_path: Path) -> Path:
    """The checkpoint of `tiny_run` with larger logits, hence with probabilities near 0 and 1."""
    content = torch.load(tiny_run / "best.ckpt", weights_only=True)
    for name, tensor in content["state_dict"].items():
        if "segmentation_head" in name:
            tensor *= 50
    torch.save(content, tmp_path / "sure.ckpt")
    return tmp_path / "sure.ckpt"


def test_the_command_writes_the_ranking_and_a_contact_sheet(
    sure: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    arguments = [f"--checkpoint={sure}", f"--out={out}", "--top=3"]
    assert run(suspects, "segcoord data suspects", [*arguments, "--data.workers=0"]) == 0
    result = json.loads((out / "suspects.json").read_text())
    images = result["suspects"]
    scores = [image["score"] for image in images]
    assert scores == sorted(scores, reverse=True) and scores[-1] > 0 and scores[0] <= 1
    assert [image["rank"] for image in images] == list(range(1, len(images) + 1))
    assert result["protocol"]["split"] == "train" and result["protocol"]["images"] == 16
    assert all(c["pixels"] == 0 or 0 <= c["self_confidence"] <= 1 for c in result["classes"])
    for image in images:
        assert image["score"] == image["regions"][0]["score"]
        labels = np.array(Image.open(image["mask_file"]))
        for region in image["regions"]:
            (x, y, width, height), center = region["box"], region["center"]
            assert x <= center[0] < x + width <= 128 and y <= center[1] < y + height <= 96
            names = [c["name"] for c in result["classes"]]
            assert names[labels[center[1], center[0]]] == region["given"] != region["predicted"]
    rows = read_csv(out / "suspects.csv")
    assert [row["image"] for row in rows] == [i["image"] for i in images for _ in i["regions"]]
    assert rows[0]["reason"] == images[0]["regions"][0]["reason"]
    width, height = Image.open(out / "sheet.jpg").size
    assert width > 4 * 320 and height > 3 * 240  # a caption and 3 pictures; 3 rows
    printed = capsys.readouterr().out
    assert "suspects.csv" in printed and images[0]["image"] in printed
    assert "was trained on these labels" in printed


def test_without_suspects_there_is_no_contact_sheet(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(SuspectRanking, "ranked", lambda self: [])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sheet.jpg").touch()  # of an earlier ranking
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", f"--out={tmp_path / 'out'}"]
    assert run(suspects, "segcoord data suspects", [*arguments, "--data.workers=0"]) == 0
    assert "16 images: no region's labels contradict the prediction" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "suspects.json").read_text())["suspects"] == []
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"suspects.csv", "suspects.json"}


@pytest.fixture
def photos(sample_voc: Path, tmp_path: Path) -> Path:
    """Two photos, one of them in a subfolder, a file that is none, and a text."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    first, second, *_ = sorted(images_of(sample_voc).iterdir())
    shutil.copy(first, folder / "a.jpg")
    Image.open(second).rotate(90, expand=True).resize((40, 200)).save(folder / "sub" / "b.png")
    (folder / "broken.jpg").write_text("not an image")
    (folder / "notes.txt").write_text("of no use")
    return folder


def test_unlabeled_images_are_ranked_by_entropy(
    tiny_run: Path, photos: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", f"--unlabelled={photos}"]
    assert run(suspects, "segcoord data suspects", [*arguments, f"--out={out}"]) == 3
    images = json.loads((out / "unlabelled.json").read_text())["images"]
    assert {image["image"] for image in images} == {str(photos / n) for n in ("a.jpg", "sub/b.png")}
    assert 1 > images[0]["score"] >= images[1]["score"] > 0
    assert all(0 < i["margin"] < 1 and 1 <= len(i["uncertain_classes"]) <= 3 for i in images)
    rows = read_csv(out / "unlabelled.csv")
    assert [row["image"] for row in rows] == [image["image"] for image in images]
    assert math.isclose(float(rows[0]["score"]), images[0]["score"], abs_tol=1e-4)
    assert Image.open(out / "sheet.jpg").size[1] > 240 + 480  # the tall photo's row is limited
    printed = capsys.readouterr().out
    assert "broken.jpg: " in printed and "1 of 3 images could not be ranked" in printed
    assert "skipped: 1 .txt" in printed


BAD: dict[str, tuple[list[str], str]] = {
    "--top": (["--top=0"], "--top: found 0, expected 1 to 100"),
    "--overlap alone": (["--overlap=8"], "--overlap: found 8 without --tile"),
    "--out is a file": (["--out={file}"], "is not a folder"),
    "--out in the dataset": (["--out={images}"], "is a folder of the dataset"),
    "no such split": (["--split=tset"], "no such split list"),
    "no masks": (["--split=unlabeled"], "has no masks, so there are no labels to check"),
    "other classes": (["--checkpoint={voc}", "{config}"], "voc.ckpt was trained for 21"),
    "split and folder": (["--unlabelled={images}", "--split=val"], "--split: has no use with"),
    "settings and folder": (["--unlabelled={images}", "--data.workers=0"], "--data.workers: has"),
    "no folder": (["--unlabelled={file}"], "no such folder"),
    "no images": (["--unlabelled={empty}"], "no image or video"),
    "--out in the folder": (["--unlabelled={images}", "--out={images}/out"], "is in the folder of"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(
    case: str, tiny_run: Path, root: Path, voc_checkpoint: Path, tmp_path: Path, capsys
) -> None:
    lists = images_of(root).parent / "ImageSets" / "Segmentation"
    Image.new("RGB", (32, 32)).save(images_of(root) / "extra.jpg")
    (lists / "unlabeled.txt").write_text("extra\n")
    (tmp_path / "empty").mkdir()
    file = tmp_path / "file"
    file.touch()
    options, message = BAD[case]
    names = {"file": file, "images": images_of(root), "empty": tmp_path / "empty"}
    names |= {"voc": voc_checkpoint, "config": f"--config={ROOT / 'configs' / 'sample.yaml'}"}
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", f"--out={tmp_path / 'out'}"]
    if not any("unlabelled" in option for option in options):
        arguments.append(f"--data.root={root}")
    arguments += [option.format(**names) for option in options]
    assert run(suspects, "segcoord data suspects", arguments) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
