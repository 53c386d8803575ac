"""The demo's server: Gradio on the loopback address by default, without access to files."""

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
from segcoord.deploy.demo.images import MAX_BYTES, RequestError, decode
from segcoord.deploy.demo.models import load_models
from segcoord.utils.console import console
from segcoord.utils.errors import UserError

if TYPE_CHECKING:
    from gradio import Blocks

SAMPLE_SIZE, SAMPLES = (384, 288), (1, 8, 17, 22)  # (width, height), indices of drawn scenes
MAX_SAMPLES = 12
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
MAX_BODY = MAX_BYTES * 4 // 3 + 2**16  # a file in base64 and the rest of the request
BLOCKED = ("/upload", "/file", "/proxy", "/stream", "/monitoring", "/process_recording", "/vibe")
"""Routes of Gradio that the page does not use; some reveal paths or write files."""


def run_demo(
    paths: Sequence[str],
    runtimes: Sequence[str] | None,
    samples: str | None,
    host: str,
    port: int,
) -> int:
    """Serves the page until Ctrl-C.

    Raises:
        UserError: Gradio is missing, or a model, the samples, the host or the port can't be used.
    """
    _require_gradio()
    if not 1 <= port <= 65535:
        raise UserError(f"--port: found {port}, expected 1 to 65535")
    handlers = Handlers(load_models(paths, runtimes), read_samples(samples))
    if not _is_loopback(host):
        console.print(
            f"--host {host}: anyone who can reach port {port} of this machine can use the page; "
            "it has no password and no encryption."
        )
    page = launch(handlers, host, port)
    console.print(f"{page.local_url} (Ctrl-C to stop)")
    page.block_thread()  # until Ctrl-C, which Gradio handles
    return 0


def launch(handlers: Handlers, host: str, port: int) -> Blocks:
    """Starts the server in a thread.

    Returns:
        Gradio's Blocks; `close()` stops the server.

    Raises:
        UserError: the host or the port can't be opened.
    """
    import gradio as gr
    from starlette.middleware import Middleware

    folder = resources.files("segcoord.deploy.demo")
    html, css, js = ((folder / f"page.{s}").read_text("utf-8") for s in ("html", "css", "js"))
    functions = (handlers.start, handlers.segment, handlers.explain)
    with gr.Blocks(title="segcoord", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            html_template=html,
            js_on_load=js,
            apply_default_css=False,
            server_functions=[_as_function(f) for f in functions],
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
            app_kwargs={"middleware": [Middleware(RequestFilter)]},
        )
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}: can't be opened ({error}). Choose another port, or "
            "check that the host is an address of this machine."
        ) from error
    return page


class RequestFilter:
    """ASGI middleware that refuses BLOCKED paths and bodies over MAX_BODY."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"].removeprefix("/gradio_api")
        if path.startswith(BLOCKED):
            return await _refuse(send, 404, "Not found.")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if scope["method"] == "POST" and int(length or 0) > MAX_BODY:
            return await _refuse(send, 413, f"The limit is {MAX_BYTES // 2**20} MB.")
        received = 0

        async def limited_receive() -> dict:  # for a chunked body, which has no Content-Length
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message if received <= MAX_BODY else {"type": "http.disconnect"}

        return await self.app(scope, limited_receive, send)


async def _refuse(send: Callable, status: int, detail: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    body = json.dumps({"detail": detail}).encode()
    await send({"type": "http.response.body", "body": body})


def read_samples(folder: str | None) -> list[np.ndarray]:
    """The first images of a folder by name, or drawn scenes; (H, W, 3) uint8 RGB.

    Raises:
        UserError: no such folder, no image in it, or an image that the page would refuse.
    """
    if folder is None:
        return [draw_scene(0, "test", index, *SAMPLE_SIZE)[0] for index in SAMPLES]
    if not Path(folder).is_dir():
        raise UserError(f"--samples {folder}: no such folder")
    files = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"--samples {folder}: no image in it ({', '.join(sorted(SUFFIXES))})")
    images = []
    for path in files[:MAX_SAMPLES]:
        try:
            images.append(decode(path.read_bytes()))
        except RequestError as error:
            raise UserError(f"{path}: {error}") from error
    return images


def _require_gradio() -> None:
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the demo needs Gradio, but importing it failed ({error}). Install it with: "
            "pip install 'segcoord[ui]'"
        ) from error


def _as_function(method: Callable[[dict], dict]) -> Callable[[dict], dict]:
    """Wraps a method in a function, on which Gradio can set attributes."""

    def call(request: dict) -> dict:
        return method(request)

    call.__name__ = method.__name__
    return call


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
