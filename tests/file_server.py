"""A local HTTP server for tests of downloads, and its responses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Respond = Callable[[BaseHTTPRequestHandler], None]


def respond_with(content: bytes, length: int | None = None) -> Respond:
    """Respond with `content`, and with `length` as Content-Length; 0 omits the header."""

    def respond(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        if length != 0:
            request.send_header("Content-Length", str(length or len(content)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)

    return respond


def hang(request: BaseHTTPRequestHandler) -> None:
    request.server.released.wait(10)


def hang_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


@contextmanager
def running_server(respond: Respond) -> Iterator[ThreadingHTTPServer]:
    """Responds to every request with `server.respond`; `server.requests` counts the GETs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.requests += self.command == "GET"
            self.server.respond(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.respond, server.requests, server.released = respond, 0, threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
