"""The demo's server: Gradio, for this machine alone unless told otherwise, and closed to files."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segcoord.data.synthetic.scenes import draw_scene
from segcoord.deploy.demo.handlers import Handlers
from segcoord.deploy.demo.images import MAX_BYTES, RefusedImage, decode
from segcoord.deploy.demo.models import load_models
from segcoord.utils.console import console
from segcoord.utils.errors import UserError

if TYPE_CHECKING:
    from gradio import Blocks

_PARTS = ("html", "css", "js")
SAMPLE_SIZE, SAMPLES = (384, 288), (1, 8, 17, 22)  # width and height, numbers of drawn scenes
MOST_SAMPLES = 12
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
MAX_BODY = MAX_BYTES * 4 // 3 + 2**16  # a file in base64, and what stands around it
CLOSED = ("/upload", "/file", "/proxy", "/stream", "/monitoring", "/process_recording", "/vibe")
"""Ways into Gradio that the page has no use for; some tell paths, or write files."""


def run_demo(
    paths: Sequence[str],
    runtimes: Sequence[str] | None,
    samples: str | None,
    host: str,
    port: int,
) -> int:
    """Serves the page until Ctrl-C.

    Raises:
        UserError: Gradio is missing, a model, a folder or a port that can't be used.
    """
    _require_gradio()
    if not 1 <= port <= 65535:
        raise UserError(f"--port: found {port}, expected 1 to 65535")
    answers = Handlers(load_models(paths, runtimes), read_samples(samples))
    if not _is_loopback(host):
        console.print(
            f"--host {host}: whoever reaches this machine's port {port} can use the page; there is "
            "no password and no encryption."
        )
    page = launch(answers, host, port)
    console.print(f"{page.local_url} (Ctrl-C to stop)")
    page.block_thread()  # until Ctrl-C, which it takes as the wish to end
    return 0


def launch(answers: Handlers, host: str, port: int) -> Blocks:
    """Starts the server in a thread.

    Returns:
        Gradio's Blocks, whose `close()` ends it.

    Raises:
        UserError: the port or the host can't be had.
    """
    import gradio as gr
    from starlette.middleware import Middleware

    here = resources.files("segcoord.deploy.demo")
    html, css, js = (here.joinpath(f"page.{kind}").read_text("utf-8") for kind in _PARTS)
    with gr.Blocks(title="segcoord", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            html_template=html,
            js_on_load=js,
            apply_default_css=False,
            server_functions=[_plain(f) for f in (answers.start, answers.segment, answers.explain)],
        )
    try:
        page.launch(
            server_name=host,
            server_port=port,
            theme=gr.themes.Base(font=["sans-serif"], font_mono=["monospace"]),
            head=f"<style>{css}</style>",
            quiet=True,
            prevent_thread_lock=True,
            share=False,
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            app_kwargs={"middleware": [Middleware(Guard)]},
        )
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: can't be opened ({error}). Choose another port, or see "
            "that the host is one of this machine's addresses."
        ) from error
    return page


class Guard:
    """ASGI middleware: refuses bodies that are too large, and what the page never asks for."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix("/gradio_api")
        if path.startswith(CLOSED):
            return await _refuse(send, 404, "There is no such page.")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if scope["method"] == "POST" and int(length or 0) > MAX_BODY:
            return await _refuse(send, 413, f"More than {MAX_BYTES // 2**20} MB are not taken.")
        taken = 0

        async def counted() -> dict:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            # Of a body that doesn't say how long it is.
            return message if taken <= MAX_BODY else {"type": "http.disconnect"}

        return await self.app(scope, counted, send)


async def _refuse(send: Callable, status: int, words: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    body = json.dumps({"detail": words}).encode()
    await send({"type": "http.response.body", "body": body})


def read_samples(folder: str | None) -> list[np.ndarray]:
    """(H, W, 3) uint8 RGB: the first images of a folder, by name, or scenes drawn by us.

    Raises:
        UserError: no such folder, no image in it, or one that the page would refuse.
    """
    if folder is None:
        return [draw_scene(0, "test", index, *SAMPLE_SIZE)[0] for index in SAMPLES]
    if not Path(folder).is_dir():
        raise UserError(f"--samples {folder}: no such folder")
    files = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"--samples {folder}: no image in it ({', '.join(sorted(SUFFIXES))})")
    images = []
    for path in files[:MOST_SAMPLES]:
        try:
            images.append(decode(path.read_bytes()))
        except RefusedImage as error:
            raise UserError(f"{path}: {error}") from error
    return images


def _require_gradio() -> None:
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the demo needs Gradio, which can't be imported here ({error}). Install it: "
            "pip install 'segcoord[ui]'"
        ) from error


def _plain(method: Callable[[dict], dict]) -> Callable[[dict], dict]:
    """A function, which Gradio can mark as one that the page may call; a method takes no mark."""

    def call(asked: dict) -> dict:
        return method(asked)

    call.__name__ = method.__name__
    return call


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
