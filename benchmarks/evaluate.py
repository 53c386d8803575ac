"""Time and memory from a network's logits to the score, at 1024x2048 with 19 classes.

    python benchmarks/evaluate.py [--json FILE] [--rounds N]

Predicts and counts one image from logits at stride 16 with three methods, alternating in one run:
interpolate + max + numpy's bincount, as in many repositories; interpolate + argmax + torchmetrics;
ours. Once with boundaries in few cells between the coarse pixels, as in photographs, and once in
most cells. Predictions and counts are first checked to be equal. Then evaluates a split from files.
Ratios are medians over the rounds, relative to the baseline of the case.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from operator import truediv
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

import segcoord
from data import write_files
from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.layouts import find_split
from segcoord.data.split import Split
from segcoord.evaluation.evaluate import evaluate
from segcoord.inference.fast_argmax import predict_classes
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.allocator import keep_freed_memory

K, STRIDE, SIZE = 19, 16, (1024, 2048)
SPACING = {"photograph": 24, "dense": 4}  # coarse pixels from one random value to the next
NUMPY, TORCHMETRICS = "interpolate, max, numpy bincount", "interpolate, argmax, torchmetrics"


def scene(spacing: int) -> tuple[Tensor, Tensor]:
    """Smooth random logits (1, K, 64, 128) and a similar truth (1024, 2048) uint8."""
    h, w = (n // STRIDE for n in SIZE)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, K, h // spacing, w // spacing, generator=generator)
    logits = 3 * F.interpolate(coarse, (h, w), mode="bicubic", align_corners=False)
    truth = upsampled(logits)[0].argmax(0).to(torch.uint8).roll((9, 5), (0, 1))
    truth[950:] = 255
    return logits, truth


def upsampled(logits: Tensor) -> Tensor:
    return F.interpolate(logits, SIZE, mode="bilinear", align_corners=False)


def count(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    counted = (target >= 0) & (target < K)
    pairs = K * target[counted].astype(int) + prediction[counted]
    return np.bincount(pairs, minlength=K * K).reshape(K, K)


def with_numpy(logits: Tensor, truth: Tensor) -> np.ndarray:
    return count(truth.numpy(), upsampled(logits).max(1)[1][0].numpy())


def with_torchmetrics(logits: Tensor, truth: Tensor) -> Tensor:
    metric = MulticlassJaccardIndex(K, average="none", ignore_index=255)
    metric.update(upsampled(logits).argmax(1), truth[None])
    return metric.compute()


def ours(logits: Tensor, truth: Tensor) -> Tensor:
    metric = segcoord.MeanIoU(K)
    metric.update(predict_classes(logits, SIZE, SIZE)[0], truth)
    return metric.compute()


METHODS = {NUMPY: with_numpy, TORCHMETRICS: with_torchmetrics, "ours": ours}


def bind_inputs(method: str, spacing: int) -> Callable[[], object]:
    """A method with the layout and dtype of its network and loader: ours channels_last, uint8."""
    logits, truth = scene(spacing)
    if method == "ours":
        logits = logits.contiguous(memory_format=torch.channels_last)
    else:
        truth = truth.long()
    return partial(METHODS[method], logits, truth)


def check(spacing: int) -> float:
    """Asserts that all methods agree; returns the fraction of cells with a boundary."""
    logits, truth = scene(spacing)
    logits = logits.contiguous(memory_format=torch.channels_last)
    prediction = predict_classes(logits, SIZE, SIZE)[0]
    assert torch.equal(prediction, upsampled(logits)[0].argmax(0))
    metrics = segcoord.MeanIoU(K), MulticlassConfusionMatrix(K, ignore_index=255)
    for metric in metrics:
        metric.update(prediction, truth)
    assert torch.equal(metrics[0].confusion, metrics[1].confmat)
    assert (metrics[0].confusion.numpy() == count(truth.numpy(), prediction.numpy())).all()
    c = logits[0].argmax(0)
    same = (c[:-1, :-1] == c[1:, 1:]) & (c[:-1, 1:] == c[1:, :-1]) & (c[:-1, :-1] == c[1:, :-1])
    return 1 - same.float().mean().item()


def extra_memory(method: str, spacing: int) -> float:
    """Peak growth of a new process in MB while it predicts and counts."""
    run = bind_inputs(method, spacing)
    tiny = torch.zeros(1, K, 4, 4), torch.zeros(4, 4, dtype=torch.uint8)
    predict_classes(tiny[0], (64, 64), (64, 64))  # loads libraries
    segcoord.MeanIoU(K).update(tiny[1], tiny[1])
    MulticlassJaccardIndex(K)(tiny[1], tiny[1])

    def status(field: str) -> int:  # kB
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    run()
    return (status("VmHWM") - before) / 1000


class BaselineSet(Dataset):
    """Normalized float images (3, H, W) and int64 masks."""

    def __init__(self, split: Split, model: SegmentationModel) -> None:
        self.split, self.model = split, model

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = map(torch.from_numpy, self.split.read(index))
        return self.model.normalize(image[None])[0].contiguous(), mask.long()


@torch.inference_mode()
def evaluate_baseline(model: SegmentationModel, split: Split) -> None:
    confusion = np.zeros((K, K), int)
    for image, truth in DataLoader(BaselineSet(split, model), num_workers=2):
        prediction = model(image.contiguous()).max(1)[1]
        confusion += count(truth.numpy(), prediction.numpy())


def measure(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Wall-clock seconds per variant and round."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):  # the first round is a warm-up
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    keep_freed_memory()  # as the commands do; the baselines are slower without
    rows = []

    def report(case: str, unit: str, measured: dict, convert: Callable[[float], float]) -> None:
        baseline = next(iter(measured.values()))
        print(f"\n{case}")
        for name, values in measured.items():
            value, best = convert(statistics.median(values)), convert(min(values))
            ratio = statistics.median(map(truediv, baseline, values))
            print(f"  {name:38} {value:8.2f} {unit}, best {best:8.2f}  {ratio:6.2f}x")
            row = {"case": case, "variant": name, "value": value, "unit": unit, "ratio": ratio}
            rows.append(row)

    for kind, spacing in SPACING.items():
        case = f"{kind}: boundaries in {100 * check(spacing):.0f} % of cells"
        seconds = measure({method: bind_inputs(method, spacing) for method in METHODS}, args.rounds)
        memory = {}
        for method in METHODS:
            with ProcessPoolExecutor(1, get_context("spawn")) as executor:
                memory[method] = [executor.submit(extra_memory, method, spacing).result()]
        for pair in ((NUMPY, "ours"), (TORCHMETRICS, "ours")):
            times, sizes = ({name: values[name] for name in pair} for values in (seconds, memory))
            report(f"{case}, predict and count", "ms", times, lambda s: 1e3 * s)
            report(f"{case}, extra memory", "MB", sizes, lambda size: size)

    model = segcoord.create_model("mobilenetv2_ca_100", K, STRIDE).eval()
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), SIZE[1], SIZE[0], ".png", 8)
        classes = [ClassConfig(str(n), [n, n, n]) for n in range(K)]
        split = find_split(DataConfig("folder", folder, classes, pack="off"), "train")
        variants = {
            "NCHW, " + NUMPY: lambda: evaluate_baseline(model, split),
            "ours": lambda: evaluate(model, split, workers=2),
        }
        seconds = measure(variants, max(3, args.rounds // 5))
    case = "from PNG files to the score, mobilenetv2_ca_100 at stride 16"
    report(case, "images/s", seconds, lambda s: len(split) / s)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
    }
    print(f"\n{machine}")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
