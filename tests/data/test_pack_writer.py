"""Writing packs: a pack appears complete or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from helpers import (
    CLASSES,
    ROOT,
    images_of,
    pack_config,
    packed,
    refusal,
    same_pixels,
)
from PIL import Image

from segcoord.cli.data.pack import pack
from segcoord.cli.main import main, run
from segcoord.config.schema import ClassConfig
from segcoord.data import labels
from segcoord.data.labels import LabelSet
from segcoord.data.layouts import find_split
from segcoord.data.pack import writer
from segcoord.data.pack.reader import INDEX, partial_folder, pixel_source, verify, with_pack
from segcoord.data.pack.writer import write_pack
from segcoord.data.split import Split
from segcoord.utils.errors import UserError


@pytest.fixture
def split(root: Path) -> Split:
    return find_split(pack_config(root), "train")


@pytest.fixture
def folder(root: Path) -> Path:
    """Of the pack of `split`, which isn't there yet."""
    return root / ".segcoord" / "train"


def assert_complete(folder: Path, split: Split, root: Path) -> None:
    """The pack is right, and nothing is left beside it."""
    found = with_pack(split, pack_config(root))
    assert same_pixels(found, split)
    verify(found.pack, split)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


# -- interrupted packing

SLOW = """
def pack(program, argv):
    classes = [ClassConfig(str(n), [n, n, n]) for n in range(8)]
    split = find_split(DataConfig("voc", str(root), classes=classes), "train")
    write_pack(split, root / ".segcoord" / "train", 2, report)
    return 0

def report(done):
    print(done, flush=True)
    time.sleep(pause)

if __name__ == "__main__":  # the workers don't import all of this
    import sys, time
    from pathlib import Path
    from segcoord.cli.main import run
    from segcoord.config.schema import ClassConfig, DataConfig
    from segcoord.data.layouts import find_split
    from segcoord.data.pack.writer import write_pack

    root, pause = Path(sys.argv[1]), float(sys.argv[2])
    sys.exit(run(pack, "segcoord data pack", []))
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_killed_packing_leaves_no_pack_and_no_processes_and_the_next_starts_over(
    root: Path, split: Split, folder: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, str(script), str(root), "0.2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    while process.stdout.readline() != "4\n":
        assert process.poll() is None, process.stderr.read()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) >= 2
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    part = partial_folder(folder)
    assert not folder.exists()
    assert part.exists() == (sent == signal.SIGKILL)
    files = with_pack(split, pack_config(root))
    assert files.pack is None
    assert pixel_source(files, pack_config(root)).startswith("files")
    assert (f"{part} is incomplete" in pixel_source(files, pack_config(root))) == part.exists()
    done: list[int] = []
    write_pack(split, folder, 1, done.append)
    assert done == list(range(len(split) + 1))
    assert_complete(folder, split, root)


def test_leftovers_of_an_older_version_are_removed(root: Path, split: Split, folder: Path) -> None:
    part = partial_folder(folder)
    part.mkdir(parents=True)
    for name in ("images.u8", "masks.u8", "index.jsonl", "index.new", "lock"):
        (part / name).write_bytes(b"old" * 10**6)
    write_pack(split, folder, 1)
    assert_complete(folder, split, root)


def test_two_processes_cannot_write_one_pack(root: Path, split: Split, folder: Path) -> None:
    def write_again(done: int) -> None:
        with pytest.raises(UserError, match="another process is writing this pack"):
            write_pack(split, folder, 1)

    write_pack(split, folder, 1, write_again)
    assert_complete(folder, split, root)


def test_a_bad_image_is_named_and_nothing_is_left(split: Split, folder: Path) -> None:
    image = split.samples[3].image
    for content in (image.read_bytes()[:-2000], b""):  # found while decoding; in the header
        image.write_bytes(content)
        with pytest.raises(UserError, match=str(image)) as caught:
            write_pack(split, folder, 1)
        assert "segcoord data check lists all such files" in str(caught.value)
        assert not any(folder.parent.iterdir())


def test_errors_of_the_check_are_not_packed(split: Split, folder: Path) -> None:
    """Damage that libjpeg covers with a guess; a palette whose colors are numbered differently."""
    image, mask = split.samples[3].image, split.samples[5].mask
    raw = image.read_bytes()
    half = len(raw) // 2
    image.write_bytes(raw[:half] + b"\xff\xd3" + raw[half + 2 :])
    with pytest.raises(UserError, match=rf"{image}: truncated or damaged .*Corrupt JPEG data"):
        write_pack(split, folder, 2)
    assert not any(folder.parent.iterdir())
    image.write_bytes(raw)
    renumber_palette(mask)
    classes = [ClassConfig(c.name, c.color, n) for n, c in enumerate(CLASSES)]
    with_ids = find_split(pack_config(mask.parents[3], classes=classes), "train")
    with pytest.raises(UserError, match=rf"{mask}: its palette has the class colors"):
        write_pack(with_ids, folder, 1)


def renumber_palette(mask: Path) -> np.ndarray:
    """Number the class colors from the last, as image editors may; returns the class indices."""
    indices = np.minimum(np.array(Image.open(mask)), 7)
    own = Image.fromarray(7 - indices)
    own.putpalette([n for c in reversed(CLASSES) for n in c.color])
    own.save(mask)
    return indices


def test_a_pack_of_masks_read_by_color_depends_on_the_colors(root: Path) -> None:
    split = find_split(pack_config(root), "train")
    indices = renumber_palette(split.samples[5].mask)
    write_pack(split, root / ".segcoord" / "train", 1)
    found = with_pack(split, pack_config(root))
    np.testing.assert_array_equal(found.read(5)[1], indices)
    swapped = [ClassConfig(c.name, CLASSES[n ^ 1].color) for n, c in enumerate(CLASSES)]
    assert "were read with other classes" in refusal(root, classes=swapped)
    with_ids = [ClassConfig(c.name, c.color, id=n) for n, c in enumerate(CLASSES)]
    assert "were read with other classes" in refusal(root, classes=with_ids)


def test_new_reading_rules_make_packs_of_ambiguous_masks_stale(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = find_split(pack_config(root), "train")
    renumber_palette(split.samples[5].mask)
    write_pack(split, root / ".segcoord" / "train", 1)
    plain = LabelSet(split.labels.classes).checksums
    monkeypatch.setattr(labels, "READING_RULES", labels.READING_RULES + 1)
    assert "by rules of another version" in refusal(root)
    # Not where ids decide, as in layouts voc and cityscapes.
    assert LabelSet(split.labels.classes).checksums == plain


@pytest.mark.parametrize("kind", ["gray", "palette", "rgb"])
def test_a_pack_of_masks_read_by_value_is_stale_once_colors_decide(root: Path, kind: str) -> None:
    colors_only = pack_config(root)
    masks = [sample.mask for sample in find_split(colors_only, "train").samples]
    for path in masks:
        Image.fromarray(np.minimum(np.array(Image.open(path)), 7)).save(path)
    two = np.full((96, 128), 2, np.uint8)
    mask = Image.fromarray(np.dstack([two] * 3) if kind == "rgb" else two)
    if kind == "palette":
        mask.putpalette([n for c in reversed(CLASSES) for n in c.color])
    mask.save(masks[5])
    classes = [
        ClassConfig(c.name, None if kind == "rgb" else c.color, None if kind == "rgb" else n)
        for n, c in enumerate(CLASSES)
    ]
    data = pack_config(root, classes=classes)
    write_pack(find_split(data, "train"), root / ".segcoord" / "train", 1)
    assert (with_pack(find_split(data, "train"), data).read(5)[1] == 2).all()
    if kind == "gray":
        assert with_pack(find_split(colors_only, "train"), colors_only).pack is not None
    else:
        assert "were read with other classes" in refusal(root)


# -- full disks, permissions, foreign files


def set_free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, free))


def test_a_disk_that_is_too_small_is_refused_before_writing(
    split: Split, folder: Path, monkeypatch
) -> None:
    """The space asked for is enough: pixels, and the most that the index may take."""
    needed = 4 * 12288 * 16 + writer.INDEX_LINE * 16 + writer.RESERVE
    set_free_space(monkeypatch, needed - 1)
    with pytest.raises(
        UserError, match=r"found 1.9 MB of free disk space, expected 1.9 MB for the pack"
    ) as caught:
        write_pack(split, folder, 1)
    assert "--out DIR" in str(caught.value)
    assert "Nothing was written" in str(caught.value)
    assert "Removing" not in str(caught.value)
    assert not any(folder.parent.iterdir())
    set_free_space(monkeypatch, needed)
    write_pack(split, folder, 1)
    assert (folder / INDEX).stat().st_size < writer.INDEX_LINE * 16


def test_a_full_disk_suggests_to_remove_the_pack_to_replace(root: Path, monkeypatch) -> None:
    split, folder = packed(root)
    set_free_space(monkeypatch, 10**6)
    with pytest.raises(UserError, match=f"Removing {folder}, which it replaces, helps"):
        write_pack(split, folder, 1)
    assert_complete(folder, split, root)


def test_a_disk_that_fills_up_leaves_nothing(
    root: Path, split: Split, folder: Path, monkeypatch
) -> None:
    put = writer._put

    def full(array, path, offset) -> int:
        if offset > 3 * 12288 * 5:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return put(array, path, offset)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_put", full)
        with pytest.raises(UserError, match=r"No space left on device.*nothing was kept"):
            write_pack(split, folder, 1)
    assert not any(folder.parent.iterdir())
    write_pack(split, folder, 1)
    assert_complete(folder, split, root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_tmpfs(root: Path, split: Split, tmp_path: Path, monkeypatch) -> None:
    """600 kB hold half of the split."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        folder = disk / "train"
        with pytest.raises(UserError, match=r"free disk space.* Nothing was written"):
            write_pack(split, folder, 1)
        with monkeypatch.context() as patch:
            patch.setattr(writer, "_require_space", lambda *_: None)
            with pytest.raises(UserError, match="No space left on device"):
                write_pack(split, folder, 1)
        assert not any(disk.iterdir())
        assert "contains no pack" in refusal(root, pack=str(disk))
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        write_pack(split, folder, 1)
        assert same_pixels(with_pack(split, pack_config(root, pack=str(disk))), split)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_only_packs_are_replaced(split: Split, root: Path) -> None:
    images = images_of(root)
    with pytest.raises(UserError, match="is not a pack, it contains"):
        write_pack(split, images, 1)
    with pytest.raises(UserError, match="is not a pack"):
        write_pack(split, split.samples[0].image, 1)
    assert len(list(images.iterdir())) == 22


