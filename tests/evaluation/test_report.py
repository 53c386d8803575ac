"""The report: what it counts, against plain readings of its definitions; its page, in a browser."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import chromium
from PIL import Image
from torchmetrics.classification import MulticlassCalibrationError

from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import run
from segcoord.config.schema import DataConfig
from segcoord.data.labels import LabelClass, LabelSet
from segcoord.data.split import Sample
from segcoord.evaluation.bootstrap import compare, count_image, mean_iou
from segcoord.evaluation.metrics import MeanIoU, Scores
from segcoord.evaluation.protocol import protocol
from segcoord.evaluation.report import boundary, calibration
from segcoord.evaluation.report import object_sizes as objects
from segcoord.evaluation.report.collect import ReportCollector, ReportData
from segcoord.evaluation.report.extremes import KEPT, LONGEST, Examples
from segcoord.evaluation.report.figures import write_figures
from segcoord.evaluation.report.page import write_page
from segcoord.inference.views import Views
from segcoord.models.factory import create_model

NASTY = "<script>alert(1)</script>"
NAMES = [NASTY, "$a_{b}$ & \"c\" 'd'", "</script><img src=x onerror=alert(2)>", "road"]
STEM = "<img src=x onerror=alert(3)>"


def blocky(rng: np.random.Generator, h: int, w: int, k: int) -> np.ndarray:
    """(h, w) uint8 with regions of all sizes, and void."""
    scales = [
        rng.integers(0, k, (-(-h // s), -(-w // s))).repeat(s, 0).repeat(s, 1) for s in (11, 3)
    ]
    maps = np.where(rng.random((h, w)) < 0.93, scales[0][:h, :w], scales[1][:h, :w])
    return np.where(rng.random((h, w)) < 0.03, 255, maps).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (23, 31)])
def test_bands_hold_the_pixels_near_a_change_of_labels(size) -> None:
    rng = np.random.default_rng(0)
    truth, prediction = blocky(rng, *size, 3), rng.integers(0, 3, size).astype(np.uint8)
    h, w = size
    edge = []
    for y, x in np.ndindex(h, w):
        beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if any(0 <= a < h and 0 <= b < w and truth[a, b] != truth[y, x] for a, b in beside):
            edge.append((y, x))
    counted = boundary.BoundaryBands(3)
    counted.add(prediction, truth)
    for width, scores in enumerate(counted.bands(), 1):
        confusion = np.zeros((3, 3), int)
        for y, x in np.ndindex(h, w):
            near = any((y - a) ** 2 + (x - b) ** 2 < width**2 for a, b in edge)
            if near and truth[y, x] != 255:
                confusion[truth[y, x], prediction[y, x]] += 1
        assert np.array_equal(scores.confusion, confusion)


def regions(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """By flooding, diagonals included."""
    left, found = set(map(tuple, np.argwhere(mask))), []
    while left:
        todo, region = [left.pop()], set()
        while todo:
            y, x = todo.pop()
            region.add((y, x))
            beside = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= beside
            todo += beside
        found.append(region)
    return found


def test_object_sizes_follow_their_definition(monkeypatch) -> None:
    monkeypatch.setattr(objects, "SIDES", (2, 4, 7))
    monkeypatch.setattr(objects, "BINS", 4)
    rng, k = np.random.default_rng(1), 3
    counted, confusion = objects.ObjectSizes(k), np.zeros((3, k), int)
    plain = {name: Counter() for name in ("objects", "truth", "found", "wrong")}
    for size in [(26, 33)] * 4 + [(1, 1), (5, 1)]:
        truth = blocky(rng, *size, k)
        noise = rng.random(size) < 0.25
        prediction = np.where(noise, rng.integers(0, k, size), truth).astype(np.uint8)
        prediction[prediction == 255] = 1
        counted.add(prediction, truth)
        confusion += count_image(prediction, truth, k)
        for c in range(k):
            own = [(o, sum(len(o) >= s * s for s in (2, 4, 7))) for o in regions(truth == c)]
            said = {tuple(p) for p in np.argwhere((prediction == c) & (truth != 255))}
            for pixels, b in own:
                plain["objects"][b, c] += 1
                plain["truth"][b, c] += len(pixels)
                plain["found"][b, c] += len(pixels & said)
            for region in regions((prediction == c) & (truth != 255)):
                shared = [(len(region & pixels), b) for pixels, b in own if region & pixels]
                most = {b for n, b in shared if n == max(shared)[0]}
                b = sum(len(region) >= s * s for s in (2, 4, 7))
                wrong = sum(truth[p] != c for p in region)
                if wrong and len(most) > 1:
                    pytest.fail("a draw between objects: choose another seed")
                plain["wrong"][most.pop() if most else b, c] += wrong
    for name, expected in plain.items():
        found = getattr(counted, name)
        assert found.shape == (4, k)
        assert {p: n for p, n in np.ndenumerate(found) if n} == +expected
    assert np.array_equal(counted.found.sum(0), confusion[0])
    assert np.array_equal(counted.truth.sum(0), confusion[1])
    assert np.array_equal(counted.wrong.sum(0), confusion[2] - confusion[0])


@pytest.mark.parametrize(("size", "stride"), [((33, 50), 16), ((64, 96), 8), ((3, 2), 16)])
def test_sampled_logits_are_those_of_the_upsampled_map(size, stride) -> None:
    padded = tuple(n + -n % stride for n in size)
    logits = torch.randn(5, *(n // stride for n in padded))
    up = F.interpolate(logits[None], padded, mode="bilinear", align_corners=False)[0]
    step = calibration.STEP
    expected = up[:, : size[0], : size[1]][:, step // 2 :: step, step // 2 :: step]
    found = calibration.sample_logits(logits, padded, size)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)


def test_calibration_error_is_torchmetrics() -> None:
    torch.manual_seed(0)
    logits, truth = 2 * torch.randn(5000, 4), torch.randint(0, 4, (5000,))
    confidence, prediction = logits.softmax(1).max(1)
    counted = calibration.Calibration()
    for part in (slice(0, 1000), slice(1000, None)):
        right = (prediction == truth)[part].numpy()
        counted.count(confidence[part].double().numpy(), right)
    metric = MulticlassCalibrationError(4, n_bins=calibration.BINS, norm="l1")
    assert counted.ece == pytest.approx(float(metric(logits, truth)), abs=1e-6)
    assert counted.pixels.sum() == 5000


def test_examples_are_the_extremes_and_nothing_else_is_kept() -> None:
    rng, examples, scores = np.random.default_rng(2), Examples(), {}
    for i in range(30):
        truth = np.zeros((40, 2000), np.uint8)
        prediction = (rng.random(truth.shape) < (i * 7 % 30) / 40).astype(np.uint8)
        counts = count_image(prediction, truth, 2)
        scores[f"{i:02}"] = counts[0, 0] / truth.size
        examples.add(f"{i:02}", np.zeros((40, 2000, 3), np.uint8), prediction, truth, counts)
        assert len(examples._worst + examples._best) <= 2 * KEPT
    order = sorted(scores, key=scores.get)
    worst, best = examples.worst_and_best()
    assert [e.stem for e in worst] == order[:KEPT]
    assert [e.stem for e in best] == order[: -KEPT - 1 : -1]
    assert worst[0].miou == pytest.approx(scores[order[0]])
    assert worst[0].image.shape == (13, LONGEST, 3) and worst[0].truth.shape == (13, LONGEST)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 7])
def test_few_images_are_each_shown_once(n: int) -> None:
    examples = Examples()
    for i in range(n + 1):
        truth = np.full((4, 6), 255 if i == n else 0, np.uint8)  # the last one has no label
        counts = count_image(np.zeros_like(truth), truth, 2)
        examples.add(str(i), np.zeros((4, 6, 3), np.uint8), np.zeros_like(truth), truth, counts)
    worst, best = examples.worst_and_best()
    assert sorted(e.stem for e in worst + best) == [str(i) for i in range(n)]


def findings(names: list[str], images: int, wrong: float, change: bool = True) -> ReportData:
    """Of a model that never learnt, and predictions that are wrong so often."""
    rng, k = np.random.default_rng(3), len(names)
    colors = [(20, 60, 200), (250, 200, 10), (10, 140, 60), (90, 90, 90)]
    labels = LabelSet([LabelClass(n, c, i) for i, (n, c) in enumerate(zip(names, colors))])
    model = create_model("mobilenetv2_ca_050", k, labels=labels).eval()
    gathered, metric, before = ReportCollector(model, images), MeanIoU(k), []
    for i in range(images):
        truth = blocky(rng, 48, 64, k - 1)  # the last class is absent
        prediction = np.where(truth == 255, 0, truth).astype(np.uint8)
        worse = prediction.copy()
        for each, share in ((prediction, wrong), (worse, wrong + 0.2)):
            places = rng.random(truth.shape) < share
            each[places] = rng.integers(0, k - 1, places.sum())
        stem = STEM if i == 0 else f"image_{i}"
        sample = Sample(stem, Path("a.jpg"), Path("a.png"), labels)
        image = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
        gathered.add(sample, image, prediction, truth)
        metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))
        before.append(count_image(worse, truth, k))

    sure = rng.random(1000)  # the model itself is equally unsure everywhere
    gathered.calibration.count(sure, rng.random(1000) < sure)

    class OfThese(list):
        name, pack = NASTY, None

    data = DataConfig(layout="voc", root="/data/<b>")
    how = protocol(model, OfThese(range(images)), data, Views(), (Path("runs/<i>/best.ckpt"), {}))
    changed = compare(np.stack(before), gathered.counts, 200) if change else None
    return ReportData(metric.scores(), labels, how, gathered, changed, change and "runs/<u>")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose every name tries to be HTML."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, findings(NAMES, 12, 0.1))
    return path


def test_names_are_escaped_and_nothing_is_loaded(page: Path) -> None:
    text = page.read_text()
    assert NASTY not in text and "<img src=x" not in text and "<u>" not in text
    assert text.count("<script") == 2  # the page's own, and its data
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    without = re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
    assert not re.search(r"https?://|@import|<link|<iframe", without)
    assert set(re.findall(r"url\((.{5})", text)) <= {"data:", "#size", "#boun", "#cali", "#chan"}
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)


def test_a_perfect_prediction_of_one_image_has_a_page_and_figures(tmp_path: Path) -> None:
    one = findings(["a", "b", "c"], 1, 0.0, change=False)
    write_page(tmp_path / "one.html", one)
    text = (tmp_path / "one.html").read_text()
    assert "No pixel is wrong." in text and "What changed" not in text and "nan" not in text
    assert "c: in neither truth nor prediction" in text
    names = {path.name for path in write_figures(tmp_path / "figures", one)}
    assert "worst.png" in names and "best.png" not in names and "change.pdf" not in names


def test_the_interval_says_of_which_classes_it_is(tmp_path: Path) -> None:
    """A class that is only predicted counts in the mIoU, and is in no draw of the truth."""
    found = findings(["a", "b", "c"], 12, 0.1, change=False)
    write_page(tmp_path / "same.html", found)
    assert "over the 2 classes in truth" not in (tmp_path / "same.html").read_text()
    confusion = found.scores.confusion.copy()
    confusion[0, 2] += 5
    scores = Scores(confusion)
    assert scores.classes_counted == 3
    write_page(tmp_path / "other.html", replace(found, scores=scores))
    text = (tmp_path / "other.html").read_text()
    alone = 100 * mean_iou(found.gathered.counts.sum(0))
    assert f"over the 2 classes in truth, {alone:.1f}, had other" in text
    assert "too few to trust it" not in text
    write_page(tmp_path / "few.html", findings(["a", "b", "c"], 3, 0.1))
    few = (tmp_path / "few.html").read_text()
    assert "3 are too few to trust it" in few
    assert ">mIoU *<" in few and "too few to tell it from noise" in few


def test_the_command_writes_page_and_figures(tiny_run: Path, tmp_path: Path, capsys) -> None:
    checkpoint = tiny_run / "best.ckpt"
    arguments = [
        f"--checkpoint={checkpoint}",
        f"--report={tmp_path / 'report.html'}",
        f"--figures={tmp_path / 'figures'}",
        f"--against={tiny_run}",
        "--flip",
    ]
    assert run(evaluate, "evaluate.py", arguments) == 0
    told = re.search(r"mIoU ([\d.]+) %", capsys.readouterr().out)[1]
    text = (tmp_path / "report.html").read_text()
    assert f"mIoU {told} % on val" in text and "flipped: yes" in text
    assert f"{checkpoint}" in text and "have the same mIoU on every draw" in text
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
    ("arguments", "told"),
    [
        (["--against={run}"], "--report"),
        (["--report={out}", "--against=nowhere"], "nowhere"),
        (["--report={out}", "--split=test", "--masks={out}s"], "test"),
    ],
)
def test_mistakes_are_told(arguments, told, tiny_run, tmp_path, capsys) -> None:
    words = [word.format(run=tiny_run, out=tmp_path / "out") for word in arguments]
    assert run(evaluate, "evaluate.py", [f"--checkpoint={tiny_run / 'best.ckpt'}", *words]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_told_before_an_image_is_read(tiny_run, monkeypatch, capsys) -> None:
    monkeypatch.setattr("segcoord.evaluation.compare.find_spec", lambda name: None)
    arguments = [f"--checkpoint={tiny_run / 'best.ckpt'}", "--report=r.html"]
    assert run(evaluate, "evaluate.py", arguments) == 1
    assert "segcoord[report]" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser, page: Path) -> Iterator:
    """The page from disk, without a network; it must not complain, load or ask anything."""
    size = {"width": 1200, "height": 900}
    context = browser.new_context(offline=True, viewport=size, reduced_motion="reduce")
    tab, complaints, loaded = context.new_page(), [], []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: loaded.append(request.url))
    tab.goto(page.as_uri())
    yield tab
    context.close()
    assert complaints == []
    assert [url for url in loaded if not url.startswith("data:")] == [page.as_uri()]


def test_browser_shows_names_as_they_are(opened) -> None:
    assert opened.locator(".classes tbody th").all_inner_texts() == NAMES
    assert opened.locator(".example h4 span").filter(has_text=STEM).count() == 1
    ticks = opened.locator("#change svg text").all_text_contents()
    assert set(NAMES[:3]) <= {tick.strip() for tick in ticks}
    assert opened.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_browser_sorts_classes(opened) -> None:
    def shares() -> list[float]:
        values = opened.locator(".classes tbody tr td:nth-child(4) b").all_inner_texts()
        return [float(value.removesuffix("\N{NO-BREAK SPACE}%")) for value in values]

    button = opened.locator(".classes button").nth(3)
    button.click()
    assert shares() == sorted(shares(), reverse=True)
    button.press("Enter")
    assert shares() == sorted(shares())
    head = opened.locator(".classes thead th").nth(3)
    assert head.get_attribute("aria-sort") == "ascending"
    opened.locator(".classes button").first.click()
    assert opened.locator(".classes tbody th").all_inner_texts() == NAMES


def test_browser_never_covers_the_matrix_heading(opened) -> None:
    """What is read off the matrix stays at the window's lower edge while the matrix scrolls by."""
    top = opened.locator("#confusion h2").evaluate("e => e.getBoundingClientRect().top")
    for shown in (60, 200, 700):  # pixels of the section that are in sight
        opened.evaluate(f"scrollTo(0, {top} - innerHeight + {shown})")
        head, text, readout = (
            opened.locator(f"#confusion {part}").first.bounding_box()
            for part in ("h2", "p", "#readout")
        )
        assert readout["y"] >= head["y"] + head["height"]
        assert readout["y"] >= text["y"] + text["height"]
    opened.emulate_media(media="print")
    assert opened.locator("#readout").evaluate("e => getComputedStyle(e).position") == "static"


