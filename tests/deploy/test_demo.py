"""The demo: its handlers, what its server refuses, and one walk through the page in a browser."""

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
from segcoord.deploy.demo import handlers as demo_handlers
from segcoord.deploy.demo import images as demo_images
from segcoord.deploy.demo.handlers import Handlers
from segcoord.deploy.demo.images import RequestError, decode
from segcoord.deploy.demo.models import ModelChoice, load_models
from segcoord.deploy.demo.server import MAX_BODY, RequestFilter, launch, read_samples
from segcoord.inference.explain import blocks, grad_cam
from segcoord.inference.explain_figure import colored
from segcoord.inference.photo import read_photo
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError

pytest.importorskip("gradio", reason="Gradio is not installed")
NAMES = ["road", "<b>sky</b>", "car & co"]


def create_model(seed: int) -> SegmentationModel:
    torch.manual_seed(seed)
    labels = LabelSet(
        [LabelClass(n, (250 - 90 * i, 40 + 80 * i, 9), 5 + i) for i, n in enumerate(NAMES)]
    )
    return segcoord.create_model("mobilenetv2_ca_050", 3, labels=labels).eval()


@pytest.fixture(scope="module")
def handlers() -> Handlers:
    """Two models; the second has no layers to explain."""
    exported = create_model(5)
    net = exported.net

    class ExportedNet(nn.Module):  # not smp's class, as of a file
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return net(x)

    exported.net = ExportedNet()
    exported.spec = exported.spec | {"output_stride": 16, "encoder": "another"}
    samples = [draw_scene(0, "test", i, 160, 120)[0] for i in (0, 1)]
    return Handlers(
        [ModelChoice("run", "torch", create_model(4)), ModelChoice("box", "openvino", exported)],
        samples,
    )


