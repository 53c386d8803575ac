"""A pack appears complete or not at all, and goes on behind what is done."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    CLASSES,
    ROOT,
    flip_byte,
    images_of,
    pack_config,
    packed,
    refusal,
    same_pixels,
    shorten,
)
from PIL import Image

from segcoord.cli.data.pack import pack
from segcoord.cli.main import main, run
from segcoord.data.layouts import find_split
from segcoord.data.pack import writer as packing
from segcoord.data.pack.reader import IMAGES, INDEX, MASKS, pixel_source, verify, with_pack
from segcoord.data.pack.writer import write_pack
from segcoord.utils.errors import UserError

# -- a packer that doesn't get to the end


class Stop(Exception):
    pass


def stop_at(count: int):
    def progress(done: int) -> None:
        if done == count:
            raise Stop

    return progress


def test_it_goes_on_behind_what_is_done(root: Path, monkeypatch) -> None:
    split, folder = find_split(pack_config(root), "train"), root / ".segcoord" / "train"
    with pytest.raises(Stop):
        write_pack(split, folder, 1, stop_at(7))
    assert not folder.exists()
    files = with_pack(split, pack_config(root))
    assert files.pack is None
    assert ".train.part is unfinished" in pixel_source(files, pack_config(root))
    decoded = []
    decode = packing._decode
    monkeypatch.setattr(packing, "_decode", lambda job: decoded.append(job) or decode(job))
    told = []
    write_pack(split, folder, 1, told.append)
    assert [job.sample for job in decoded] == split.samples[7:]
    assert told[0] == 7
    found = with_pack(split, pack_config(root))
    assert same_pixels(found, split)
    verify(found.pack, split)
    assert [p.name for p in folder.parent.iterdir()] == ["train"]


def test_what_changed_meanwhile_is_done_again(root: Path) -> None:
    split, folder = find_split(pack_config(root), "train"), root / ".segcoord" / "train"
    with pytest.raises(Stop):
        write_pack(split, folder, 1, stop_at(7))
    shutil.copyfile(split.samples[9].image, split.samples[4].image)
    index = folder.parent / ".train.part" / INDEX
    index.write_text(index.read_text() + '{"stem": "torn')
    told = []
    write_pack(split, folder, 1, told.append)
    assert told[0] == 4
    found = with_pack(split, pack_config(root))
    assert same_pixels(found, split)
    verify(found.pack, split)
    with pytest.raises(Stop):
        write_pack(split, folder, 1, stop_at(7))
    (folder.parent / ".train.part" / MASKS).unlink()
    told.clear()
    write_pack(split, folder, 1, told.append)
    assert told[0] == 0
    assert same_pixels(with_pack(split, pack_config(root)), split)


@pytest.mark.parametrize("name", [IMAGES, MASKS])
def test_pixels_that_are_gone_are_done_again(root: Path, name: str) -> None:
    """A journal tells what was written, and only its checksums whether it still is there."""
    split, folder = find_split(pack_config(root), "train"), root / ".segcoord" / "train"

    def go_on_after(damage) -> int:
        with pytest.raises(Stop):
            write_pack(split, folder, 1, stop_at(7))
        damage(folder.parent / ".train.part" / name)
        told = []
        write_pack(split, folder, 1, told.append)
        found = with_pack(split, pack_config(root))
        assert same_pixels(found, split)
        verify(found.pack, split)
        shutil.rmtree(folder)
        return told[0]

    def emptied(path: Path) -> None:
        length = path.stat().st_size
        os.truncate(path, 0)
        os.truncate(path, length)

    size = 12288 * (3 if name == IMAGES else 1)
    assert go_on_after(lambda path: None) == 7
    assert go_on_after(lambda path: os.truncate(path, 0)) == 0
    assert go_on_after(lambda path: shorten(path)) == 0
    assert go_on_after(emptied) == 0
    assert go_on_after(lambda path: flip_byte(path, 5 * size + 100)) == 5


SLOW = """
import sys, time
from pathlib import Path
from segcoord.cli import run
from segcoord.config import ClassConfig, DataConfig
from segcoord.data import packing
from segcoord.data.check import inspect_split
from segcoord.data.layouts import find_split

packing.SYNC_INTERVAL = 0
root, workers, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])

def told(done):
    print(done, flush=True)
    time.sleep(pause)

def pack(program, argv):
    classes = [ClassConfig(str(n), [n, n, n]) for n in range(8)]
    split = find_split(DataConfig("voc", str(root), classes=classes), "train")
    packing.write_pack(split, root / ".segcoord" / "train", workers, told)
    return 0

if __name__ == "__main__":
    sys.exit(run(pack, "segcoord data pack", []))
