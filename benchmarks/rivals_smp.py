"""smp's models in benchmarks/rivals.py, in the plain loop that its users write.

Float32, AdamW, albumentations, cross-entropy, a cosine schedule over the time budget. The encoder
is smp's `mobilenet_v2`; timm's weights are the same network under other names.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from rivals_job import Job, run
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CROP, BATCH, LR, ENCODER_LR, WEIGHT_DECAY = 320, 4, 1e-3, 3e-4, 1e-2
SCALE, CALIBRATION = (-0.4, 0.4), 100
FILL = (124, 116, 104)  # the mean


def train(job: Job, architecture: str, classes: int) -> dict:
    """Train for the budget, predict val and write the network, in processes."""
    request = {
        "architecture": architecture,
        "classes": classes,
        "seconds": 60 * job.minutes,
        "threads": job.threads,
        "seed": job.seed,
        "weights": job.weights and str(job.weights.resolve()),
        "folder": str(job.folder),
        "masks": str(job.masks),
        "train": [tuple(map(str, pair)) for pair in job.paths("train")],
        "val": [str(image) for image, _ in job.paths("val")],
    }
    file = job.folder / "request.json"
    file.write_text(json.dumps(request))
    words = [sys.executable, __file__, str(file)]
    used = run(job, "train", [*words, "train"], request["seconds"])
    run(job, "predict", [*words, "predict"])
    trained = json.loads((job.folder / "trained.json").read_text())
    return trained | {"cpu_seconds": used.cpu_seconds, "version": f"smp {smp.__version__}"}


class Images(Dataset):
    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs
        self.transform = A.Compose(
            [
                A.RandomScale(SCALE, p=1),
                A.PadIfNeeded(CROP, CROP, border_mode=0, fill=FILL, fill_mask=255),  # constant
                A.RandomCrop(CROP, CROP),
                A.HorizontalFlip(),
                A.Normalize(MEAN, STD),
                A.ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.pairs[index]
        pair = self.transform(image=read(image), mask=np.array(Image.open(mask)))
        return pair["image"], pair["mask"].long()


def read(path: str) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)


def to_input(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (1, 3, H', W') float32, padded to multiples of 32 with the mean."""
    x = ((image / 255 - MEAN) / STD).astype(np.float32)
    bottom, right = (-n % 32 for n in image.shape[:2])
    return np.pad(x, [(0, bottom), (0, right), (0, 0)]).transpose(2, 0, 1)[None].copy()


def create(architecture: str, classes: int, weights: str | None) -> nn.Module:
    net = getattr(smp, architecture)("mobilenet_v2", encoder_weights=None, classes=classes)
    if weights:
        timm_tensors = torch.load(weights, weights_only=True).values()
        own = net.encoder.state_dict()
        tensors = [*timm_tensors][: len(own)]  # in the same order; the classifier is last
        assert all(a.shape == b.shape for a, b in zip(own.values(), tensors, strict=True))
        net.encoder.load_state_dict(dict(zip(own, tensors)))
    return net


def batches(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def fit(net: nn.Module, request: dict) -> tuple[int, float]:
    """Train until the time is over; returns the steps and seconds."""
    images = Images(request["train"])
    workers = {"num_workers": 2, "persistent_workers": True}
    loader = DataLoader(images, min(BATCH, len(images)), shuffle=True, drop_last=True, **workers)
    factor = ENCODER_LR / LR if request["weights"] else 1.0
    encoder = [*net.encoder.parameters()]
    others = [p for n, p in net.named_parameters() if not n.startswith("encoder.")]
    groups = [{"params": encoder, "factor": factor}, {"params": others, "factor": 1.0}]
    optimizer = torch.optim.AdamW(groups, LR, weight_decay=WEIGHT_DECAY)
    loss = nn.CrossEntropyLoss(ignore_index=255)
    data, steps, elapsed = batches(loader), 0, 0.0
    first = next(data)  # the workers have started
    begin = time.monotonic()
    while elapsed < request["seconds"]:
        x, y = next(data) if steps else first
        for group in optimizer.param_groups:
            cosine = 0.5 + 0.5 * math.cos(math.pi * elapsed / request["seconds"])
            group["lr"] = LR * group["factor"] * cosine
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()
        steps, elapsed = steps + 1, time.monotonic() - begin
    return steps, elapsed


@torch.inference_mode()
def predict(net: nn.Module, paths: list[str], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in paths:
        image = read(path)
        classes = net(torch.from_numpy(to_input(image)))[0].argmax(0).byte().numpy()
        height, width = image.shape[:2]
        Image.fromarray(classes[:height, :width]).save(folder / f"{Path(path).stem}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("request", type=Path)
    parser.add_argument("step", choices=["train", "predict"])
    args = parser.parse_args()
    request = json.loads(args.request.read_text())
    folder = Path(request["folder"])
    torch.manual_seed(request["seed"])
    torch.set_num_threads(request["threads"])
    net = create(request["architecture"], request["classes"], request["weights"])
    if args.step == "train":
        steps, seconds = fit(net.train(), request)
        settings = {"crop": CROP, "batch": BATCH, "lr": LR, "encoder_lr": ENCODER_LR,
                    "weight_decay": WEIGHT_DECAY, "scale": SCALE}  # fmt: skip
        trained = {"steps": steps, "train_seconds": seconds, "settings": settings}
        torch.save(net.state_dict(), folder / "net.pt")
        (folder / "trained.json").write_text(json.dumps(trained))
        return
    net.load_state_dict(torch.load(folder / "net.pt", weights_only=True))
    predict(net.eval(), request["val"], Path(request["masks"]))
    net.segmentation_head[1] = nn.Identity()  # the network alone, as of the others
    from rivals_speed import write_network

    inputs = [to_input(read(image)) for image, _ in request["train"][:CALIBRATION]]
    write_network(net, folder, inputs)


if __name__ == "__main__":
    main()
