"""Downloads of published weights: checksums, cache, offline, failures."""

from __future__ import annotations

import hashlib
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from file_server import Respond, hang, hang_up, respond_with, running_server
from helpers import shaken
from hub_server import Hub, running_hub, use_hub
from safetensors.torch import save
from torch import Tensor

from segcoord.models.encoders.download_weights import (
    PUBLISHED,
    PublishedFile,
    download,
    git_blob_id,
)
from segcoord.models.encoders.weights import timm_state_dict
from segcoord.utils.errors import UserError

NAME = "mobilenetv2_ca_100"


SMALL = "test_efficientnet"  # an encoder of timm, 1.4 MB


@pytest.mark.parametrize(
    ("content", "blob"),
    [
        (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        (b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
    ],
)
def test_git_blob_ids(content: bytes, blob: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert git_blob_id(tmp_path / "file") == blob


# Downloads from a local server

GOOD = b"weights" * 30_000


HTML = b"<html>Log in to the hotel's network"


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Sends `server.responses` in turn, then status 500."""

    def respond(request: BaseHTTPRequestHandler) -> None:
        responses = request.server.responses
        responses.pop(0)(request) if responses else request.send_error(500)

    with running_server(respond) as running:
        running.responses = []
        yield running


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def published(server: ThreadingHTTPServer) -> PublishedFile:
    blob = hashlib.sha1(b"blob 210000\0" + GOOD).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/mbv2_ca.pth"
    return PublishedFile(url, blob, f"mbv2_ca-{blob[:8]}.pth")


def test_published_files_are_pinned() -> None:
    ca = PUBLISHED[NAME]
    assert ca.url.split("/")[2] == "raw.githubusercontent.com"
    assert re.fullmatch("[0-9a-f]{40}", ca.url.split("/")[-2])  # a commit, not a branch
    assert re.fullmatch("[0-9a-f]{40}", ca.blob)
    assert ca.file == f"mbv2_ca-{ca.blob[:8]}.pth"


@pytest.mark.parametrize("length", [None, 0], ids=["with length", "without length"])
def test_a_file_is_downloaded_once_and_then_cached(server, published, cache, length) -> None:
    server.responses = [respond_with(GOOD, length)]
    path = download(published)
    assert path == cache / published.file
    assert path.read_bytes() == GOOD
    assert download(published) == download(published, offline=True) == path
    assert server.requests == 1
    assert list(cache.iterdir()) == [path]


FAILURES: dict[str, tuple[Respond, str]] = {
    "wrong content": (
        respond_with(b"other"),
        "gave a file of 5 bytes with git blob id [0-9a-f]{40}, exp",
    ),
    "html": (respond_with(HTML), "gave an HTML page, not the file with git blob id"),
    "cut": (
        respond_with(GOOD[:100_000], len(GOOD)),
        "connection ended after 100,000 of 210,000 bytes",
    ),
    "404": (lambda request: request.send_error(404), "HTTP Error 404: Not Found"),
    "hang up": (hang_up, "could not be fetched"),
    "hang": (hang, "timed out"),
}


@pytest.mark.parametrize(("response", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_download_leaves_no_file_and_can_be_repeated(
    server, published, cache, monkeypatch, response: Respond, message: str
) -> None:
    monkeypatch.setattr("segcoord.utils.download.TIMEOUT", 0.3)
    server.responses = [response, respond_with(GOOD)]
    with pytest.raises(UserError, match=message) as caught:
        download(published)
    text = str(caught.value)
    assert text.startswith(published.url)
    assert f"Download {published.url} to {cache / published.file} yourself, use" in text
    assert "--model.encoder_weights FILE" in text
    assert list(cache.iterdir()) == []
    assert download(published).read_bytes() == GOOD


def test_a_refused_connection_is_an_error(cache, published, server) -> None:
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        gone = replace(published, url=f"http://127.0.0.1:{taken.getsockname()[1]}/mbv2_ca.pth")
        with pytest.raises(UserError, match="Connection refused"):
            download(gone)
    assert list(cache.iterdir()) == []


def test_offline_sends_no_request(server, published, cache) -> None:
    server.responses = [respond_with(GOOD)]
    with pytest.raises(UserError, match=r"no such file, and --offline is set. Download "):
        download(published, offline=True)
    cache.mkdir(parents=True)
    (cache / published.file).write_bytes(GOOD[:-1])
    with pytest.raises(UserError, match=r"damaged \(its git blob id .* --offline is set"):
        download(published, offline=True)
    assert server.requests == 0


def test_a_damaged_file_in_the_cache_is_reported_and_downloaded_again(
    server, published, cache, capsys
) -> None:
    cache.mkdir(parents=True)
    (cache / published.file).write_bytes(GOOD[:-1])
    with pytest.raises(UserError, match="HTTP Error 500"):
        download(published)
    assert (cache / published.file).read_bytes() == GOOD[:-1]
    capsys.readouterr()
    server.responses = [respond_with(GOOD)]
    assert download(published).read_bytes() == GOOD
    assert f"{published.file}: damaged (its git blob id" in capsys.readouterr().out


# timm's weights, from a local Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Hub, dict[str, Tensor]]]:
    torch.manual_seed(2)
    tensors = shaken(timm.create_model(SMALL)).state_dict()
    with running_hub() as running:
        files = {"model.safetensors": save(dict(tensors))}
        running.repositories[f"timm/{SMALL}.r160_in1k"] = files
        use_hub(running.url, tmp_path / "huggingface", monkeypatch)
        yield running, tensors


def test_timms_weights_are_downloaded_and_then_found_offline(hub) -> None:
    server, tensors = hub
    with pytest.raises(UserError, match="are not in the Hugging Face cache, and --offline is set"):
        timm_state_dict(SMALL, offline=True)
    assert server.requests == []
    found = timm_state_dict(SMALL)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], t) for n, t in tensors.items())
    requests = len(server.requests)
    offline = timm_state_dict(SMALL, offline=True)
    assert all(torch.equal(offline[n], t) for n, t in tensors.items())
    assert len(server.requests) == requests > 0


@pytest.mark.parametrize("name", ["mobilenetv2_100", SMALL])
def test_a_failed_download_of_timms_weights_is_an_error(
    name: str, hub, monkeypatch, tmp_path: Path
) -> None:
    if name == SMALL:  # connection refused; the server has no other repository
        taken = socket.socket()  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        use_hub(url, tmp_path / "huggingface", monkeypatch)
        monkeypatch.setattr(time, "sleep", lambda _: None)  # between retries of the client
    source = (
        rf"from https://huggingface\.co/timm/{name}\..* yourself .*--model\.encoder_weights FILE"
    )
    with pytest.raises(UserError, match=f"could not be downloaded .* Check the network.* {source}"):
        timm_state_dict(name)
    if name == SMALL:
        taken.close()


@pytest.mark.parametrize(
    ("name", "offline", "message"),
    [
        (NAME, False, "timm has no weights for"),
        ("mobilenetv2_035", False, "timm has no weights for"),
        ("no_such_encoder", False, "timm has no weights for"),
        ("legacy_seresnet18", True, "not in the Hugging Face cache"),
    ],
)
def test_encoders_without_available_weights(name: str, offline: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        timm_state_dict(name, offline=offline)
