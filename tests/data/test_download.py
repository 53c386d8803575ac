"""Downloading datasets from a local server: success, failures, and the files left behind."""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import tarfile
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from file_server import Respond, hang, hang_up, respond_with, running_server

from segcoord.cli.main import main
from segcoord.data import download
from segcoord.data.download import ARCHIVES, Archive, get_archive
from segcoord.utils.errors import UserError

VOC2012 = "VOCdevkit/VOC2012"
LISTS = f"{VOC2012}/ImageSets/Segmentation"
FILES = {f"{LISTS}/{split}.txt": split.encode() for split in ("train", "val")}
FILES |= {f"{VOC2012}/JPEGImages/{i}.jpg": bytes([i]) * 30_000 for i in range(3)}
FILES |= {f"{VOC2012}/SegmentationClass/{i}.png": bytes([i]) * 100 for i in range(2)}
MINIMUM_FILES = {"JPEGImages/*.jpg": 3, "SegmentationClass/*.png": 2}


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


GOOD = tar_of(FILES)


def redirect_forever(request: BaseHTTPRequestHandler) -> None:
    request.send_response(302)
    request.send_header("Location", f"{request.path}x")
    request.end_headers()


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with running_server(respond_with(GOOD)) as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "voc"


def archive_of(
    server: ThreadingHTTPServer, content: bytes = GOOD, name: str = "voc.tar"
) -> Archive:
    return Archive(
        title="VOC",
        url=f"http://127.0.0.1:{server.server_port}/{name}",
        file=name,
        md5=hashlib.md5(content).hexdigest(),
        size=len(content),
        unpacked=len(content),
        tree=Path(VOC2012),
        minimum_files=MINIMUM_FILES,
    )


def files_in(root: Path) -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


WHOLE = FILES | {"voc.tar": GOOD}


def test_urls_and_checksums_of_the_archives() -> None:
    voc, sbd = ARCHIVES["voc"], ARCHIVES["sbd"]
    assert voc.file == voc.url.rpartition("/")[2] == "VOCtrainval_11-May-2012.tar"
    assert voc.md5 == "6cd6e144f989b92b3379bac3b3de84fd"
    assert voc.tree == Path(VOC2012)
    assert sbd.file == sbd.url.rpartition("/")[2] == "benchmark.tgz"
    assert len(sbd.md5) == 32


def test_an_archive_is_downloaded_and_unpacked_once(server, root, capsys) -> None:
    archive = archive_of(server)
    assert get_archive(archive, root) == root / VOC2012
    assert files_in(root) == WHOLE
    out = capsys.readouterr().out
    assert "VOC needs 204.8 kB in " in out
    assert ": 102.4 kB to download, 102.4 kB to unpack" in out
    assert "voc.tar is no longer needed" in out
    requests = server.requests
    assert get_archive(archive, root) == root / VOC2012
    assert "exists and is complete" in capsys.readouterr().out
    (root / "voc.tar").unlink()
    get_archive(archive, root)
    assert server.requests == requests


def test_a_gzip_archive_like_sbd(server, root) -> None:
    content = tar_of(FILES, "w:gz")
    server.respond = respond_with(content)
    get_archive(archive_of(server, content, "voc.tgz"), root)
    assert files_in(root) == FILES | {"voc.tgz": content}


FAILURES: dict[str, tuple[Respond, str]] = {
    "other": (
        respond_with(b"other"),
        r"gave 5 bytes of MD5 [0-9a-f]{32}, expected [0-9a-f]{32}; not kept",
    ),
    "cut": (respond_with(GOOD[:50_000], len(GOOD)), r"ended after 50,000 of 102,400 bytes"),
    "empty": (respond_with(b""), r"gave 0 bytes of MD5"),
    "404": (lambda request: request.send_error(404), r"HTTPError: HTTP Error 404: Not Found"),
    "503": (lambda request: request.send_error(503), r"HTTPError: HTTP Error 503"),
    "hang up": (hang_up, r"could not be fetched \(RemoteDisconnected"),
    "time out": (hang, r"could not be fetched \(TimeoutError: timed out\)"),
    "redirects": (redirect_forever, r"could not be fetched"),
}


