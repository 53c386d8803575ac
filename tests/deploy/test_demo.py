"""The demo's page, from an upload to a download, in a browser; and what its server refuses."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import re
import socket
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import chromium
from PIL import Image
from torch import nn

import segcoord
from segcoord.cli.demo import demo
from segcoord.cli.main import run
from segcoord.data.labels import LabelClass, LabelSet
from segcoord.data.synthetic.scenes import draw_scene
from segcoord.deploy.demo import handlers as ui_answers
from segcoord.deploy.demo import images as pictures
from segcoord.deploy.demo.handlers import Handlers
from segcoord.deploy.demo.images import RefusedImage, decode
from segcoord.deploy.demo.models import ModelChoice, load_models
from segcoord.deploy.demo.server import MAX_BODY, Guard, launch, read_samples
from segcoord.inference.explain import blocks, grad_cam
from segcoord.inference.explain_figure import colored
from segcoord.inference.photo import read_photo
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError

pytest.importorskip("gradio", reason="Gradio is not installed")
NAMES = ["road", "<b>sky</b>", "car & co"]


def model_of(seed: int) -> SegmentationModel:
    torch.manual_seed(seed)
    labels = LabelSet(
        [LabelClass(n, (250 - 90 * i, 40 + 80 * i, 9), 5 + i) for i, n in enumerate(NAMES)]
    )
    return segcoord.create_model("mobilenetv2_ca_050", 3, labels=labels).eval()


@pytest.fixture(scope="module")
def answers() -> Handlers:
    """Two models, the second of which can't be looked into."""
    exported = model_of(5)
    net = exported.net

    class Exported(nn.Module):  # which holds no layers of its own
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return net(x)

    exported.net = Exported()
    exported.spec = exported.spec | {"output_stride": 16, "encoder": "another"}
    samples = [draw_scene(0, "test", i, 160, 120)[0] for i in (0, 1)]
    return Handlers(
        [ModelChoice("run", "torch", model_of(4)), ModelChoice("box", "openvino", exported)],
        samples,
    )


def file_of(image: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(content, format=kind, **options)
    return content.getvalue()


def array_of(address: str) -> np.ndarray:
    content = base64.b64decode(address.partition("base64,")[2])
    return np.array(Image.open(io.BytesIO(content)))


PHOTO = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_an_upload_is_decoded_whatever_its_kind(kind: str, mode: str) -> None:
    if mode == "I;16":
        if kind not in ("PNG", "TIFF"):
            pytest.skip("has no 16 bits")
        grey = PHOTO[..., 0]
        found = decode(file_of(Image.fromarray(grey.astype(np.uint16) * 257), kind))
        assert np.array_equal(found, np.repeat(grey[..., None], 3, 2))
        return
    picture = Image.fromarray(PHOTO).convert(mode)
    try:
        content = file_of(picture, kind, **({"lossless": True} if kind == "WEBP" else {}))
    except (OSError, ValueError):
        pytest.skip(f"{kind} has no {mode}")
    found = decode(content)
    expected = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    assert found.dtype == np.uint8 and np.array_equal(found, expected)


def test_an_upload_is_seen_as_segcoord_predict_sees_the_file(tmp_path: Path) -> None:
    seen = Image.fromarray(PHOTO).convert("RGBA")
    seen.putalpha(Image.fromarray(PHOTO[..., 0]))
    deep = Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257 + 200)
    for picture in (seen, deep):
        (tmp_path / "photo.png").write_bytes(file_of(picture))
        expected = read_photo(tmp_path / "photo.png").pixels
        assert np.array_equal(decode(file_of(picture)), expected)


def test_an_upload_is_turned_as_viewers_turn_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = file_of(Image.fromarray(PHOTO), "PNG", exif=exif)
    assert np.array_equal(decode(content), np.rot90(PHOTO, -1))


