"""Images per second of one core: a crop of a photograph, from files and from a pack.

    python benchmarks/data.py [--json FILE] [--rounds N]

It makes photo-like files, and measures in one run, alternating: the pipeline that most people
copy (PIL: load, scale the whole, crop, flip, to float, normalize), albumentations as documented,
ours from files, ours from the pack. Ratios are to the first, medians over the rounds: of processor
time of one thread, and of time by the clock through a DataLoader whose workers run already.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import re
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from datetime import date
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.layouts import find_split
from segcoord.data.loader import EpochShuffle, StepBatchSampler, TrainDataset, train_loader
from segcoord.data.pack.reader import with_pack
from segcoord.data.pack.writer import write_pack
from segcoord.data.split import Split
from segcoord.data.transforms import TrainTransform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CASES = {  # name: (width, height, suffix, crop, images)
    "Cityscapes 2048x1024 PNG, crop 768": (2048, 1024, ".png", 768, 12),
    "VOC 500x375 JPEG, crop 513": (500, 375, ".jpg", 513, 48),
}


def write_files(root: Path, width: int, height: int, suffix: str, count: int) -> None:
    """Smooth shapes with a sensor's noise, whose PNG is about as large as a photograph's."""
    for folder in ("images/train", "masks/train"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (height // 64 + 1, width // 64 + 1, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        regions = rng.integers(0, 19, (height // 64 + 1, width // 64 + 1), dtype=np.uint8)
        mask = cv2.resize(regions, (width, height), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / "images" / "train" / f"{number:03d}{suffix}"), image)
        cv2.imwrite(str(root / "masks" / "train" / f"{number:03d}.png"), mask)


class PilSet(Dataset):
    """What is copied from repository to repository: all of the image, in floats."""

    def __init__(self, split: Split, crop: int) -> None:
        self.split, self.crop = split, crop

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        sample, crop = self.split.samples[index % len(self)], self.crop
        image, mask = Image.open(sample.image).convert("RGB"), Image.open(sample.mask)
        scale = random.uniform(0.5, 2.0)
        size = (round(image.width * scale), round(image.height * scale))
        image, mask = image.resize(size, Image.BILINEAR), mask.resize(size, Image.NEAREST)
        right, below = max(0, crop - size[0]), max(0, crop - size[1])
        if right or below:
            padded = (size[0] + right, size[1] + below)
            image, mask = image.crop((0, 0, *padded)), mask.crop((0, 0, *padded))
        left, top = (random.randint(0, n - crop) for n in image.size)
        box = (left, top, left + crop, top + crop)
        image, mask = image.crop(box), mask.crop(box)
        if random.random() < 0.5:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
            mask = mask.transpose(Image.FLIP_LEFT_RIGHT)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
        return x, torch.from_numpy(np.array(mask)).long()


def albumentations_loader(split: Split, crop: int) -> Callable[[int], object]:
    import albumentations as A

    compose = A.Compose(
        [
            A.RandomScale((-0.5, 1.0), p=1),
            A.RandomCrop(crop, crop, pad_if_needed=True, fill_mask=255, p=1),
            A.HorizontalFlip(p=0.5),
            A.Normalize(MEAN, STD),
        ]
    )

    def load(index: int) -> object:
        sample = split.samples[index]
        image = cv2.cvtColor(cv2.imread(str(sample.image)), cv2.COLOR_BGR2RGB)
        return compose(image=image, mask=np.array(Image.open(sample.mask)))

    return load


def measure(variants: dict[str, Callable[[int], object]], count: int, rounds: int) -> dict:
    """Seconds of processor time for one image, per variant and round."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):  # the first one warms the caches
        for name, load in variants.items():
            began = time.process_time()
            for index in range(count):
                load(index)
            seconds[name].append((time.process_time() - began) / count)
    return {name: values[1:] for name, values in seconds.items()}


def through_loader(pil: PilSet, ours: dict[str, TrainDataset], rounds: int) -> tuple[dict, dict]:
    """Through a DataLoader of 2 workers, by variant and round: seconds by the clock for one image,
    and by how many MB the memory of a worker's own grew meanwhile.

    The same steps for all, counted once the workers run and while they still work ahead.
    """
    workers, batch, warm, counted, ahead = 2, 4, 8, 48, 4  # the latter three in steps
    steps = warm + counted + ahead
    order = [n % len(pil) for n in range(batch * steps)]
    loaders = {"PIL, scale all, float": DataLoader(pil, batch, sampler=order, num_workers=workers)}
    for name, dataset in ours.items():
        shares = StepBatchSampler(EpochShuffle(len(dataset), batch, 0), (0, steps))
        loaders[name] = train_loader(dataset, shares, workers)
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    grown: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, loader in loaders.items():
            batches = iter(loader)
            deque(islice(batches, warm), maxlen=0)
            before, began = own_memory(), time.perf_counter()
            deque(islice(batches, counted), maxlen=0)
            seconds[name].append((time.perf_counter() - began) / (batch * counted))
            grown[name].append(max(now - then for now, then in zip(own_memory(), before)))
            deque(batches, maxlen=0)
    return seconds, grown


def own_memory() -> list[float]:
    """MB that each process started here shares with no other."""
    children = sorted(child.pid for child in multiprocessing.active_children())
    maps = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in children]
    return [int(re.search(r"Private_Dirty: +(\d+)", text)[1]) / 1000 for text in maps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    rows = []

    def report(case: str, seconds: dict[str, list[float]]) -> None:
        first = next(iter(seconds.values()))
        print(f"\n{case}")
        for name, values in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(first, values))
            rate = 1 / statistics.median(values)
            print(f"  {name:34} {rate:9.1f} images/s  {ratio:6.2f}x")
            rows.append(
                {"case": case, "variant": name, "value": rate, "unit": "images/s", "ratio": ratio}
            )

    for case, (width, height, suffix, crop, count) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), width, height, suffix, count)
            data = DataConfig(
                "folder",
                folder,
                [ClassConfig(str(n), [n, n, n]) for n in range(19)],
                crop_size=(crop, crop),
                color_jitter=0,
                pack="off",
            )
            split = find_split(data, "train")
            write_pack(split, Path(folder, ".segcoord", "train"))
            data.pack = "auto"
            packed = with_pack(split, data)
            transform = TrainTransform(data, MEAN)
            ours = {
                "ours, files, uint8": TrainDataset(split, transform, 0),
                "ours, pack, uint8": TrainDataset(packed, transform, 0),
            }
            pil = PilSet(split, crop)
            variants = {"PIL, scale all, float": pil.__getitem__}
            variants["albumentations, float"] = albumentations_loader(split, crop)
            for name, dataset in ours.items():
                variants[name] = lambda index, dataset=dataset: dataset[0, index]
            report(f"{case}, one core", measure(variants, count, args.rounds))
            if case.startswith("Cityscapes"):
                seconds, grown = through_loader(pil, ours, max(3, args.rounds // 2))
                report(f"{case}, DataLoader of 2 workers", seconds)
                for name, values in grown.items():
                    print(f"  {name:34} {max(values):9.1f} MB by which a worker's memory grew")
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "date": date.today().isoformat(),
        "opencv": cv2.__version__,
        "torch": torch.__version__,
    }
    print(f"\n{machine}")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