@pytest.mark.parametrize(("respond", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_download_leaves_nothing_and_can_be_repeated(
    server, root, monkeypatch, respond: Respond, message: str
) -> None:
    monkeypatch.setattr("segcoord.utils.download.TIMEOUT", 0.3)
    archive = archive_of(server)
    server.respond = respond
    with pytest.raises(UserError, match=message) as caught:
        get_archive(archive, root)
    assert str(caught.value).startswith(archive.url)
    assert f"download {archive.url} by hand to {root / 'voc.tar'}" in str(caught.value)
    assert files_in(root) == {}
    server.respond = respond_with(GOOD)
    get_archive(archive, root)
    assert files_in(root) == WHOLE


def test_a_refused_connection_is_reported(server, root) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/voc.tar"
        with pytest.raises(UserError, match=r"Connection refused.*Check the network"):
            get_archive(replace(archive_of(server), url=url), root)
    assert files_in(root) == {}


def test_an_interrupted_download_leaves_nothing_and_starts_over(server, root, monkeypatch) -> None:
    def interrupted(response, file) -> None:
        file.write(response.read(500))
        raise KeyboardInterrupt

    archive = archive_of(server)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get_archive(archive, root)
    assert files_in(root) == {}
    get_archive(archive, root)
    assert files_in(root) == WHOLE


def test_leftovers_of_a_killed_process_are_removed(server, root) -> None:
    (root / ".voc.tar.abcd").mkdir(parents=True)
    (root / ".voc.tar.abcd" / "file").write_bytes(b"half")
    (root / ".voc.tar.efgh.part").write_bytes(GOOD[:500])
    get_archive(archive_of(server), root)
    assert files_in(root) == WHOLE


def test_a_downloaded_archive_is_not_downloaded_again(server, root, capsys) -> None:
    root.mkdir(parents=True)
    (root / "voc.tar").write_bytes(GOOD)
    get_archive(archive_of(server), root)
    assert files_in(root) == WHOLE
    assert server.requests == 0
    assert "VOC needs 102.4 kB in" in capsys.readouterr().out


def test_a_damaged_archive_is_downloaded_again(server, root, capsys) -> None:
    root.mkdir(parents=True)
    (root / "voc.tar").write_bytes(GOOD[:-5000])
    get_archive(archive_of(server), root)
    assert files_in(root) == WHOLE
    assert "voc.tar: damaged (97,400 bytes of MD5" in capsys.readouterr().out


def test_an_incomplete_tree_is_completed_and_keeps_other_files(server, root, capsys) -> None:
    images = root / VOC2012 / "JPEGImages"
    images.mkdir(parents=True)
    (images / "0.jpg").write_bytes(b"half")
    (root / VOC2012 / "own.txt").write_text("mine")
    get_archive(archive_of(server), root)
    assert files_in(root) == WHOLE | {f"{VOC2012}/own.txt": b"mine"}
    out = capsys.readouterr().out
    assert "incomplete (1 of 3 JPEGImages/*.jpg, 0 of 2 SegmentationClass/*.png)" in out


def test_interrupted_unpacking_leaves_no_tree(server, root, monkeypatch) -> None:
    def interrupted(file: Path, folder: str) -> None:
        (Path(folder) / "VOCdevkit").mkdir()
        raise KeyboardInterrupt

    archive = archive_of(server)
    with monkeypatch.context() as patch:
        patch.setattr(download, "extract_archive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get_archive(archive, root)
    assert files_in(root) == {"voc.tar": GOOD}
    assert [p.name for p in root.iterdir()] == ["voc.tar"]
    requests = server.requests
    get_archive(archive, root)
    assert files_in(root) == WHOLE
    assert server.requests == requests


@pytest.mark.parametrize("name", ["../../evil.txt", "/tmp/segcoord-evil.txt", "link"])
def test_an_archive_that_writes_outside_its_folder_is_refused(server, root, name: str) -> None:
    buffer = io.BytesIO(GOOD)
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "../../.."
        tar.addfile(member)
    content = buffer.getvalue()
    server.respond = respond_with(content)
    if name.startswith("/"):  # is unpacked below the folder, which is safe
        get_archive(archive_of(server, content), root)
        assert not Path(name).exists()
        return
    with pytest.raises(UserError, match=r"could not be unpacked \(\w*OutsideDestinationError: .*"):
        get_archive(archive_of(server, content), root)
    assert files_in(root.parent.parent) == {"data/voc/voc.tar": content}


@pytest.mark.parametrize("content", [b"no archive" * 99, GOOD[:45_000]], ids=["other", "cut"])
def test_a_file_that_is_not_an_archive_is_reported(server, root, content: bytes) -> None:
    server.respond = respond_with(content)
    with pytest.raises(UserError, match=r"voc\.tar: could not be unpacked \(ReadError: "):
        get_archive(archive_of(server, content), root)
    assert files_in(root) == {"voc.tar": content}


def test_an_archive_with_another_tree_is_reported(server, root) -> None:
    content = tar_of({f"{VOC2012}/JPEGImages/0.jpg": b"0"})
    server.respond = respond_with(content)
    with pytest.raises(UserError, match=r"VOC2012 has 1 of 3 JPEGImages/\*\.jpg, 0 of 2 Segm"):
        get_archive(archive_of(server, content), root)
    assert files_in(root) == {"voc.tar": content}


def test_a_disk_that_is_too_small_is_refused_before_the_download(server, root, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 1000))
    with pytest.raises(
        UserError, match=r"found 1\.0 kB of free disk space, expected 204\.8 kB for VOC"
    ):
        get_archive(archive_of(server), root)
    assert server.requests == 0
    assert not root.exists()


def test_a_disk_that_fills_up_is_reported(server, root, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    archive = archive_of(server)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(UserError, match=r"No space left on device.*the free space"):
            get_archive(archive, root)
    monkeypatch.setattr(download, "extract_archive", full)
    with pytest.raises(UserError, match=r"could not be unpacked \(OSError: .*No space left"):
        get_archive(archive, root)
    assert files_in(root) == {"voc.tar": GOOD}


def test_a_python_that_cannot_unpack_safely_is_refused(server, root, monkeypatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(
        UserError, match=r"expected 3\.10\.12, 3\.11\.4 or newer.*tar -xf .*voc\.tar"
    ):
        get_archive(archive_of(server), root)
    assert files_in(root) == {"voc.tar": GOOD}


def test_the_command_downloads_to_the_default_or_given_root(
    server, root, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(ARCHIVES, "voc", archive_of(server))
    monkeypatch.chdir(root.parents[1])
    assert main(["data", "get", "voc"]) == 0
    assert files_in(root) == WHOLE  # in data/voc
    assert main(["data", "get", "voc", "--root", "elsewhere"]) == 0
    assert files_in(Path("elsewhere")) == WHOLE
    assert main(["data", "get", "imagenet"]) == 1
    assert "found 'imagenet', expected voc, sbd or cityscapes" in capsys.readouterr().err


def test_cityscapes_shows_the_commands_of_its_own_downloader(capsys) -> None:
    assert main(["data", "get", "cityscapes", "--root", "my data"]) == 1
    errors = capsys.readouterr().err
    assert "account" in errors
    assert "\n  csDownload -d 'my data' gtFine_trainvaltest.zip leftImg8bit_tr" in errors
    assert "\n  unzip -n -d 'my data' 'my data'/gtFine_trainvaltest.zip\n" in errors
