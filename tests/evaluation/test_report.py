"""The report: statistics against naive implementations of their definitions, and its page."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import opened_offline
from PIL import Image
from torchmetrics.classification import MulticlassCalibrationError

from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import run
from segcoord.config.schema import DataConfig
from segcoord.data.labels import LabelClass, LabelSet
from segcoord.data.split import Sample
from segcoord.evaluation.bootstrap import count_image, mean_iou_in_truth, paired_bootstrap
from segcoord.evaluation.mean_iou import MeanIoU
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.protocol import protocol
from segcoord.evaluation.report import boundary, calibration, object_sizes
from segcoord.evaluation.report.collect import ReportCollector, ReportData
from segcoord.evaluation.report.extremes import MAX_SIDE, NUM_IMAGES, ExtremeImages
from segcoord.evaluation.report.figures import write_figures
from segcoord.evaluation.report.page import write_page
from segcoord.inference.scales_and_tiles import Views
from segcoord.models.factory import create_model

NASTY = "<script>alert(1)</script>"
NAMES = [NASTY, "$a_{b}$ & \"c\" 'd'", "</script><img src=x onerror=alert(2)>", "road"]
STEM = "<img src=x onerror=alert(3)>"


def blocky(rng: np.random.Generator, h: int, w: int, k: int) -> np.ndarray:
    """(h, w) uint8 with regions of many sizes, and void."""
    scales = [
        rng.integers(0, k, (-(-h // s), -(-w // s))).repeat(s, 0).repeat(s, 1) for s in (11, 3)
    ]
    maps = np.where(rng.random((h, w)) < 0.93, scales[0][:h, :w], scales[1][:h, :w])
    return np.where(rng.random((h, w)) < 0.03, 255, maps).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (23, 31)])
def test_bands_contain_the_pixels_near_a_boundary(size) -> None:
    rng = np.random.default_rng(0)
    truth, prediction = blocky(rng, *size, 3), rng.integers(0, 3, size).astype(np.uint8)
    h, w = size
    edge = []
    for y, x in np.ndindex(h, w):
        neighbors = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if any(0 <= a < h and 0 <= b < w and truth[a, b] != truth[y, x] for a, b in neighbors):
            edge.append((y, x))
    counted = boundary.BoundaryBands(3)
    counted.add(prediction, truth)
    for width, scores in enumerate(counted.bands(), 1):
        confusion = np.zeros((3, 3), int)
        for y, x in np.ndindex(h, w):
            near = any((y - a) ** 2 + (x - b) ** 2 < width**2 for a, b in edge)
            if near and truth[y, x] != 255:
                confusion[truth[y, x], prediction[y, x]] += 1
        assert np.array_equal(scores.confusion[:, :3], confusion)


def regions(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Connected regions by flood fill, with 8 neighbors."""
    left, result = set(map(tuple, np.argwhere(mask))), []
    while left:
        queue, region = [left.pop()], set()
        while queue:
            y, x = queue.pop()
            region.add((y, x))
            neighbors = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= neighbors
            queue += neighbors
        result.append(region)
    return result


def test_object_sizes_follow_their_definition(monkeypatch) -> None:
    monkeypatch.setattr(object_sizes, "SIDES", (2, 4, 7))
    monkeypatch.setattr(object_sizes, "BINS", 4)
    rng, k = np.random.default_rng(1), 3
    counted, confusion = object_sizes.ObjectSizes(k), np.zeros((3, k), int)
    names = ("objects", "truth", "true_positives", "false_positives")
    expected = {name: Counter() for name in names}
    for size in [(26, 33)] * 4 + [(1, 1), (5, 1)]:
        truth = blocky(rng, *size, k)
        noise = rng.random(size) < 0.25
        prediction = np.where(noise, rng.integers(0, k, size), truth).astype(np.uint8)
        prediction[prediction == 255] = 1
        counted.add(prediction, truth)
        confusion += count_image(prediction, truth, k)
        for c in range(k):
            own = [(o, sum(len(o) >= s * s for s in (2, 4, 7))) for o in regions(truth == c)]
            predicted = {tuple(p) for p in np.argwhere((prediction == c) & (truth != 255))}
            for pixels, b in own:
                expected["objects"][b, c] += 1
                expected["truth"][b, c] += len(pixels)
                expected["true_positives"][b, c] += len(pixels & predicted)
            for region in regions((prediction == c) & (truth != 255)):
                shared = [(len(region & pixels), b) for pixels, b in own if region & pixels]
                most = {b for n, b in shared if n == max(shared)[0]}
                b = sum(len(region) >= s * s for s in (2, 4, 7))
                wrong = sum(truth[p] != c for p in region)
                if wrong and len(most) > 1:
                    pytest.fail("two objects overlap equally: choose another seed")
                expected["false_positives"][most.pop() if most else b, c] += wrong
    for name, counter in expected.items():
        array = getattr(counted, name)
        assert array.shape == (4, k)
        assert {p: n for p, n in np.ndenumerate(array) if n} == +counter
    assert np.array_equal(counted.true_positives.sum(0), confusion[0])
    assert np.array_equal(counted.truth.sum(0), confusion[1])
    assert np.array_equal(counted.false_positives.sum(0), confusion[2] - confusion[0])