def test_browser_reads_the_matrix_by_pointer_and_by_keys(opened) -> None:
    readout, cells = opened.locator("#readout"), opened.locator(".matrix td")
    cells.nth(5).hover()
    assert readout.inner_text().startswith(f"{NAMES[1]}: 9")
    cells.nth(4).focus()
    assert readout.inner_text().startswith(f"{NAMES[1]} taken for {NASTY}: ")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp", "ArrowUp"):  # ends at the top
        opened.keyboard.press(key)
    assert readout.inner_text().startswith(f"{NASTY} taken for {NAMES[2]}: ")
    opened.keyboard.press("End")
    opened.keyboard.press("ArrowRight")  # no further
    assert f"taken for {NAMES[3]}: 0.00 %" in readout.inner_text()
    assert opened.locator('.matrix td[tabindex="0"]').count() == 1
    cells.last.hover()
    assert readout.inner_text() == "road is not in truth."


@pytest.mark.parametrize("name", ["change", "sizes", "boundary", "calibration"])
def test_browser_tells_a_charts_values_by_pointer_and_by_keys(opened, name: str) -> None:
    places, tip = opened.locator(f"#{name} svg [data-tip]"), opened.locator("#tip")
    assert places.count() >= 4
    assert tip.is_hidden()
    places.nth(1).hover()
    assert tip.inner_text() == places.nth(1).get_attribute("data-tip")
    opened.mouse.move(0, 0)
    assert tip.is_hidden()
    opened.locator(f"#{name} summary").focus()
    opened.keyboard.press("Shift+Tab")  # one stop for the whole chart, before its numbers
    assert tip.inner_text() == places.first.get_attribute("data-tip")
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowRight")
    assert tip.inner_text() == places.nth(2).get_attribute("data-tip")
    opened.keyboard.press("End")
    assert tip.inner_text() == places.last.get_attribute("data-tip")
    opened.keyboard.press("Escape")
    assert tip.is_hidden()
    opened.locator(f"#{name} summary").press("Enter")
    assert opened.locator(f"#{name} .numbers tbody tr").first.is_visible()