def encode_file(image: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(content, format=kind, **options)
    return content.getvalue()


def decode_url(url: str) -> np.ndarray:
    content = base64.b64decode(url.partition("base64,")[2])
    return np.array(Image.open(io.BytesIO(content)))


PHOTO = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(("kind", "mode"), [("TIFF", "CMYK"), ("GIF", "P"), ("WEBP", "RGBA")])
def test_upload_is_decoded_to_rgb(kind: str, mode: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    content = encode_file(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    pixels = decode(content)
    expected = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, expected)


def test_upload_is_decoded_as_segcoord_predict_reads_the_file(tmp_path: Path) -> None:
    transparent = Image.fromarray(PHOTO).convert("RGBA")
    transparent.putalpha(Image.fromarray(PHOTO[..., 0]))
    deep = Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257 + 200)
    for image in (transparent, deep):
        (tmp_path / "photo.png").write_bytes(encode_file(image))
        expected = read_photo(tmp_path / "photo.png").pixels
        assert np.array_equal(decode(encode_file(image)), expected)


def test_upload_is_rotated_by_its_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode_file(Image.fromarray(PHOTO), "PNG", exif=exif)
    assert np.array_equal(decode(content), np.rot90(PHOTO, -1))


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its data does not have."""
    content = bytearray(encode_file(PHOTO))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "can't be read as an image: the file is empty."),
        (b"no image", "no known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is a web page"),
        (encode_file(PHOTO)[:-30], "truncated or damaged"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC photo, "),
        (bytes(demo_images.MAX_BYTES + 1), "20.0 MB; the limit is 20 MB"),
        (png_header(5000, 4000), "5000 x 4000 pixels, 20 million; the limit is 16 million"),
        (png_header(50_000, 40_000), "more than 16 million"),
        (
            encode_file(Image.fromarray(PHOTO[..., 0].astype(np.float32)), "TIFF"),
            "values of mode F",
        ),
    ],
)
def test_invalid_or_too_large_upload_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(content)
    assert message in str(caught.value) and "/" not in str(caught.value)


def test_segment_returns_the_predicted_classes(handlers: Handlers) -> None:
    image = handlers.samples[1]
    upload = base64.b64encode(encode_file(image)).decode()
    response = handlers.segment({"choice": 0, "image": upload})
    expected = segcoord.predict(handlers.choices[0].model, image)
    assert np.array_equal(decode_url(response["classes"]), expected)
    assert np.array_equal(decode_url(response["mask"]), expected + 5)  # mask values, not indices
    counts = np.bincount(expected.ravel(), minlength=3)
    fractions = {a["class"]: a["fraction"] for a in response["areas"]}
    assert fractions == {i: n / expected.size for i, n in enumerate(counts) if n}
    assert [*fractions.values()] == sorted(fractions.values(), reverse=True)
    assert response["size"] == [160, 120] and response["seconds"] > 0
    assert json.dumps(response)
    assert handlers.segment({"choice": 0, "sample": 1})["classes"] == response["classes"]


def test_explain_returns_grad_cam_and_gates(handlers: Handlers) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    model, image = handlers.choices[0].model, handlers.samples[0]
    layers = handlers.explain({"choice": 0, "sample": 0, "class": 1})["layers"]
    assert [*layers] == ["cam", "rows", "columns", "both"]
    images = {name: decode_url(layer["image"]).astype(int) for name, layer in layers.items()}
    assert all(pixels.shape == image.shape for pixels in images.values())
    assert [*blocks(model)][-1] == "blocks.6.0"
    assert layers["cam"]["caption"] == "Grad-CAM of <b>sky</b> in blocks.6.0"
    pixels = segcoord.predict(model, image) == 1
    heat = grad_cam(model, image, 1, "blocks.6.0", pixels if pixels.any() else ~pixels)
    expected = colored(heat, 0, 1, cv2.COLORMAP_TURBO)
    assert np.abs(images["cam"] - expected).mean() < 3  # JPEG error
    rows = images["rows"]
    assert np.abs(rows - rows[:, :1]).max() < 16  # one color per row, up to JPEG error
    assert np.ptp(rows[:, 0], axis=0).max() > 50

    # An exported file of the same architecture is explained with its checkpoint.
    exported = create_model(4)
    exported.net = nn.Identity()
    choices = [ModelChoice("box", "openvino", exported), handlers.choices[0]]
    both = Handlers(choices, handlers.samples)
    same = both.explain({"choice": 0, "sample": 0, "class": 1})["layers"]
    assert same["cam"]["caption"].endswith("in blocks.6.0 of run")
    assert all(same[name]["image"] == layers[name]["image"] for name in layers)


@pytest.mark.parametrize(
    ("handler", "body", "message"),
    [
        ("segment", {"choice": 9, "sample": 0}, "no model 9"),
        ("segment", {"choice": "0", "sample": 0}, "no model"),
        ("segment", {"choice": 0, "sample": -1}, "no sample"),
        ("segment", {"choice": 0, "image": "%%%"}, "upload is damaged"),
        ("segment", {"choice": 0, "image": ["/etc/passwd"]}, "upload is damaged"),
        ("segment", {"choice": 0}, "the file is empty"),
        ("explain", {"choice": 0, "sample": 0, "class": 3}, "no class 3"),
        ("explain", {"choice": 1, "sample": 0, "class": 0}, "no layers to explain"),
        ("segment", None, "The server failed"),
    ],
)
def test_invalid_request_returns_an_error(handlers, handler, body, message, capsys) -> None:
    assert message in getattr(handlers, handler)(body)["error"]


def test_internal_errors_are_hidden_from_the_page(handlers: Handlers, monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise UserError("/secret/folder/best.ckpt: damaged")

    monkeypatch.setattr(demo_handlers, "predict", fail)
    response = handlers.segment({"choice": 0, "sample": 0})
    assert response == {"error": "The server failed; its terminal shows the error."}
    assert "/secret/folder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "first" / "best.ckpt"
    segcoord.save(create_model(4), path)
    return path


def test_each_path_is_loaded_in_each_runtime_that_supports_it(
    checkpoint: Path, tmp_path: Path
) -> None:
    create_model(4).save_pretrained(tmp_path / "shared")
    paths = [str(checkpoint), str(tmp_path / "shared"), str(checkpoint)]
    choices = load_models(paths, None)
    assert [choice.name for choice in choices] == ["first (1)", "shared", "first (2)"]
    assert [choice.runtime for choice in choices] == ["torch"] * 3
    assert all(choice.explainable for choice in choices)
    for runtimes, message in ((["tensorrt"], "tensorrt"), (["torch", "openvino"], "openvino")):
        with pytest.raises(UserError, match=message):
            load_models(paths[:1], runtimes)
    with pytest.raises(UserError, match=r"no such checkpoint"):
        load_models([str(tmp_path / "none.ckpt")], None)


def test_samples_are_the_first_images_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    for message in ("no such folder", "no image in it"):
        with pytest.raises(UserError, match=message):
            read_samples(str(folder))
        folder.mkdir(exist_ok=True)
    for i in range(14):
        (folder / f"{i:02}.PNG").write_bytes(encode_file(np.full((2, 3, 3), i, np.uint8)))
    assert [image[0, 0, 0] for image in read_samples(str(folder))] == [*range(12)]
    (folder / "03.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"03\.png"):
        read_samples(str(folder))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(handlers: Handlers) -> Iterator[tuple[str, set[str]]]:
    """The URL of the page, and the hosts that its server has looked up."""
    hosts: set[str] = set()
    getaddrinfo = socket.getaddrinfo

    def recorded(host, *args, **kwargs):
        hosts.add(str(host))
        return getaddrinfo(host, *args, **kwargs)

    socket.getaddrinfo = recorded
    page = launch(handlers, "127.0.0.1", free_port())
    try:
        yield page.local_url, hosts
    finally:
        page.close(verbose=False)
        socket.getaddrinfo = getaddrinfo


def fetch(request: urllib.request.Request | str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    "path", ["upload", "gradio_api/upload", "gradio_api/file=/etc/hostname", "file/etc/hostname"]
)
def test_file_routes_of_gradio_are_blocked(served, path: str) -> None:
    request = urllib.request.Request(served[0] + path, data=b"x" if "upload" in path else None)
    assert fetch(request) == (404, '{"detail": "Not found."}')


def test_too_large_a_body_is_refused_before_it_is_read(served) -> None:
    connection = http.client.HTTPConnection(*served[0].removeprefix("http://")[:-1].split(":"))
    connection.putrequest("POST", "/gradio_api/component_server")
    connection.putheader("Content-Length", str(MAX_BODY + 1))
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413 and b"The limit is 20 MB" in response.read()
    connection.close()


def test_a_chunked_body_is_cut_off_at_the_limit() -> None:
    """As ASGI servers pass on a body without a Content-Length."""
    received, sent = [], []

    async def app(_scope: dict, receive, _send) -> None:
        while (message := await receive())["type"] == "http.request":
            received.append(len(message["body"]))

    async def receive() -> dict:
        return {"type": "http.request", "body": bytes(2**20), "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/gradio_api/component_server"}
    asyncio.run(RequestFilter(app)(scope | {"headers": []}, receive, sent.append))
    assert MAX_BODY - 2**20 < sum(received) <= MAX_BODY and not sent


def test_the_page_reveals_no_path_and_the_server_contacts_no_host(served) -> None:
    url, hosts = served
    package = str(Path(segcoord.__file__).parent)
    for path in ("", "config", "gradio_api/info", "theme.css"):
        status, content = fetch(url + path)
        assert status == 200
        for private in (str(Path.home()), package, "/tmp/", "site-packages"):
            assert private not in content, (path, private)
        assert "fonts.googleapis" not in content
    assert hosts <= {"127.0.0.1", "localhost"}


def test_unusable_port_and_missing_gradio_are_reported(
    served, checkpoint: Path, monkeypatch, capsys
) -> None:
    arguments = [f"--checkpoint={checkpoint}", f"--port={served[0].split(':')[2][:-1]}"]
    assert run(demo, "segcoord demo", arguments) == 1
    assert "Choose another port" in capsys.readouterr().err
    for port in (-5, 0, 99999):
        assert run(demo, "segcoord demo", [*arguments, f"--port={port}"]) == 1
        assert f"--port: found {port}, expected 1 to 65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run(demo, "segcoord demo", arguments) == 1
    assert "pip install 'segcoord[ui]'" in capsys.readouterr().err


@pytest.fixture
def tab(served, monkeypatch) -> Iterator:
    """The page in a browser, with an upload limit of 1 MB; no errors, no requests elsewhere."""
    monkeypatch.setattr(demo_images, "MAX_BYTES", 2**20)
    with chromium() as browser:
        context = browser.new_context(
            viewport={"width": 1280, "height": 800}, reduced_motion="reduce"
        )
        tab, errors, urls = context.new_page(), [], []
        tab.set_default_timeout(20_000)
        tab.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else 0)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: urls.append(request.url))
        tab.goto(served[0])
        tab.wait_for_selector(".sc[data-ready]")
        yield tab
        assert str(Path.home()) not in tab.content() and "/tmp/" not in tab.content()
        context.close()
    assert errors == []
    own = (served[0], "data:", f"blob:{served[0]}")
    assert [url for url in urls if not url.startswith(own)] == []


def test_walk_through_the_page_in_a_browser(tab, handlers: Handlers) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    refuse_uploads(tab)
    upload_and_download(tab, handlers)
    use_the_keyboard(tab, handlers)
    switch_models(tab, handlers)
    switch_themes_and_sizes(tab)


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


def wait_for_sample(tab, number: int) -> None:
    tab.wait_for_selector(f'#sc-samples button:nth-child({number})[aria-pressed="true"]')


def refuse_uploads(tab) -> None:
    message = tab.locator("#sc-message")
    upload(tab, b"no image at all", "notes.png")
    message.wait_for(state="visible")
    assert message.inner_text().startswith("The file can't be used: can't be read as an image")
    tab.keyboard.press("Escape")
    assert message.is_hidden()
    upload(tab, bytes(2**21), "<i>huge.png")
    message.wait_for(state="visible")
    assert message.inner_text() == "<i>huge.png has 2.0 MB; the limit is 1 MB."
    upload(tab, png_header(5000, 4000))
    tab.wait_for_function("document.querySelector('#sc-message').innerText.includes('million')")
    assert "/" not in message.inner_text()
    assert tab.locator(".sc").get_attribute("data-state") == "empty"


def upload_and_download(tab, handlers: Handlers) -> None:
    image = handlers.samples[0]
    expected = segcoord.predict(handlers.choices[0].model, image)
    upload(tab, encode_file(image))
    tab.wait_for_selector('#sc-download[aria-disabled="false"]')
    assert tab.locator(".sc").get_attribute("data-state") == "ready"
    counts = np.bincount(expected.ravel(), minlength=3)
    order = np.argsort(-counts, kind="stable")
    order = [int(i) for i in order if counts[i]]
    listed = tab.locator(".areas button > span").all_text_contents()
    assert listed == [NAMES[i] for i in order]
    facts = tab.inner_text("#sc-facts")
    assert re.fullmatch(r"run, torch: 160 x 120 pixels in \d+\.\d\d s", facts)
    layer = tab.locator("#sc-layer").evaluate(
        "e => [...e.getContext('2d').getImageData(0, 0, 160, 120).data]"
    )
    colors = handlers.choices[0].model.labels.colors[expected]
    assert np.array_equal(np.array(layer).reshape(120, 160, 4)[..., :3], colors)

    for y, x in ((10, 10), (60, 80), (110, 150)):
        tab.mouse.move(*pixel(tab, x, y))
        assert tab.inner_text("#sc-tip strong") == NAMES[expected[y, x]]
    tab.mouse.move(5, 5)
    assert tab.locator("#sc-tip").is_hidden()

    tab.locator("#sc-opacity").fill("25")
    assert tab.locator("#sc-layer").evaluate("e => e.style.opacity") == "0.25"

    tab.mouse.click(*pixel(tab, 80, 60))
    tab.wait_for_selector("input[value=cam]:checked")
    name = NAMES[expected[60, 80]]
    assert f"Grad-CAM of {name} in blocks.6.0" in tab.inner_text("#sc-scale")
    assert tab.locator('.areas [aria-pressed="true"] > span').inner_text() == name
    assert re.search(r" s; Grad-CAM and gates in \d+\.\d\d s$", tab.inner_text("#sc-facts"))
    tab.locator("input[value=rows]").check(force=True)
    assert "mean of" in tab.inner_text("#sc-scale")

    with tab.expect_download() as download:
        tab.click("#sc-download")
    assert download.value.suggested_filename == "street view_mask.png"
    with Image.open(download.value.path()) as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.array(mask), expected + 5)
        assert np.array_equal(np.array(mask.convert("RGB")), colors)


def use_the_keyboard(tab, handlers: Handlers) -> None:
    tab.locator("#sc-samples button").nth(1).focus()
    tab.keyboard.press("Enter")
    wait_for_sample(tab, 2)
    expected = segcoord.predict(handlers.choices[0].model, handlers.samples[1])
    tab.locator("#sc-picture").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#sc-tip strong") == NAMES[expected[60, 83]]
    for key in ["ArrowUp"] * 25 + ["Shift+ArrowLeft"]:
        tab.keyboard.press(key)
    assert tab.inner_text("#sc-tip strong") == NAMES[expected[0, 82]]
    tab.keyboard.press("Enter")
    tab.wait_for_selector("input[value=cam]:checked")
    tab.locator("input[value=cam]").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("input[value=rows]").is_checked()
    tab.locator("input[value=classes]").check(force=True)
    assert tab.locator("#sc-scale").is_hidden()


def switch_models(tab, handlers: Handlers) -> None:
    tab.locator("#sc-samples button").first.click()
    wait_for_sample(tab, 1)
    assert tab.locator("#sc-choice option").all_inner_texts() == [
        "run (torch)",
        "box (openvino)",
    ]
    tab.select_option("#sc-choice", label="box (openvino)")
    tab.wait_for_function("document.querySelector('#sc-facts').innerText.includes('box, openvino')")
    expected = segcoord.predict(handlers.choices[1].model, handlers.samples[0])
    tab.mouse.move(*pixel(tab, 40, 100))
    assert tab.inner_text("#sc-tip strong") == NAMES[expected[100, 40]]
    tab.locator(".areas button").first.click()
    message = tab.locator("#sc-message")
    message.wait_for(state="visible")
    assert "no layers to explain" in message.inner_text()


def switch_themes_and_sizes(tab) -> None:
    brightness = []
    for dark in (False, True):
        assert tab.evaluate("document.body.classList.contains('dark')") == dark
        color, ink = tab.locator(".sc").evaluate(
            "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
        )
        brightness.append([sum(map(int, re.findall(r"\d+", c)[:3])) for c in (color, ink)])
        tab.click("#sc-theme")
    assert brightness[0][0] > 650 and brightness[0][1] < 150
    assert brightness[1][0] < 120 and brightness[1][1] > 600
    assert tab.evaluate("document.documentElement.scrollHeight") == 800
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
