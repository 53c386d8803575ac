"""Speed and memory on a GPU, after the tests marked `gpu`: one Markdown table and JSON.

    python benchmarks/gpu.py [--minutes 8] [--out gpu] [--skip-tests] [--only WORD...]
    python benchmarks/gpu.py --device cpu --quick

Training at 513x513 (batch 16) and 769x769 (batch 8) at output strides 16 and 8, with a batch that
is on the device already, and for 513 at stride 16 and 769 at stride 8 also from a pack and from
files; evaluation of 1024x2048 images; inference of 512x512 images. The peer is
segmentation_models_pytorch's DeepLabV3 on mobilenet_v2 with its standard ASPP and no attention, at
the same stride, in the usual loop.

Each result is written to OUT as soon as it is measured. The same command goes on where an earlier
one ended or was cut off; no case starts after --minutes. --quick only shows that everything runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path

import cv2
import gpu_cases as cases
import numpy as np
import torch
from gpu_cases import SMP, Setup

from segcoord.data.pack.writer import write_pack
from segcoord.utils.allocator import keep_freed_memory
from segcoord.utils.console import console

ROOT = Path(__file__).parents[1]
IMAGES = 32
Case = tuple[str, str, Callable[[], tuple[float, float | None]]]
"""(case, variant, function to measure it); ratios are to the case's first smp variant."""


def list_cases(setup: Setup, quick: bool) -> Iterator[Case]:
    """The most important first."""
    small, large = ((65, 2), (97, 2)) if quick else ((513, 16), (769, 8))
    yield from training_cases(setup, small, 16, ("device", "pack", "files"))
    title = "evaluation, {}x{}, stride 16".format(*image_size(quick))
    for source in ("pack", "files"):
        yield title, f"ours, {source}", partial(cases.evaluation, setup, 16, source)
    yield from inference_cases(setup, 64 if quick else 512)
    yield from training_cases(setup, large, 8, ("device", "pack", "files"))
    yield from training_cases(setup, small, 8, ("device",))
    yield from training_cases(setup, large, 16, ("device",))
    settings = {"fp32": {"precision": "fp32"}, "EMA": {"ema_decay": 0.999}}
    settings["gradient checkpointing"] = {"gradient_checkpointing": True}
    if not quick:  # takes minutes on a CPU
        settings["compile"] = {"compile": True}
    for name, chosen in settings.items():
        measure = partial(cases.training_loop, setup, *small, 16, **chosen)
        yield training_title(small, 16), f"ours, {name}", measure


def image_size(quick: bool) -> tuple[int, int]:
    return (128, 256) if quick else (1024, 2048)


def training_title(size: tuple[int, int], stride: int) -> str:
    return f"training, {size[0]}x{size[0]}, batch {size[1]}, stride {stride}"


def training_cases(
    setup: Setup, size: tuple[int, int], stride: int, sources: tuple[str, ...]
) -> Iterator[Case]:
    case = training_title(size, stride)
    for autocast in (False, True):
        measure = partial(cases.smp_training, setup, *size, stride, autocast)
        yield case, f"{SMP}, {'bf16 autocast' if autocast else 'float32'}", measure
    for source in sources:
        name = "ours" if source == "device" else f"ours, {source}"
        yield case, name, partial(cases.training_loop, setup, *size, stride, source)


def inference_cases(setup: Setup, side: int) -> Iterator[Case]:
    for batch in (1, 2 if side < 512 else 32):
        case = f"inference, {side}x{side}, batch {batch}, logits"
        for half in (False, True):
            dtype = str(setup.half if half else torch.float32).removeprefix("torch.")
            measure = partial(cases.logits, setup, side, batch, half)
            yield case, f"{SMP}, {dtype}", partial(measure, graph=False, peer=True)
            yield case, f"ours, {dtype}", partial(measure, graph=False)
            if setup.on_gpu:
                yield case, f"ours, {dtype}, CUDA graph", partial(measure, graph=True)
    if cases.has_tensorrt(setup):
        name = "ours, ONNX, TensorRT float16" if setup.on_gpu else "ours, ONNX"
        yield case, name, partial(cases.tensorrt, setup, side, batch)
    case = f"inference, {side}x{side}, mask"
    yield case, "ours, segcoord.predict", partial(cases.masks, setup, side)


def write_dataset(root: Path, size: tuple[int, int], count: int) -> None:
    """Smooth random images with noise, PNG, and masks of blocks; then their pack."""

    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 256, (size[0] // 64 + 1, size[1] // 64 + 1, 3), dtype=np.uint8)
        image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        image = cv2.add(image, rng.integers(0, 6, image.shape, dtype=np.uint8))
        regions = rng.integers(0, cases.CLASSES, coarse.shape[:2], dtype=np.uint8)
        mask = cv2.resize(regions, size[::-1], interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / "images" / "train" / f"{number:03d}.png"), image)
        cv2.imwrite(str(root / "masks" / "train" / f"{number:03d}.png"), mask)

    for folder in ("images", "masks"):
        (root / folder / "train").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(count)))
    split = Setup("cpu", 0, root, 0).split("off")
    write_pack(split, root / ".segcoord" / "train", workers=1)