@pytest.mark.parametrize(("size", "stride"), [((33, 50), 16), ((64, 96), 8), ((3, 2), 16)])
def test_sampled_logits_equal_the_upsampled_map(size, stride) -> None:
    padded = tuple(n + -n % stride for n in size)
    logits = torch.randn(5, *(n // stride for n in padded))
    up = F.interpolate(logits[None], padded, mode="bilinear", align_corners=False)[0]
    step = calibration.STEP
    expected = up[:, : size[0], : size[1]][:, step // 2 :: step, step // 2 :: step]
    sampled = calibration.sample_logits(logits, padded, size)
    assert sampled.shape == expected.shape
    assert torch.allclose(sampled, expected, atol=1e-5)


def test_calibration_error_equals_torchmetrics() -> None:
    torch.manual_seed(0)
    logits, truth = 2 * torch.randn(5000, 4), torch.randint(0, 4, (5000,))
    confidence, prediction = logits.softmax(1).max(1)
    counted = calibration.Calibration()
    for part in (slice(0, 1000), slice(1000, None)):
        correct = (prediction == truth)[part].numpy()
        counted.count(confidence[part].double().numpy(), correct)
    metric = MulticlassCalibrationError(4, n_bins=calibration.BINS, norm="l1")
    assert counted.ece == pytest.approx(float(metric(logits, truth)), abs=1e-6)
    assert counted.pixels.sum() == 5000


def test_only_the_extreme_images_are_kept() -> None:
    rng, extremes, scores = np.random.default_rng(2), ExtremeImages(), {}
    for i in range(30):
        truth = np.zeros((40, 2000), np.uint8)
        prediction = (rng.random(truth.shape) < (i * 7 % 30) / 40).astype(np.uint8)
        counts = count_image(prediction, truth, 2)
        scores[f"{i:02}"] = counts[0, 0] / truth.size
        extremes.add(f"{i:02}", np.zeros((40, 2000, 3), np.uint8), prediction, truth, counts)
        assert len(extremes._worst + extremes._best) <= 2 * NUM_IMAGES
    order = sorted(scores, key=scores.get)
    worst, best = extremes.worst_and_best()
    assert [e.stem for e in worst] == order[:NUM_IMAGES]
    assert [e.stem for e in best] == order[: -NUM_IMAGES - 1 : -1]
    assert worst[0].miou == pytest.approx(scores[order[0]])
    assert worst[0].image.shape == (13, MAX_SIDE, 3) and worst[0].truth.shape == (13, MAX_SIDE)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 7])
def test_each_of_few_images_is_shown_once(n: int) -> None:
    extremes = ExtremeImages()
    for i in range(n + 1):
        truth = np.full((4, 6), 255 if i == n else 0, np.uint8)  # the last one is unlabeled
        counts = count_image(np.zeros_like(truth), truth, 2)
        extremes.add(str(i), np.zeros((4, 6, 3), np.uint8), np.zeros_like(truth), truth, counts)
    worst, best = extremes.worst_and_best()
    assert sorted(e.stem for e in worst + best) == [str(i) for i in range(n)]


def report_data(names: list[str], images: int, error: float, change: bool = True) -> ReportData:
    """The report of an untrained model, with predictions that are wrong at a given rate."""
    rng, k = np.random.default_rng(3), len(names)
    colors = [(20, 60, 200), (250, 200, 10), (10, 140, 60), (90, 90, 90)]
    labels = LabelSet([LabelClass(n, c, i) for i, (n, c) in enumerate(zip(names, colors))])
    model = create_model("mobilenetv2_ca_050", k, labels=labels).eval()
    collected, metric, other_counts = ReportCollector(labels, images, model), MeanIoU(k), []
    for i in range(images):
        truth = blocky(rng, 48, 64, k - 1)  # the last class is absent
        prediction = np.where(truth == 255, 0, truth).astype(np.uint8)
        worse = prediction.copy()
        for mask, rate in ((prediction, error), (worse, error + 0.2)):
            wrong = rng.random(truth.shape) < rate
            mask[wrong] = rng.integers(0, k - 1, wrong.sum())
        stem = STEM if i == 0 else f"image_{i}"
        sample = Sample(stem, Path("a.jpg"), Path("a.png"), labels)
        image = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
        collected.add(sample, image, prediction, truth)
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        other_counts.append(count_image(worse, truth, k))

    confidence = rng.random(1000)  # that of the untrained model is nearly constant
    collected.calibration.count(confidence, rng.random(1000) < confidence)

    class FakeSplit(list):
        name, pack, left_out, exif = NASTY, None, 0, "ignore"

    FakeSplit.labels = labels

    data = DataConfig(layout="voc", root="/data/<b>")
    checkpoint = Path("runs/<i>/best.ckpt"), {}
    described = protocol(model, FakeSplit(range(images)), data, Views(), checkpoint)
    changed = paired_bootstrap(np.stack(other_counts), collected.counts, 200) if change else None
    against = change and "runs/<u>"
    return ReportData(metric.scores(), labels, described, collected, changed, against)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose names all contain HTML."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, report_data(NAMES, 12, 0.1))
    return path


def test_names_are_escaped_and_nothing_is_loaded_or_run(page: Path) -> None:
    text = page.read_text()
    assert NASTY not in text and "<img src=x" not in text and "<u>" not in text
    assert "<script" not in text and "default-src 'none'" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not re.search(r"https?://|@import|<link|<iframe", text)
    assert set(re.findall(r"url\((.{5})", text)) <= {"data:"}
    assert all(' alt="' in image for image in re.findall(r"<img [^>]*>", text))
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_charts_are_svg_images_with_the_numbers_beside_them(page: Path) -> None:
    text = page.read_text()
    charts = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', text)
    assert [alt.split(";")[0] for _, alt in charts] == [
        "Change of IoU per class with intervals",
        "IoU and recall by object size",
        "mIoU and pixel accuracy by the width of a band around boundaries",
        "Accuracy and number of pixels by confidence",
    ]
    for source, _ in charts:
        assert ElementTree.fromstring(base64.b64decode(source)).tag.endswith("}svg")
    rows = [text.count("<tr>", *re.search(rf'id="{part}".*?</section>', text, re.S).span())
            for part in ("change", "sizes", "boundary")]  # fmt: skip
    assert rows == [1 + 1 + len(NAMES), 1 + 6, 1 + boundary.MAX_WIDTH]


def test_a_perfect_prediction_of_one_image_has_a_page_and_figures(tmp_path: Path) -> None:
    one = report_data(["a", "b", "c"], 1, 0.0, change=False)
    write_page(tmp_path / "one.html", one)
    text = (tmp_path / "one.html").read_text()
    assert "No pixel is wrong." in text and "What changed" not in text and "nan" not in text
    assert "c: in neither truth nor prediction" in text
    names = {path.name for path in write_figures(tmp_path / "figures", one)}
    assert "worst.png" in names and "best.png" not in names and "change.pdf" not in names


def test_the_interval_names_its_classes_and_too_few_images(tmp_path: Path) -> None:
    """A class that is only predicted counts in the mIoU but not in the bootstrap."""
    data = report_data(["a", "b", "c"], 12, 0.1, change=False)
    write_page(tmp_path / "same.html", data)
    assert "over the 2 classes in truth" not in (tmp_path / "same.html").read_text()
    confusion = data.scores.confusion.copy()
    confusion[0, 2] += 5
    scores = Scores(confusion)
    assert scores.classes_counted == 3
    write_page(tmp_path / "other.html", replace(data, scores=scores))
    text = (tmp_path / "other.html").read_text()
    alone = 100 * mean_iou_in_truth(data.collected.counts.sum(0))
    assert f"over the 2 classes in truth, {alone:.1f}, by resampling" in text
    assert "too few to trust it" not in text
    write_page(tmp_path / "few.html", report_data(["a", "b", "c"], 3, 0.1))
    few = (tmp_path / "few.html").read_text()
    assert "3 are too few to trust it" in few
    assert "<td>3 *</td>" in few and "too few to tell it from noise" in few


def test_evaluate_writes_page_and_figures(tiny_run: Path, tmp_path: Path, capsys) -> None:
    checkpoint = tiny_run / "best.ckpt"
    arguments = [
        f"--checkpoint={checkpoint}",
        f"--report={tmp_path / 'report.html'}",
        f"--figures={tmp_path / 'figures'}",
        f"--against={tiny_run}",
        "--flip",
    ]
    assert run(evaluate, "evaluate.py", arguments) == 0
    miou = re.search(r"mIoU ([\d.]+) %", capsys.readouterr().out)[1]
    text = (tmp_path / "report.html").read_text()
    assert f"mIoU {miou} % on val" in text and "flipped: yes" in text
    assert f"{checkpoint}" in text and "have the same mIoU in every resample" in text
    names = ("classes", "confusion", "sizes", "boundary", "calibration", "change")
    expected = {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
    assert {p.name for p in (tmp_path / "figures").iterdir()} == expected | {
        "worst.png",
        "best.png",
    }
    with Image.open(tmp_path / "figures" / "sizes.png") as figure:
        assert figure.size[0] == round(6.4 * 300) and round(figure.info["dpi"][0]) == 300
    assert (tmp_path / "figures" / "change.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against={run}"], "--report"),
        (["--report={out}", "--against=nowhere"], "nowhere"),
        (["--report={out}", "--split=test", "--masks={out}s"], "test"),
    ],
)
def test_invalid_options_are_refused(arguments, message, tiny_run, tmp_path, capsys) -> None:
    paths = {"run": tiny_run, "out": tmp_path / "out"}
    options = [argument.format(**paths) for argument in arguments]
    assert run(evaluate, "evaluate.py", [f"--checkpoint={tiny_run / 'best.ckpt'}", *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_an_error_before_an_image_is_read(
    tiny_run, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("segcoord.evaluation.report.build.find_spec", lambda name: None)
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", "--report=r.html"]
    assert run(evaluate, "evaluate.py", arguments) == 1
    assert "segcoord[report]" in capsys.readouterr().err


@pytest.fixture
def opened(page: Path) -> Iterator:
    with opened_offline(page) as tab:
        yield tab


def test_browser_shows_the_whole_page(opened) -> None:
    assert opened.locator(".classes tbody th").all_inner_texts() == NAMES
    assert opened.locator(".example h4 span").filter(has_text=STEM).count() == 1
    assert opened.locator(".example").count() == 8
    assert opened.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    for link in opened.locator("nav a").all():
        target = link.get_attribute("href")
        link.click()
        assert opened.url.endswith(target) and opened.locator(target).is_visible()
    for name in ("change", "sizes", "boundary", "calibration"):
        opened.locator(f"#{name} summary").press("Enter")
        assert opened.locator(f"#{name} .numbers tbody tr").first.is_visible()

    def style(selector: str, name: str) -> str:
        return opened.locator(selector).first.evaluate(f"e => getComputedStyle(e).{name}")

    assert style(".map.truth", "opacity") == "0.6"
    opened.locator("#opaque").check()
    assert style(".map.truth", "opacity") == "1"
    width = opened.locator(".layers").first.bounding_box()["width"]
    opened.locator("#large").check()
    assert opened.locator(".layers").first.bounding_box()["width"] > 1.9 * width
    for scheme, dark in (("light", False), ("dark", True)):
        opened.emulate_media(color_scheme=scheme)
        color = style("body", "backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", color)[:3])) < 120) == dark
        assert ("invert(1)" in style("img.chart", "filter")) == dark
    opened.set_viewport_size({"width": 390, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