def header_of(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds next to nothing."""
    content = bytearray(file_of(PHOTO))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "can't be read as an image: the file is empty."),
        (b"no image", "it has no known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is a web page"),
        (file_of(PHOTO)[:-30], "truncated or damaged"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC photo, which is not supported."),
        (bytes(pictures.MAX_BYTES + 1), "20.0 MB; at most 20"),
        (header_of(5000, 4000), "5000 x 4000 pixels, 20 million; at most 16 million"),
        (header_of(50_000, 40_000), "more than 16 million"),
        (file_of(Image.fromarray(PHOTO[..., 0].astype(np.float32)), "TIFF"), "values of mode F"),
    ],
)
def test_what_is_no_image_or_too_large_is_told(content: bytes, told: str) -> None:
    with pytest.raises(RefusedImage) as caught:
        decode(content)
    assert told in str(caught.value) and "/" not in str(caught.value)


def test_answers_are_the_librarys(answers: Handlers) -> None:
    image = answers.samples[1]
    upload = base64.b64encode(file_of(image)).decode()
    found = answers.segment({"choice": 0, "image": upload})
    expected = segcoord.predict(answers.choices[0].model, image)
    assert np.array_equal(array_of(found["classes"]), expected)
    assert np.array_equal(array_of(found["mask"]), expected + 5)  # values of masks, not indices
    counts = np.bincount(expected.ravel(), minlength=3)
    assert {a["class"]: a["share"] for a in found["areas"]} == {
        i: n / expected.size for i, n in enumerate(counts) if n
    }
    assert [a["share"] for a in found["areas"]] == sorted(counts[counts > 0] / expected.size)[::-1]
    assert found["size"] == [160, 120] and found["seconds"] > 0
    assert json.dumps(found)
    same = answers.segment({"choice": 0, "sample": 1})
    assert same["classes"] == found["classes"]


def test_explanations_are_the_librarys(answers: Handlers) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    model, image = answers.choices[0].model, answers.samples[0]
    found = answers.explain({"choice": 0, "sample": 0, "class": 1})
    assert [*found["layers"]] == ["cam", "rows", "columns", "both"]
    assert all(
        array_of(layer["picture"]).shape == image.shape for layer in found["layers"].values()
    )
    assert [*blocks(model)][-1] == "blocks.6.0"
    assert found["layers"]["cam"]["note"] == "Grad-CAM of <b>sky</b> in blocks.6.0"
    shown = array_of(found["layers"]["cam"]["picture"]).astype(int)
    pixels = segcoord.predict(model, image) == 1
    heat = grad_cam(model, image, 1, "blocks.6.0", pixels if pixels.any() else ~pixels)
    expected = colored(heat, 0, 1, cv2.COLORMAP_TURBO)
    assert np.abs(shown - expected).mean() < 3  # a JPEG
    rows = array_of(found["layers"]["rows"]["picture"]).astype(int)
    assert np.abs(rows - rows[:, :1]).max() < 16  # a JPEG of rows of one colour each
    assert np.ptp(rows[:, 0], axis=0).max() > 50


def test_an_exported_file_is_explained_by_its_checkpoint(answers: Handlers) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    checkpoint, exported = answers.choices[0], model_of(4)
    exported.net = nn.Identity()
    both = Handlers([ModelChoice("box", "openvino", exported), checkpoint], answers.samples)
    found = both.explain({"choice": 0, "sample": 0, "class": 1})["layers"]
    assert found["cam"]["note"].endswith("in blocks.6.0 of run")
    same = answers.explain({"choice": 0, "sample": 0, "class": 1})["layers"]
    assert all(found[key]["picture"] == same[key]["picture"] for key in same)


@pytest.mark.parametrize(
    ("what", "asked", "told"),
    [
        ("segment", {"choice": 9, "sample": 0}, "no model of number 9"),
        ("segment", {"choice": "0", "sample": 0}, "no model"),
        ("segment", {"choice": 0, "sample": -1}, "no sample"),
        ("segment", {"choice": 0, "image": "%%%"}, "came damaged"),
        ("segment", {"choice": 0, "image": ["/etc/passwd"]}, "came damaged"),
        ("segment", {"choice": 0}, "the file is empty"),
        ("explain", {"choice": 0, "sample": 0, "class": 3}, "no class of number 3"),
        ("explain", {"choice": 1, "sample": 0, "class": 0}, "can't be looked into"),
        ("segment", None, "Something went wrong"),
    ],
)
def test_wrong_questions_are_answered_in_words(answers, what, asked, told, capsys) -> None:
    assert told in getattr(answers, what)(asked)["error"]


def test_inner_errors_tell_the_page_nothing(answers: Handlers, monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise UserError("/secret/place/best.ckpt: damaged")

    monkeypatch.setattr(ui_answers, "predict", fail)
    found = answers.segment({"choice": 0, "sample": 0})
    assert found == {"error": "Something went wrong on the server; its terminal says what."}
    assert "/secret/place" in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "first" / "best.ckpt"
    segcoord.save(model_of(4), path)
    return path


def test_choices_are_what_the_paths_offer(checkpoint: Path, tmp_path: Path) -> None:
    model_of(4).save_pretrained(tmp_path / "shared")
    paths = [str(checkpoint), str(tmp_path / "shared"), str(checkpoint)]
    found = load_models(paths, None)
    assert [choice.name for choice in found] == ["first (1)", "shared", "first (2)"]
    assert [choice.runtime for choice in found] == ["torch"] * 3
    assert all(choice.explains for choice in found)
    for runtimes, told in ((["tensorrt"], "tensorrt"), (["torch", "openvino"], "openvino")):
        with pytest.raises(UserError, match=told):
            load_models(paths[:1], runtimes)
    with pytest.raises(UserError, match=r"no such checkpoint"):
        load_models([str(tmp_path / "none.ckpt")], None)


def test_samples_of_a_folder(tmp_path: Path) -> None:
    for told in ("no such folder", "no image in it"):
        with pytest.raises(UserError, match=told):
            read_samples(str(tmp_path / "samples"))
        (tmp_path / "samples").mkdir(exist_ok=True)
    for i in range(14):
        (tmp_path / "samples" / f"{i:02}.PNG").write_bytes(file_of(np.full((2, 3, 3), i, np.uint8)))
    assert [image[0, 0, 0] for image in read_samples(str(tmp_path / "samples"))] == [*range(12)]
    (tmp_path / "samples" / "03.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"03\.png"):
        read_samples(str(tmp_path / "samples"))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def served(answers: Handlers) -> Iterator[tuple[str, set[str]]]:
    """The page's address, and the hosts that its server looked up since it began."""
    looked_up: set[str] = set()
    asked = socket.getaddrinfo

    def watched(host, *rest, **more):
        looked_up.add(str(host))
        return asked(host, *rest, **more)

    socket.getaddrinfo = watched
    page = launch(answers, "127.0.0.1", free_port())
    try:
        yield page.local_url, looked_up
    finally:
        page.close(verbose=False)
        socket.getaddrinfo = asked


def answer_of(request: urllib.request.Request | str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    "path", ["upload", "gradio_api/upload", "gradio_api/file=/etc/hostname", "file/etc/hostname"]
)
def test_no_file_goes_in_or_out_by_other_ways(served, path: str) -> None:
    request = urllib.request.Request(served[0] + path, data=b"x" if "upload" in path else None)
    assert answer_of(request) == (404, '{"detail": "There is no such page."}')


def test_too_large_a_body_is_refused_before_it_is_read(served) -> None:
    connection = http.client.HTTPConnection(*served[0].removeprefix("http://")[:-1].split(":"))
    connection.putrequest("POST", "/gradio_api/component_server")
    connection.putheader("Content-Length", str(MAX_BODY + 1))
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == 413 and b"More than 20 MB are not taken" in reply.read()
    connection.close()


def test_a_body_of_untold_length_ends_where_it_is_too_large() -> None:
    """As ASGI servers hand on what comes in chunks."""
    taken, sent = [], []

    async def app(_scope: dict, receive, _send) -> None:
        while (message := await receive())["type"] == "http.request":
            taken.append(len(message["body"]))

    async def receive() -> dict:
        return {"type": "http.request", "body": bytes(2**20), "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/gradio_api/component_server"}
    asyncio.run(Guard(app)(scope | {"headers": []}, receive, sent.append))
    assert MAX_BODY - 2**20 < sum(taken) <= MAX_BODY and not sent


def test_the_page_holds_no_path_and_the_server_asks_nobody(served) -> None:
    url, looked_up = served
    for path in ("", "config", "gradio_api/info", "theme.css"):
        status, content = answer_of(url + path)
        assert status == 200
        for place in (
            str(Path.home()),
            str(Path(segcoord.__file__).parent),
            "/tmp/",
            "site-packages",
        ):
            assert place not in content, (path, place)
        assert "fonts.googleapis" not in content
    assert looked_up <= {"127.0.0.1", "localhost"}


def test_a_taken_port_and_missing_gradio_are_told(
    served, checkpoint: Path, monkeypatch, capsys
) -> None:
    words = [f"--checkpoint={checkpoint}", f"--port={served[0].split(':')[2][:-1]}"]
    assert run(demo, "segcoord demo", words) == 1
    assert "Choose another port" in capsys.readouterr().err
    for port in (-5, 0, 99999):
        assert run(demo, "segcoord demo", [*words, f"--port={port}"]) == 1
        assert f"--port: found {port}, expected 1 to 65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run(demo, "segcoord demo", words) == 1
    assert "pip install 'segcoord[ui]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """The machine's Chromium without a window, as in test_report.py."""
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser, served) -> Iterator:
    """The page in a browser; it must not complain, nor ask anyone but its own server."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    tab, complaints, asked = context.new_page(), [], []
    tab.set_default_timeout(20_000)
    tab.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else 0)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(served[0])
    tab.wait_for_selector(".sc[data-ready]")
    yield tab
    assert str(Path.home()) not in tab.content() and "/tmp/" not in tab.content()
    context.close()
    assert complaints == []
    own = (served[0], "data:", f"blob:{served[0]}")
    assert [url for url in asked if not url.startswith(own)] == []


def upload(tab, content: bytes, name: str = "street view.png") -> None:
    tab.locator("#sc-file").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def pixel(tab, x: int, y: int) -> tuple[float, float]:
    """Where a pixel of the 160x120 samples is on the screen."""
    box = tab.locator("#sc-picture").bounding_box()
    factor = min(box["width"] / 160, box["height"] / 120)
    left = box["x"] + (box["width"] - factor * 160) / 2
    top = box["y"] + (box["height"] - factor * 120) / 2
    return left + (x + 0.5) * factor, top + (y + 0.5) * factor


def test_browser_from_upload_to_download(opened, answers: Handlers) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    image = answers.samples[0]
    expected = segcoord.predict(answers.choices[0].model, image)
    upload(opened, file_of(image))
    opened.wait_for_selector(".sc[data-state=ready]")
    counts = np.bincount(expected.ravel(), minlength=3)
    order = np.argsort(-counts, kind="stable")
    order = [int(i) for i in order if counts[i]]
    listed = opened.locator(".areas button > span").all_text_contents()
    assert listed == [NAMES[i] for i in order]
    facts = opened.inner_text("#sc-facts")
    assert re.fullmatch(r"\d+\.\d\d s by torch on run, 160 by 120 pixels", facts)
    layer = opened.locator("#sc-layer").evaluate(
        "e => [...e.getContext('2d').getImageData(0, 0, 160, 120).data]"
    )
    colors = answers.choices[0].model.labels.colors[expected]
    assert np.array_equal(np.array(layer).reshape(120, 160, 4)[..., :3], colors)

    for y, x in ((10, 10), (60, 80), (110, 150)):
        opened.mouse.move(*pixel(opened, x, y))
        assert opened.inner_text("#sc-tip strong") == NAMES[expected[y, x]]
    opened.mouse.move(5, 5)
    assert opened.locator("#sc-tip").is_hidden()

    opened.locator("#sc-opacity").fill("25")
    assert opened.locator("#sc-layer").evaluate("e => e.style.opacity") == "0.25"

    opened.mouse.click(*pixel(opened, 80, 60))
    opened.wait_for_selector("input[value=cam]:checked")
    name = NAMES[expected[60, 80]]
    assert f"Grad-CAM of {name} in blocks.6.0" in opened.inner_text("#sc-scale")
    assert opened.locator('.areas [aria-pressed="true"] > span').inner_text() == name
    assert re.search(r"pixels; Grad-CAM and gates \d+\.\d\d s$", opened.inner_text("#sc-facts"))
    opened.locator("input[value=rows]").check(force=True)
    assert "mean of" in opened.inner_text("#sc-scale")

    with opened.expect_download() as download:
        opened.click("#sc-download")
    assert download.value.suggested_filename == "street view_mask.png"
    with Image.open(download.value.path()) as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.array(mask), expected + 5)
        assert np.array_equal(np.array(mask.convert("RGB")), colors)


def test_browser_works_by_keys_alone(opened, answers: Handlers) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    opened.locator("#sc-samples button").nth(1).focus()
    opened.keyboard.press("Enter")
    opened.wait_for_selector(".sc[data-state=ready]")
    expected = segcoord.predict(answers.choices[0].model, answers.samples[1])
    opened.locator("#sc-picture").focus()
    opened.keyboard.press("ArrowRight")
    assert opened.inner_text("#sc-tip strong") == NAMES[expected[60, 83]]
    for key in ["ArrowUp"] * 25 + ["Shift+ArrowLeft"]:
        opened.keyboard.press(key)
    assert opened.inner_text("#sc-tip strong") == NAMES[expected[0, 82]]
    opened.keyboard.press("Enter")
    opened.wait_for_selector("input[value=cam]:checked")
    opened.locator("input[value=cam]").focus()
    opened.keyboard.press("ArrowRight")
    assert opened.locator("input[value=rows]").is_checked()
    opened.locator("input[value=classes]").check(force=True)
    assert opened.locator("#sc-scale").is_hidden()


@pytest.fixture
def one_megabyte(monkeypatch) -> None:
    monkeypatch.setattr(ui_answers, "MAX_BYTES", 2**20)


def test_browser_is_told_what_is_refused(one_megabyte, opened) -> None:
    message = opened.locator("#sc-message")
    upload(opened, b"no image at all", "notes.png")
    message.wait_for(state="visible")
    assert message.inner_text().startswith("The file is not taken: can't be read as an image")
    opened.keyboard.press("Escape")
    assert message.is_hidden()
    upload(opened, bytes(2**21), "<i>huge.png")
    message.wait_for(state="visible")
    assert message.inner_text() == "<i>huge.png has 2.0 MB; at most 1 are taken."
    upload(opened, header_of(5000, 4000))
    opened.wait_for_function("document.querySelector('#sc-message').innerText.includes('million')")
    assert "/" not in message.inner_text()
    assert opened.locator(".sc").get_attribute("data-state") == "empty"


def test_browser_switches_models_and_runtimes(opened, answers: Handlers) -> None:
    opened.locator("#sc-samples button").first.click()
    opened.wait_for_selector(".sc[data-state=ready]")
    assert opened.locator("#sc-choice option").all_inner_texts() == [
        "run by torch",
        "box by openvino",
    ]
    opened.select_option("#sc-choice", label="box by openvino")
    opened.wait_for_function(
        "document.querySelector('#sc-facts').innerText.includes('openvino on box')"
    )
    expected = segcoord.predict(answers.choices[1].model, answers.samples[0])
    opened.mouse.move(*pixel(opened, 40, 100))
    assert opened.inner_text("#sc-tip strong") == NAMES[expected[100, 40]]
    opened.locator(".areas button").first.click()
    message = opened.locator("#sc-message")
    message.wait_for(state="visible")
    assert "can't be looked into" in message.inner_text()


def test_browser_fits_one_screen_in_both_looks(opened) -> None:
    opened.locator("#sc-samples button").first.click()
    opened.wait_for_selector(".sc[data-state=ready]")
    ground = []
    for dark in (False, True):
        assert opened.evaluate("document.body.classList.contains('dark')") == dark
        color, ink = opened.locator(".sc").evaluate(
            "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
        )
        ground.append([sum(map(int, re.findall(r"\d+", c)[:3])) for c in (color, ink)])
        opened.click("#sc-theme")
    assert ground[0][0] > 650 and ground[0][1] < 150
    assert ground[1][0] < 120 and ground[1][1] > 600
    assert opened.evaluate("document.documentElement.scrollHeight") == 800
    opened.set_viewport_size({"width": 390, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