def test_a_killed_worker_is_an_error(root: Path, split: Split, folder: Path) -> None:
    def kill_children() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        for child in children:
            child.kill()

    def kill(done: int) -> None:
        if done == 0:  # the processes start now, and import for a second
            threading.Thread(target=kill_children).start()

    with pytest.raises(UserError, match="a decoding process was killed"):
        write_pack(split, folder, 2, kill)
    write_pack(split, folder, 1)
    assert_complete(folder, split, root)


# -- the command


def test_the_command_refuses_at_once(root: Path, tmp_path: Path, capsys) -> None:
    arguments = [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={root}"]
    command = ["data", "pack", *arguments]
    for options in ([], [f"--out={tmp_path / 'none'}"]):
        assert main([*command, "--verify", *options]) == 1
        assert "train: no pack to verify" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([*command, f"--out={tmp_path / 'file'}"]) == 1
    assert f"{tmp_path / 'file'}: is a file, expected a folder" in capsys.readouterr().err
    other = tmp_path / "other"
    (other / "val").mkdir(parents=True)
    (other / "val" / "notes.txt").write_text("")
    assert main([*command, f"--out={other}"]) == 1
    assert "val: is not a pack, it contains 'notes.txt'" in capsys.readouterr().err
    assert [p.name for p in other.iterdir()] == ["val"]
    options = ["--workers=0", "--data.root=x", "--data.layout=voc"]
    assert run(pack, "segcoord data pack", options) == 1
    assert "--workers: found 0" in capsys.readouterr().err


def test_progress_lines_show_the_time_left_without_a_terminal(root: Path, monkeypatch, capsys):
    monkeypatch.setattr("segcoord.utils.console.PLAIN_INTERVAL", -1)
    arguments = [f"--config={ROOT / 'configs' / 'sample.yaml'}", f"--data.root={root}"]
    assert main(["data", "pack", *arguments, "--split=train", "--workers=1"]) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("pack train: ")]
    assert len(lines) == 16
    assert lines[3].startswith("pack train: 4/16  left 0:00:")


def test_packing_imports_no_torch() -> None:
    """Importing it takes seconds."""
    code = "import segcoord.cli.main, segcoord.data.pack.writer, sys; exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