def test_browser_blends_and_enlarges_the_images(opened) -> None:
    def shown(selector: str, what: str) -> str:
        return opened.locator(selector).first.evaluate(f"e => getComputedStyle(e).{what}")

    assert shown(".map.truth", "opacity") == "0.6"
    opened.locator("#opacity").fill("25")
    assert shown(".map.truth", "opacity") == "0.25"
    opened.locator("#opacity").press("Home")
    assert shown(".map.errors", "opacity") == "0"
    width = opened.locator(".layers").first.bounding_box()["width"]
    opened.locator("#large").check()
    assert opened.locator(".layers").first.bounding_box()["width"] > 1.9 * width
    assert opened.locator(".example").count() == 8


def test_browser_follows_the_parts_and_both_looks(opened) -> None:
    for link in opened.locator("nav a").all():
        target = link.get_attribute("href")
        link.click()
        assert opened.url.endswith(target) and opened.locator(target).is_visible()
    ground = []
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        color = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        text = opened.locator("#sizes svg text").first.evaluate("e => getComputedStyle(e).fill")
        ground.append([sum(map(int, re.findall(r"\d+", c)[:3])) for c in (color, text)])
    assert ground[0][0] > 700 and ground[0][1] < 150  # dark on white
    assert ground[1][0] < 120 and ground[1][1] > 600  # light on nearly black
    opened.set_viewport_size({"width": 390, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