def run_tests() -> str:
    """The last line of pytest's output for the tests marked `gpu`."""
    tests = [ROOT / "tests" / name for name in ("test_gpu.py", "training", "inference")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *map(str, tests)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    print(result.stdout[-20_000:], result.stderr[-2_000:], sep="\n", flush=True)
    return (result.stdout.strip() or "pytest printed nothing").splitlines()[-1].strip("= ")


def measure(case: Case, setup: Setup) -> dict:
    """One row; a failure is a row with its error."""
    title, variant, function = case
    row = {"case": title, "variant": variant, "value": None, "unit": "images/s"}
    if setup.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        row["value"], row["waiting"] = function()
    except Exception as error:
        traceback.print_exc()
        row["error"] = (
            f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        )
    if setup.on_gpu:
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    gc.collect()
    if setup.on_gpu:
        torch.cuda.empty_cache()
    return row


def machine_of(device: str) -> dict:
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "device": gpu or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if gpu else None,
    }


def add_ratios(rows: list[dict]) -> None:
    for row in rows:
        peers = [r["value"] for r in rows if r["case"] == row["case"] and SMP in r["variant"]]
        row["ratio"] = row["value"] / peers[0] if peers and peers[0] and row["value"] else None


def markdown(content: dict, missing: int) -> str:
    """The table, with the machine and what is missing."""
    lines = [f"{content['date']}, {content['machine']}", f"Tests: {content['tests']}", ""]
    lines += ["| case | variant | images/s | ratio | waiting | peak memory |", "| --- " * 6 + "|"]
    for row in sorted(content["rows"], key=lambda r: r["case"]):
        waiting, peak = row.get("waiting"), row.get("peak_bytes")
        cells = (
            row["case"],
            row["variant"],
            f"{row['value']:.1f}" if row["value"] else row["error"],
            f"{row['ratio']:.2f}" if row["ratio"] else "",
            "" if waiting is None else f"{100 * waiting:.1f} %",
            f"{peak / 1e9:.2f} GB" if peak else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    if missing:
        lines += ["", f"{missing} cases are missing; run the same command again."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8, help="start no case after this time")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only show that it runs")
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--only", nargs="+", default=[""], help="cases or variants with a word")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of the results")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; use --device cpu --quick to see that everything runs")
    keep_freed_memory()
    console.quiet = True
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "gpu.json"
    content = {"machine": machine_of(args.device), "quick": args.quick, "tests": "", "rows": []}
    if file.exists() and (earlier := json.loads(file.read_text()))["machine"] == content["machine"]:
        content = earlier if earlier["quick"] == args.quick else content
    content["date"] = date.today().isoformat()
    root = args.out / ("quick" if args.quick else "data")
    if not (root / ".segcoord" / "train").exists():
        write_dataset(root, image_size(args.quick), 4 if args.quick else IMAGES)
    seconds = 0.1 if args.quick else 4.0
    workers = 0 if args.quick else min(16, len(os.sched_getaffinity(0)))
    encoder = "mobilenetv2_ca_050" if args.quick else "mobilenetv2_ca_100"
    setup = Setup(args.device, seconds, root, workers, encoder)
    if setup.on_gpu and not args.skip_tests and not content["tests"]:
        content["tests"] = run_tests()
    done = {(r["case"], r["variant"]) for r in content["rows"] if r["value"]}
    left = [c for c in list_cases(setup, args.quick) if (c[0], c[1]) not in done]
    left = [c for c in left if any(word in f"{c[0]}, {c[1]}" for word in args.only)]
    missing = len(left)
    for case in left:
        if time.monotonic() > end:
            break
        began, key = time.monotonic(), case[:2]
        row = measure(case, setup)
        content["rows"] = [r for r in content["rows"] if (r["case"], r["variant"]) != key] + [row]
        missing -= 1
        add_ratios(content["rows"])
        file.write_text(json.dumps(content, indent=2) + "\n")
        (args.out / "gpu.md").write_text(markdown(content, missing))
        result = row.get("error") or f"{row['value']:.1f} images/s"
        print(f"{', '.join(key)}: {result} ({time.monotonic() - began:.0f} s)", flush=True)
    print(markdown(content, missing))
    return int(any(not row["value"] for row in content["rows"]))


if __name__ == "__main__":
    sys.exit(main())
