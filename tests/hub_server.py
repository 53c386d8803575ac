"""A stand-in for the Hugging Face hub: what its client asks for an upload and a download."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repositories: name -> path -> content.
        private: what `create` was asked of each name.
        commits: name -> messages.
        tokens: those that requests carried, but for the storage's.
        asked: "METHOD path" of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, object] = {}
        self.commits: dict[str, list[str]] = {}
        self.objects: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def revision(self, name: str) -> str:
        files = self.repositories[name]
        content = b"".join(path.encode() + files[path] for path in sorted(files))
        return hashlib.sha1(content).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not path.startswith("/upload/"):  # whose address is the secret, as the hub's are
            hub.tokens.add(self.headers.get("Authorization"))
        hub.asked.append(f"{self.command} {path}")
        for pattern, answer in (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", lambda _: {"errors": [], "warnings": []}),
            (r"/api/models/(\w+/[\w-]+)/preupload/main", self._modes),
            (r"/(\w+/[\w-]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/upload/(\w+)", self._store),
            (r"/api/models/(\w+/[\w-]+)/commit/main", self._commit),
            (r"/api/models/(\w+/[\w-]+)(?:/revision/main)?", self._info),
            (r"/api/models/(\w+/[\w-]+)/tree/\w+", self._tree),
            (r"/(\w+/[\w-]+)/resolve/\w+/([\w.]+)", self._file),
        ):
            if found := re.fullmatch(pattern, path):
                name = found[1] if found.groups() else ""
                if "/" in name and name not in hub.repositories:
                    return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                given = answer(body, *found.groups())
                return given if given is None else self._send(200, json.dumps(given).encode())
        return self._send(404, b"{}")

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _create(self, body: bytes) -> dict:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        self.server.repositories.setdefault(name, {})
        self.server.private.setdefault(name, asked.get("visibility", asked.get("private")))
        return {"url": f"{self.server.url}/{name}"}

    def _modes(self, body: bytes, _name: str) -> dict:
        def mode(path: str) -> dict:
            kind = "lfs" if path.endswith(".safetensors") else "regular"
            return {"path": path, "uploadMode": kind, "shouldIgnore": False}

        return {"files": [mode(file["path"]) for file in json.loads(body)["files"]]}

    def _batch(self, body: bytes, _name: str) -> dict:
        def action(wanted: dict) -> dict:
            return wanted | {
                "actions": {"upload": {"href": f"{self.server.url}/upload/{wanted['oid']}"}}
            }

        objects = [action(wanted) for wanted in json.loads(body)["objects"]]
        return {"transfer": "basic", "objects": objects}

    def _store(self, body: bytes, oid: str) -> dict:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.objects[oid] = body
        return {}

    def _commit(self, body: bytes, name: str) -> dict:
        hub = self.server
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                hub.commits.setdefault(name, []).append(value["summary"])
            elif line["key"] == "file":
                hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            else:
                hub.repositories[name][value["path"]] = hub.objects[value["oid"]]
        oid = hub.revision(name)
        return {"commitUrl": f"{hub.url}/{name}/commit/{oid}", "commitOid": oid}

    def _info(self, _body: bytes, name: str) -> dict:
        private = self.server.private[name] in ("private", True)
        told = {"id": name, "sha": self.server.revision(name), "private": private}
        return told | {"siblings": []}

    def _tree(self, _body: bytes, name: str) -> list[dict]:
        return [
            {
                "type": "file",
                "path": path,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            for path, content in self.server.repositories[name].items()
        ]

    def _file(self, _body: bytes, name: str, path: str) -> None:
        content = self.server.repositories[name].get(path)
        if content is None:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.server.revision(name)}
        return self._send(200, content, headers)
