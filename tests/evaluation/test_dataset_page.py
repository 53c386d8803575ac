"""`segcoord data show`: its numbers, its page in a browser, and its errors."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import opened_offline
from PIL import Image

from segcoord.cli.main import main

NASTY = "<script>alert(1)</script>"
STEM = "<img src=x onerror=alert(3)>"
MASKS = {  # class index of each quarter of a mask
    "train": {"a": [0, 0, 0, 1], "b": [0, 0, 1, 1], STEM: [0, 0, 255, 255]},
    "val": {"d": [0, 2, 2, 2], "e": [255] * 4},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("show") / "data"
    rng = np.random.default_rng(0)
    for split, masks in MASKS.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for name, quarters in masks.items():
            width = 40 if name == "e" else 20
            image = rng.integers(0, 256, (12, width, 3)).astype(np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{name}.png")
            mask = np.repeat(np.array([quarters], np.uint8), width // 4, 1).repeat(12, 0)
            Image.fromarray(mask).save(root / "masks" / split / f"{name}.png")
    data = {"layout": "folder", "root": str(root), "classes": [NASTY, "car & van", "sign"]}
    path = root.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({"data": {**data, "crop_size": 32}}))
    return path


@pytest.fixture(scope="module")
def page(config: Path) -> Path:
    out = config.with_suffix(".html")
    assert main(["data", "show", f"--config={config}", f"--out={out}"]) == 0
    return out


def test_page_has_the_shares_of_pixels_and_images_and_the_sizes(page: Path) -> None:
    text = re.sub(r"<[^>]+>", " ", page.read_text().partition("<main>")[2])
    words = " ".join(text.split())
    # Of 10 labeled quarters in train: 7 and 3; of 4 in val: 1 and 3.
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 70.00 % 100.0 % 3 25.00 % 50.0 % 1" in words
    assert "car &amp; van 30.00 % 66.7 % 2 0.00 % 0.0 % 0" in words
    assert "sign 0.00 % 0.0 % 0 75.00 % 50.0 % 1" in words
    assert "train: 3 images, 16.67 % of the pixels void" in words
    assert "20x12 4 80.0 % 40x12 1 20.0 %" in words


def test_page_runs_and_loads_nothing(page: Path) -> None:
    text = page.read_text()
    style = re.search(r"<style>(.*?)</style>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert "default-src 'none'" in policy and f"style-src 'sha256-{digest}';" in policy
    assert "<script" not in text and " style=" not in text and "onerror=alert(3)>" not in text
    assert all(url.startswith("data:image/") for url in re.findall(r'src="([^"]+)"', text))


def test_number_of_images_is_limited_and_unreadable_ones_are_listed(
    config: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "page.html"
    damaged = config.with_suffix("") / "masks" / "val" / "d.png"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:50])
    try:
        arguments = [f"--config={config}", f"--out={out}", "--images=2"]
        assert main(["data", "show", *arguments]) == 0
    finally:
        damaged.write_bytes(content)
    assert "4 images, " in capsys.readouterr().out
    text = out.read_text()
    assert text.count('<figure class="item') <= 2
    assert "of 4 images, chosen at random" in text
    assert "val: 1</h3>" in text and f"<li>{damaged}: " in text


def test_a_split_without_masks_and_many_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "images" / "test"
    folder.mkdir(parents=True)
    for width in range(10, 40):
        Image.new("RGB", (width, 12)).save(folder / f"{width}.png")
    out = tmp_path / "page.html"
    options = ["--data.layout=folder", f"--data.root={tmp_path / 'data'}", "--data.classes=[a,b]"]
    assert main(["data", "show", *options, "--split=test", f"--out={out}"]) == 0
    text = out.read_text()
    assert "test: 30 images, without masks." in " ".join(text.split())
    for name in ("8 to 15", "16 to 31", "32 to 63"):
        assert f'<th scope="row">longer side {name}</th>' in text


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--images=-1", "--images: found -1, expected 0 or more"),
        ("--split=gone", "gone: no such folder"),
        ("--out=.", "is a folder, expected a file"),
        ("--out=config.yaml", "expected the name of a page, such as page.html"),
    ],
)
def test_wrong_options_are_errors(option: str, message: str, config: Path, capsys) -> None:
    out = config.with_name("other.html")
    assert main(["data", "show", f"--config={config}", f"--out={out}", option]) == 1
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_missing_package_is_an_error(config: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["data", "show", f"--config={config}", f"--out={tmp_path / 'a.html'}"]) == 1
    assert "segcoord[report]" in capsys.readouterr().err


@pytest.fixture
def opened(page: Path) -> Iterator:
    with opened_offline(page) as tab:
        yield tab


def test_browser_filters_by_class_and_split_with_the_keyboard(opened) -> None:
    def shown() -> list[str]:
        captions = opened.locator(".item:visible figcaption").all_inner_texts()
        return [text.partition(", ")[0] for text in captions]

    assert opened.locator(".classes tbody th").all_inner_texts()[:3] == [
        NASTY,
        "car & van",
        "sign",
    ]
    assert opened.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert sorted(shown()) == sorted(["a", "b", STEM, "d", "e"])
    opened.locator("#class-all").focus()
    for expected in (["a", "b", STEM, "d"], ["a", "b"], ["d"], ["e"]):
        opened.keyboard.press("ArrowDown")
        assert sorted(shown()) == sorted(expected)
    opened.locator("#class-all").check()
    opened.locator("#split-1").check()
    assert shown() == ["d", "e"]
    opened.locator("#split-all").check()

    def style(selector: str, name: str) -> str:
        return opened.locator(selector).first.evaluate(f"e => getComputedStyle(e).{name}")

    assert style(".map", "opacity") == "0.6"
    opened.locator("#opaque").press("Space")
    assert style(".map", "opacity") == "1"
    opened.locator("#masks").press("Space")
    assert not opened.locator(".map:visible").count()
    width = opened.locator(".item").first.bounding_box()["width"]
    opened.locator("#large").press("Space")
    assert opened.locator(".item").first.bounding_box()["width"] > 1.5 * width
    opened.set_viewport_size({"width": 390, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
