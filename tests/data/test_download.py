"""data/get.py against a server of our own: what arrives, what doesn't, and what is left behind."""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import tarfile
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from segcoord.cli.main import main
from segcoord.data import download as get
from segcoord.data.download import ARCHIVES, Archive, get_archive
from segcoord.utils.errors import UserError

VOC2012 = "VOCdevkit/VOC2012"
LISTS = f"{VOC2012}/ImageSets/Segmentation"
FILES = {f"{LISTS}/{split}.txt": split.encode() for split in ("train", "val")}
FILES |= {f"{VOC2012}/JPEGImages/{i}.jpg": bytes([i]) * 30_000 for i in range(3)}
FILES |= {f"{VOC2012}/SegmentationClass/{i}.png": bytes([i]) * 100 for i in range(2)}
HOLDS = {"JPEGImages/*.jpg": 3, "SegmentationClass/*.png": 2}

Answer = Callable[[BaseHTTPRequestHandler], None]


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


GOOD = tar_of(FILES)


def give(content: bytes, length: int | None = None) -> Answer:
    """Answers with `content`, and tells `length` as its own."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(length or len(content)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)

    return answer


def hang_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


def hang(request: BaseHTTPRequestHandler) -> None:
    request.server.released.wait(10)


def turn_in_circles(request: BaseHTTPRequestHandler) -> None:
    request.send_response(302)
    request.send_header("Location", f"{request.path}x")
    request.end_headers()


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Gives `server.answer` whatever is asked, and counts the files it was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.asked += self.command == "GET"
            self.server.answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.answer, running.asked, running.released = give(GOOD), 0, threading.Event()
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


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
        holds=HOLDS,
    )


def held(root: Path) -> dict[str, bytes]:
    files = (p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


WHOLE = FILES | {"voc.tar": GOOD}


def test_where_the_archives_are() -> None:
    voc, sbd = ARCHIVES["voc"], ARCHIVES["sbd"]
    assert voc.file == voc.url.rpartition("/")[2] == "VOCtrainval_11-May-2012.tar"
    assert voc.md5 == "6cd6e144f989b92b3379bac3b3de84fd"
    assert voc.tree == Path(VOC2012)
    assert sbd.file == sbd.url.rpartition("/")[2] == "benchmark.tgz"
    assert len(sbd.md5) == 32


def test_fetched_and_unpacked_once(server, root, capsys) -> None:
    archive = archive_of(server)
    assert get_archive(archive, root) == root / VOC2012
    assert held(root) == WHOLE
    out = capsys.readouterr().out
    assert "VOC needs 204.8 kB in " in out
    assert ": 102.4 kB to download, 102.4 kB to unpack" in out
    assert "voc.tar is not needed any more" in out
    asked = server.asked
    assert get_archive(archive, root) == root / VOC2012
    assert "there already, and complete" in capsys.readouterr().out
    (root / "voc.tar").unlink()
    get_archive(archive, root)
    assert server.asked == asked


def test_gzip_as_sbd_has_it(server, root) -> None:
    content = tar_of(FILES, "w:gz")
    server.answer = give(content)
    get_archive(archive_of(server, content, "voc.tgz"), root)
    assert held(root) == FILES | {"voc.tgz": content}


FAILURES: dict[str, tuple[Answer, str]] = {
    "other": (give(b"other"), r"gave 5 bytes of MD5 [0-9a-f]{32}, expected [0-9a-f]{32}; not kept"),
    "cut": (give(GOOD[:50_000], len(GOOD)), r"gave 50,000 bytes of MD5|IncompleteRead"),
    "empty": (give(b""), r"gave 0 bytes of MD5"),
    "404": (lambda request: request.send_error(404), r"HTTPError: HTTP Error 404: Not Found"),
    "503": (lambda request: request.send_error(503), r"HTTPError: HTTP Error 503"),
    "hang up": (hang_up, r"could not be fetched \(RemoteDisconnected"),
    "hang": (hang, r"could not be fetched \(TimeoutError: timed out\)"),
    "circles": (turn_in_circles, r"could not be fetched"),
}


@pytest.mark.parametrize(("answer", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_download_leaves_nothing_and_the_next_may_succeed(
    server, root, monkeypatch, answer: Answer, message: str
) -> None:
    monkeypatch.setattr(get, "TIMEOUT", 0.3)
    archive = archive_of(server)
    server.answer = answer
    with pytest.raises(UserError, match=message) as caught:
        get_archive(archive, root)
    assert str(caught.value).startswith(archive.url)
    assert f"download {archive.url} by hand to {root / 'voc.tar'}" in str(caught.value)
    assert held(root) == {}
    assert socket.getdefaulttimeout() is None
    server.answer = give(GOOD)
    get_archive(archive, root)
    assert held(root) == WHOLE


def test_a_refused_connection_is_told_in_words(server, root) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/voc.tar"
        with pytest.raises(UserError, match=r"Connection refused.*Check the network"):
            get_archive(replace(archive_of(server), url=url), root)
    assert held(root) == {}


def test_an_interrupted_download_leaves_nothing_and_begins_anew(server, root, monkeypatch) -> None:
    def interrupted(url: str, folder: Path, name: str, md5: str) -> None:
        (folder / name).write_bytes(GOOD[:500])
        raise KeyboardInterrupt

    archive = archive_of(server)
    with monkeypatch.context() as patch:
        patch.setattr(get, "download_url", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get_archive(archive, root)
    assert held(root) == {}
    get_archive(archive, root)
    assert held(root) == WHOLE


def test_what_a_killed_run_left_is_cleared(server, root) -> None:
    (root / ".voc.tar.abcd").mkdir(parents=True)
    (root / ".voc.tar.abcd" / "file").write_bytes(b"half")
    (root / ".voc.tar.efgh.part").write_bytes(GOOD[:500])
    get_archive(archive_of(server), root)
    assert held(root) == WHOLE


def test_an_archive_that_is_there_is_not_fetched_again(server, root, capsys) -> None:
    root.mkdir(parents=True)
    (root / "voc.tar").write_bytes(GOOD)
    get_archive(archive_of(server), root)
    assert held(root) == WHOLE
    assert server.asked == 0
    assert "VOC needs 102.4 kB in" in capsys.readouterr().out


def test_a_damaged_archive_that_is_there_is_fetched_again(server, root, capsys) -> None:
    root.mkdir(parents=True)
    (root / "voc.tar").write_bytes(GOOD[:-5000])
    get_archive(archive_of(server), root)
    assert held(root) == WHOLE
    assert "voc.tar: damaged (its MD5 is" in capsys.readouterr().out


def test_a_half_unpacked_tree_is_completed_and_what_else_is_in_it_stays(
    server, root, capsys
) -> None:
    images = root / VOC2012 / "JPEGImages"
    images.mkdir(parents=True)
    (images / "0.jpg").write_bytes(b"half")
    (root / VOC2012 / "own.txt").write_text("mine")
    get_archive(archive_of(server), root)
    assert held(root) == WHOLE | {f"{VOC2012}/own.txt": b"mine"}
    out = capsys.readouterr().out
    assert "incomplete (1 of 3 JPEGImages/*.jpg, 0 of 2 SegmentationClass/*.png)" in out


def test_unpacking_that_is_interrupted_leaves_no_tree(server, root, monkeypatch) -> None:
    def interrupted(file: Path, folder: str) -> None:
        (Path(folder) / "VOCdevkit").mkdir()
        raise KeyboardInterrupt

    archive = archive_of(server)
    with monkeypatch.context() as patch:
        patch.setattr(get, "extract_archive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get_archive(archive, root)
    assert held(root) == {"voc.tar": GOOD}
    assert [p.name for p in root.iterdir()] == ["voc.tar"]
    asked = server.asked
    get_archive(archive, root)
    assert held(root) == WHOLE
    assert server.asked == asked


@pytest.mark.parametrize("name", ["../../evil.txt", "/tmp/segcoord-evil.txt", "link"])
def test_an_archive_that_writes_elsewhere_is_refused(server, root, name: str) -> None:
    buffer = io.BytesIO(GOOD)
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "../../.."
        tar.addfile(member)
    content = buffer.getvalue()
    server.answer = give(content)
    if name.startswith("/"):  # taken as below the folder: the safe reading of it
        get_archive(archive_of(server, content), root)
        assert not Path(name).exists()
        return
    with pytest.raises(UserError, match=r"could not be unpacked \(\w*OutsideDestinationError: .*"):
        get_archive(archive_of(server, content), root)
    assert held(root.parent.parent) == {"data/voc/voc.tar": content}


@pytest.mark.parametrize("content", [b"no archive" * 99, GOOD[:45_000]], ids=["other", "cut"])
def test_an_archive_that_is_none_is_told(server, root, content: bytes) -> None:
    server.answer = give(content)
    with pytest.raises(UserError, match=r"voc\.tar: could not be unpacked \(ReadError: "):
        get_archive(archive_of(server, content), root)
    assert held(root) == {"voc.tar": content}


def test_an_archive_of_another_tree_is_told(server, root) -> None:
    content = tar_of({f"{VOC2012}/JPEGImages/0.jpg": b"0"})
    server.answer = give(content)
    with pytest.raises(UserError, match=r"VOC2012 has 1 of 3 JPEGImages/\*\.jpg, 0 of 2 Segm"):
        get_archive(archive_of(server, content), root)
    assert held(root) == {"voc.tar": content}


def test_a_full_disk_is_told_before_anything_is_asked(server, root, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 1000))
    with pytest.raises(
        UserError, match=r"found 1\.0 kB of free disk space, expected 204\.8 kB for VOC"
    ):
        get_archive(archive_of(server), root)
    assert server.asked == 0
    assert not root.exists()


def test_a_disk_that_fills_up_is_told(server, root, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    archive = archive_of(server)
    with monkeypatch.context() as patch:
        patch.setattr(get, "download_url", full)
        with pytest.raises(UserError, match=r"No space left on device.*the free space"):
            get_archive(archive, root)
    monkeypatch.setattr(get, "extract_archive", full)
    with pytest.raises(UserError, match=r"could not be unpacked \(OSError: .*No space left"):
        get_archive(archive, root)
    assert held(root) == {"voc.tar": GOOD}


def test_an_old_python_that_cant_unpack_safely_doesnt(server, root, monkeypatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(
        UserError, match=r"expected 3\.10\.12, 3\.11\.4 or newer.*tar -xf .*voc\.tar"
    ):
        get_archive(archive_of(server), root)
    assert held(root) == {"voc.tar": GOOD}


def test_the_command(server, root, monkeypatch, capsys) -> None:
    monkeypatch.setitem(ARCHIVES, "voc", archive_of(server))
    monkeypatch.chdir(root.parents[1])
    assert main(["data", "get", "voc"]) == 0
    assert held(root) == WHOLE  # in data/voc
    assert main(["data", "get", "voc", "--root", "elsewhere"]) == 0
    assert held(Path("elsewhere")) == WHOLE
    assert main(["data", "get", "imagenet"]) == 1
    assert "found 'imagenet', expected voc, sbd or cityscapes" in capsys.readouterr().err


def test_cityscapes_is_its_owners_to_give(capsys) -> None:
    assert main(["data", "get", "cityscapes", "--root", "my data"]) == 1
    told = capsys.readouterr().err
    assert "account" in told
    assert (
        "\n  csDownload -d 'my data' gtFine_trainvaltest.zip leftImg8bit_trainvaltest.zip\n" in told
    )
    assert "\n  unzip -n -d 'my data' 'my data'/gtFine_trainvaltest.zip\n" in told