"""


def start_packer(root: Path, script: Path, workers: int, pause: float) -> subprocess.Popen:
    """A packer in a process of its own, that has done four samples."""
    script.write_text(SLOW)
    command = [sys.executable, str(script), str(root), str(workers), str(pause)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, cwd=ROOT)
    while process.stdout.readline() != "4\n":
        assert process.poll() is None, process.stderr.read()
    return process


@pytest.mark.parametrize(("how", "workers"), [(signal.SIGKILL, 1), (signal.SIGINT, 2)])
def test_a_killed_packer(root: Path, tmp_path: Path, how: signal.Signals, workers: int) -> None:
    process = start_packer(root, tmp_path / "slow.py", workers, pause=0.1)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    folder = root / ".segcoord" / "train"
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[how]
    assert "Traceback" not in errors
    assert not folder.exists()
    split = find_split(pack_config(root), "train")
    assert with_pack(split, pack_config(root)).pack is None
    told = []
    write_pack(split, folder, 1, told.append)
    assert told[0] >= 4
    found = with_pack(split, pack_config(root))
    assert same_pixels(found, split)
    verify(found.pack, split)


def test_workers_end_with_a_killed_packer(root: Path, tmp_path: Path) -> None:
    process = start_packer(root, tmp_path / "slow.py", workers=2, pause=1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_at_a_time(root: Path) -> None:
    split, folder = find_split(pack_config(root), "train"), root / ".segcoord" / "train"

    def again(done: int) -> None:
        with pytest.raises(UserError, match="another process is writing this pack"):
            write_pack(split, folder, 1)

    write_pack(split, folder, 1, again)
    assert same_pixels(with_pack(split, pack_config(root)), split)


def test_a_bad_image_stops_it_by_name(root: Path) -> None:
    split, folder = find_split(pack_config(root), "train"), root / ".segcoord" / "train"
    image = split.samples[3].image
    image.write_bytes(image.read_bytes()[:-2000])
    with pytest.raises(UserError, match=str(image)) as caught:
        write_pack(split, folder, 1)
    assert "segcoord data check names all such files" in str(caught.value)
    image.write_bytes(b"")
    with pytest.raises(UserError, match=str(image)) as caught:
        write_pack(split, folder, 1)
    assert "segcoord data check names all such files" in str(caught.value)
    assert not folder.exists()


def test_what_the_check_calls_an_error_is_not_packed(root: Path) -> None:
    """Damage that libjpeg covers with a guess; colours that a program numbered as it likes."""
    split, folder = find_split(pack_config(root), "train"), root / ".segcoord" / "train"
    image, mask = split.samples[3].image, split.samples[5].mask
    raw = image.read_bytes()
    half = len(raw) // 2
    image.write_bytes(raw[:half] + b"\xff\xd3" + raw[half + 2 :])
    with pytest.raises(UserError, match=rf"{image}: truncated or damaged .*Corrupt JPEG data"):
        write_pack(split, folder, 2)
    image.write_bytes(raw)
    picture = Image.open(mask)
    own = Image.fromarray(7 - np.minimum(np.array(picture), 7))
    own.putpalette([n for value in range(7, -1, -1) for n in [value] * 3])
    own.save(mask)
    with pytest.raises(UserError, match=rf"{mask}: its palette's colours are the classes'"):
        write_pack(split, folder, 1)


# -- no room, no permission, not ours


def test_a_disk_that_is_too_small_is_told_before(root: Path, monkeypatch) -> None:
    split, folder = find_split(pack_config(root), "train"), root / ".segcoord" / "train"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(UserError, match=r"needs 0.002 GB more, 0.001 GB are free there") as caught:
        write_pack(split, folder, 1)
    assert "--out" in str(caught.value)
    assert "Removing" not in str(caught.value)
    assert not any(folder.parent.iterdir())


def test_a_stale_pack_in_the_way_is_told(root: Path, monkeypatch) -> None:
    """It stays until the new one is complete, and takes its room until then."""
    split, folder = packed(root)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(UserError, match=f"Removing {folder}, which it replaces, would help"):
        write_pack(split, folder, 1)
    assert same_pixels(with_pack(split, pack_config(root)), split)
    assert [p.name for p in folder.parent.iterdir()] == ["train"]


def test_the_index_has_its_room(root: Path, monkeypatch) -> None:
    """As much as is asked for is needed: pixels, and at most so much for the index."""
    split, folder = find_split(pack_config(root), "train"), root / ".segcoord" / "train"
    needed = 4 * 12288 * 16 + packing.INDEX_LINE * 16 + packing.RESERVE
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed - 1))
    with pytest.raises(UserError, match="nothing was written"):
        write_pack(split, folder, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed))
    write_pack(split, folder, 1)
    assert (folder / INDEX).stat().st_size < packing.INDEX_LINE * 16


def test_what_the_command_refuses_at_once(root: Path, tmp_path: Path, capsys) -> None:
    arguments = [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={root}"]
    pack = ["data", "pack", *arguments]
    for options in ([], [f"--out={tmp_path / 'none'}"]):
        assert main([*pack, "--verify", *options]) == 1
        assert "train: no pack to verify" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([*pack, f"--out={tmp_path / 'file'}"]) == 1
    assert f"{tmp_path / 'file'}: is a file, expected a folder" in capsys.readouterr().err
    other = tmp_path / "other"
    (other / "val").mkdir(parents=True)
    (other / "val" / "notes.txt").write_text("")
    assert main([*pack, f"--out={other}"]) == 1
    assert "val: is no pack, it holds 'notes.txt'; nothing was written" in capsys.readouterr().err
    assert [p.name for p in other.iterdir()] == ["val"]


def test_two_configurations_are_told_how_to_have_a_pack_each(root: Path, tmp_path: Path) -> None:
    packed(root)
    others = {"classes": CLASSES[:7], "void_ids": [7]}
    assert "segcoord data pack --out DIR" in (told := refusal(root, **others))
    assert "--data.pack DIR" in told


def test_lines_with_the_time_left_where_there_is_no_terminal(root: Path, monkeypatch, capsys):
    monkeypatch.setattr("segcoord.utils.console.PLAIN_INTERVAL", -1)
    arguments = [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={root}"]
    assert main(["data", "pack", *arguments, "--split=train", "--workers=1"]) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("pack train: ")]
    assert len(lines) == 16
    assert lines[3].startswith("pack train: 4/16  left 0:00:")


def test_the_commands_for_data_import_no_torch() -> None:
    """Which takes seconds, to say that a pack is up to date."""
    code = "import sys, segcoord.data_commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_disk_that_fills_up_meanwhile(root: Path, monkeypatch) -> None:
    split, folder = find_split(pack_config(root), "train"), root / ".segcoord" / "train"
    put = packing._put

    def full(array, path, offset) -> int:
        if offset > 3 * 12288 * 5:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return put(array, path, offset)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "_put", full)
        with pytest.raises(UserError, match="No space left on device") as caught:
            write_pack(split, folder, 1)
    assert "goes on behind what is done" in str(caught.value)
    told = []
    write_pack(split, folder, 1, told.append)
    assert told[0] == 6
    assert same_pixels(with_pack(split, pack_config(root)), split)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_small_tmpfs(root: Path, tmp_path: Path, monkeypatch) -> None:
    """600 kB hold half of the split; the first look is told that there is more."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        split, folder = find_split(pack_config(root), "train"), disk / "train"
        with pytest.raises(UserError, match="GB are free there; nothing was written"):
            write_pack(split, folder, 1)
        with monkeypatch.context() as patch:
            patch.setattr(packing, "_require_space", lambda *_: None)
            with pytest.raises(UserError, match="No space left on device"):
                write_pack(split, folder, 1)
        assert not folder.exists()
        data = pack_config(root, pack=str(disk))
        assert "there is no pack in it" in refusal(root, pack=str(disk))
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        told = []
        write_pack(split, folder, 1, told.append)
        assert told[0] > 0
        assert same_pixels(with_pack(split, data), split)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_place_that_cant_be_written(root: Path, tmp_path: Path) -> None:
    split = find_split(pack_config(root), "train")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: is a file, expected a folder .*--out"):
        write_pack(split, tmp_path / "file" / "train", 1)


def test_it_never_replaces_anything_but_a_pack(root: Path, capsys) -> None:
    split = find_split(pack_config(root), "train")
    images = images_of(root)
    with pytest.raises(UserError, match="is no pack, it holds"):
        write_pack(split, images, 1)
    with pytest.raises(UserError, match="is no pack"):
        write_pack(split, split.samples[0].image, 1)
    assert len(list(images.iterdir())) == 22
    options = ["--workers=0", "--data.root=x", "--data.layout=voc"]
    assert run(pack, "segcoord data pack", options) == 1
    assert "--workers: found 0" in capsys.readouterr().err


def test_a_worker_that_is_killed(root: Path, monkeypatch) -> None:
    split, folder = find_split(pack_config(root), "train"), root / ".segcoord" / "train"

    def kill(done: int) -> None:
        if done == 1:
            for child in multiprocessing.active_children():
                child.kill()

    with pytest.raises(UserError, match="a process that decodes was killed"):
        write_pack(split, folder, 2, kill)
    write_pack(split, folder, 1)
    assert same_pixels(with_pack(split, pack_config(root)), split)
