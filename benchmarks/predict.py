"""segcoord predict on many images, some of them broken, and its peak memory by image size.

    python benchmarks/predict.py [--images N] [--broken N] [--checkpoint FILE] [--memory]

Writes images of several sizes and formats with broken ones among them, runs the command on the
folder, and prints the masks, the errors, the exit code, images per second, and the process's memory
during the run. With --memory, runs the command on single images of increasing size, each predicted
as a whole, and prints the peak memory. Without --checkpoint, the model is mobilenetv2_ca_100 at
stride 16 with random weights and 19 classes.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

import segcoord

SIZES = [(240, 320), (320, 240), (200, 300), (256, 256)]  # (H, W)
LARGE = [(64, 64), (1024, 1024), (1024, 2048), (2048, 2048), (2048, 3072)]
COMMAND = "import sys; from segcoord.cli.main import main; sys.exit(main())"


def picture(height: int, width: int, seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).uniform(0, 255, (6, 8, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return Image.fromarray(smooth.clip(0, 255).astype(np.uint8))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone.jpg"))


def _damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)


def _write(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


BREAKS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "truncated JPEG": (".jpg", lambda p: os.truncate(p, p.stat().st_size // 2)),
    "truncated PNG": (".png", lambda p: os.truncate(p, p.stat().st_size * 2 // 3)),
    "empty": (".jpg", lambda p: os.truncate(p, 0)),
    "zeros": (".png", _write(bytes(5000))),
    "text": (".jpg", _write(b"not an image\n" * 50)),
    "web page": (".jpg", _write(b"<!DOCTYPE html><html><body>404</body></html>")),
    "damaged PNG": (".png", _damage),
    "HEIC": (".heic", _write(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))),
    "folder": (".png", _folder),
    "link": (".jpg", _link),
}


def write_images(folder: Path, images: int, broken: int) -> dict[str, str]:
    """Write 0000.jpg and so on; returns the names of the broken images with the kind of damage."""
    positions = np.linspace(0, images - 1, broken, dtype=int).tolist()
    damaged = {}
    for i in range(images):
        name = f"{i // 100:02d}/{i:04d}"
        (folder / name).parent.mkdir(exist_ok=True)
        kind = list(BREAKS)[positions.index(i) % len(BREAKS)] if i in positions else None
        suffix, damage = BREAKS[kind] if kind else ((".jpg", ".png", ".JPG")[i % 3], None)
        path = folder / f"{name}{suffix}"
        picture(*SIZES[i % len(SIZES)], i).save(path, "PNG" if suffix == ".png" else "JPEG")
        if damage:
            damage(path)
            damaged[f"{name}{suffix}"] = kind
    return damaged


def run_command(checkpoint: Path, inputs: Path, out: Path, *options: str) -> subprocess.Popen:
    command = ["predict", "--checkpoint", str(checkpoint), str(inputs), "--out", str(out), *options]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *command], stdout=subprocess.PIPE, text=True
    )


def resident(process: subprocess.Popen) -> float:
    """Resident memory of a process in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(match[1]) / 1000 if match else 0.0


def run_many(checkpoint: Path, folder: Path, images: int, broken: int) -> None:
    kinds = write_images(folder / "in", images, broken)
    start = time.perf_counter()
    process = run_command(checkpoint, folder / "in", folder / "out")
    memory, masks = [], folder / "out" / "masks"
    while process.poll() is None:
        time.sleep(0.2)
        done = len(list(masks.rglob("*.png"))) if masks.is_dir() else 0
        if done and process.poll() is None:
            memory.append((done, resident(process)))
    output = process.stdout.read()
    seconds = time.perf_counter() - start
    print(output)
    done = len([p for p in masks.rglob("*.png") if not p.name.startswith(".")])
    listed = output.partition("could not be predicted:")[2]
    print(f"masks           {done} of {images}")
    print(f"areas.csv rows  {len((folder / 'out' / 'areas.csv').read_text().splitlines()) - 1}")
    named = sum(f"{name}: " in listed for name in kinds)
    print(f"errors listed   {named} of {len(kinds)}")
    print(f"exit code       {process.returncode}")
    print(f"images/s        {done / seconds:.1f}, including startup")
    for target in (images // 10, images // 2, images - broken):
        after, rss = min(memory, key=lambda pair: abs(pair[0] - target))
        print(f"memory          {rss:.0f} MB after {after} images")
    assert (done, named, process.returncode) == (images - len(kinds), len(kinds), 3)


def run_large(checkpoint: Path, folder: Path) -> None:
    base = None
    for height, width in LARGE:
        path = folder / f"{height}x{width}.jpg"
        picture(height, width, 0).save(path)
        start = time.perf_counter()
        process = run_command(checkpoint, path, folder / "out", f"--max-pixels={2**40}")
        process.stdout.read()
        _, code, usage = os.wait4(process.pid, 0)
        assert code == 0
        seconds = time.perf_counter() - start
        peak = usage.ru_maxrss * 1024  # of Linux, in kB
        base = base or peak
        each = f", {(peak - base) / (height * width):.0f} bytes per pixel" if peak > base else ""
        print(f"{height}x{width}: peak {peak / 1e6:.0f} MB{each}; {seconds:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--broken", type=int, default=20)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, checkpoint = Path(name), args.checkpoint
        (folder / "in").mkdir()
        if checkpoint is None:
            checkpoint = folder / "random.ckpt"
            segcoord.save(segcoord.create_model("mobilenetv2_ca_100", 19), checkpoint)
        if args.memory:
            run_large(checkpoint, folder)
        else:
            run_many(checkpoint, folder, args.images, args.broken)
    print(
        f"\n{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} of "
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{date.today().isoformat()}"
    )


if __name__ == "__main__":
    main()
