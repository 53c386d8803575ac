"""A local server with the requests that huggingface_hub sends to upload and download files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repositories: name -> path -> content.
        private: name -> visibility requested at creation.
        commits: name -> commit messages.
        tokens: authorization headers of the requests, except uploads to the storage.
        requests: "METHOD path" of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, object] = {}
        self.commits: dict[str, list[str]] = {}
        self.objects: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.requests: list[str] = []

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
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def use_hub(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directs huggingface_hub in this process to a server and an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a storage that Hub lacks
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._respond()

    do_HEAD = do_POST = do_PUT = do_GET

    def _respond(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not path.startswith("/upload/"):  # presigned, like the Hub's
            hub.tokens.add(self.headers.get("Authorization"))
        hub.requests.append(f"{self.command} {path}")
        repo = r"(\w+/[\w.-]+)"
        for pattern, route in (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", lambda _: {"errors": [], "warnings": []}),
            (rf"/api/models/{repo}/preupload/main", self._preupload),
            (rf"/{repo}\.git/info/lfs/objects/batch", self._lfs_batch),
            (r"/upload/(\w+)", self._upload),
            (rf"/api/models/{repo}/commit/main", self._commit),
            (rf"/api/models/{repo}(?:/revision/main)?", self._model_info),
            (rf"/api/models/{repo}/tree/\w+", self._tree),
            (rf"/{repo}/resolve/\w+/([\w.]+)", self._resolve),
        ):
            if match := re.fullmatch(pattern, path):
                name = match[1] if match.groups() else ""
                if "/" in name and name not in hub.repositories:
                    return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                response = route(body, *match.groups())
                if response is not None:
                    self._send(200, json.dumps(response).encode())
                return None
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
        request = json.loads(body)
        name = f"{request['organization']}/{request['name']}"
        self.server.repositories.setdefault(name, {})
        self.server.private.setdefault(name, request.get("visibility", request.get("private")))
        return {"url": f"{self.server.url}/{name}"}

    def _preupload(self, body: bytes, _name: str) -> dict:
        def mode(path: str) -> dict:
            kind = "lfs" if path.endswith(".safetensors") else "regular"
            return {"path": path, "uploadMode": kind, "shouldIgnore": False}

        return {"files": [mode(file["path"]) for file in json.loads(body)["files"]]}

    def _lfs_batch(self, body: bytes, _name: str) -> dict:
        def action(item: dict) -> dict:
            upload = {"href": f"{self.server.url}/upload/{item['oid']}"}
            return item | {"actions": {"upload": upload}}

        objects = [action(item) for item in json.loads(body)["objects"]]
        return {"transfer": "basic", "objects": objects}

    def _upload(self, body: bytes, oid: str) -> dict:
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

    def _model_info(self, _body: bytes, name: str) -> dict:
        private = self.server.private[name] in ("private", True)
        sha = self.server.revision(name)
        return {"id": name, "sha": sha, "private": private, "siblings": []}

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

    def _resolve(self, _body: bytes, name: str, path: str) -> None:
        content = self.server.repositories[name].get(path)
        if content is None:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.server.revision(name)}
        return self._send(200, content, headers)
