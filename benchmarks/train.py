"""Training step of segcoord compared with plain eager loops: images per second and peak memory.

    python benchmarks/train.py [--crop 321] [--batch 4] [--rounds 9] [--only WORD...] [--json FILE]

Each variant has its own process, with its own allocator settings and peak memory; the variants take
turns, and ratios are paired within a round. Stride 16 (light: 32), SGD, cross-entropy at full size,
21 classes. "plain" is a common loop: float images in NCHW, eager, the network with the original
form of the coordinate attention block; "smp" is segmentation_models_pytorch's DeepLabV3 on
mobilenet_v2 with its defaults: another stride, a standard ASPP and no attention.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from attention import authors_like
from torch import nn

from segcoord import create_model
from segcoord.config.decoders import STRIDES
from segcoord.config.schema import TrainConfig
from segcoord.models.attention import CoordAtt
from segcoord.models.cpu_autograd import use_fast_cpu_backward
from segcoord.training.ema import Ema
from segcoord.training.fabric import training_fabric
from segcoord.training.optim import make_optimizer
from segcoord.training.segmentation import SegmentationLoss
from segcoord.utils.allocator import keep_freed_memory

STEPS = 3  # of each variant in a round
CLASSES = 21
VARIANTS = {  # name: keep freed memory as the commands do, and the settings of the loop
    "plain": (False, None),
    "plain, allocator": (True, None),
    "smp": (False, None),
    "smp, allocator": (True, None),
    "ours": (True, {}),
    "ours, default allocator": (False, {}),
    "ours, ema": (True, {"ema_decay": 0.999}),
    "ours, accumulate 2": (True, {"accumulate": 2}),
    "ours, checkpointing": (True, {"gradient_checkpointing": True}),
    "ours, bf16": (True, {"precision": "bf16"}),
    "ours, compile": (True, {"compile": True}),
    "ours, deeplabv3plus": (True, {"decoder": "deeplabv3plus"}),
    "ours, light": (True, {"decoder": "light"}),
}


def plain_step(name: str, crop: int, batch: int) -> Callable[[], None]:
    if name.startswith("smp"):
        net = smp.DeepLabV3("mobilenet_v2", encoder_weights=None, classes=CLASSES)
        crop = -(-crop // 8) * 8  # its stride must divide the size
    else:
        net = create_model("mobilenetv2_ca_100", CLASSES)
        for module in list(net.modules()):
            if isinstance(getattr(module, "se", None), CoordAtt):
                module.se = authors_like(module.se)

    def forward(images: torch.Tensor) -> torch.Tensor:
        if name.startswith("smp"):
            return net(images)
        padded = net.padded_size(crop, crop)  # with PyTorch's upsampling
        coarse = net.logits_at_stride(images)
        return F.interpolate(coarse, size=padded, mode="bilinear")[..., :crop, :crop]

    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=4e-5)
    loss = nn.CrossEntropyLoss(ignore_index=255)
    images = torch.randn(batch, 3, crop, crop)
    masks = torch.randint(0, CLASSES, (batch, crop, crop))
    net.train()

    def step() -> None:
        optimizer.zero_grad()
        loss(forward(images), masks).backward()
        optimizer.step()

    return step


def our_step(settings: dict, crop: int, batch: int) -> Callable[[], None]:
    """The step of segcoord.training on a batch from the loader."""
    settings = dict(settings)
    decoder = settings.pop("decoder", "deeplabv3")
    config = TrainConfig(max_steps=1, batch_size=batch, lr=0.01, accelerator="cpu", **settings)
    fabric = training_fabric(config)
    model = create_model("mobilenetv2_ca_100", CLASSES, STRIDES[decoder][0], decoder=decoder)
    if config.gradient_checkpointing:
        model.checkpoint_gradients()
    module = SegmentationLoss(model, config).to(memory_format=torch.channels_last)
    use_fast_cpu_backward(module)
    ema = Ema(model, config.ema_decay) if config.ema_decay else None
    optimizer = make_optimizer([{"params": list(module.parameters())}], config)
    compiled = torch.compile(module) if config.compile else module
    wrapped, optimizer = fabric.setup(compiled, optimizer)
    images = torch.randint(0, 256, (batch, crop, crop, 3), dtype=torch.uint8)
    masks = torch.randint(0, CLASSES, (batch, crop, crop), dtype=torch.uint8)
    parts = [
        {"image": image, "mask": mask}
        for image, mask in zip(images.chunk(config.accumulate), masks.chunk(config.accumulate))
    ]
    wrapped.train()

    def step() -> None:
        optimizer.zero_grad()
        for part in parts:
            fabric.backward(wrapped(part) / len(parts))
        optimizer.step()
        if ema:
            ema.update(model, 1000)

    return step


def serve(name: str, crop: int, batch: int, pipe: Connection) -> None:
    """Answer each request with the seconds of STEPS steps and the peak memory in bytes."""
    keep_memory, settings = VARIANTS[name]
    if keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    step = (
        our_step(settings, crop, batch) if settings is not None else plain_step(name, crop, batch)
    )
    while pipe.recv():
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        seconds = time.perf_counter() - began
        pipe.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, default in (("--crop", 321), ("--batch", 4), ("--rounds", 9)):
        parser.add_argument(option, type=int, default=default)
    parser.add_argument("--only", nargs="+", help="variants with one of these words in their name")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    words = args.only or [""]
    # Compiling takes minutes, so only on request.
    names = [
        n for n in VARIANTS if any(w in n for w in words) and (args.only or "compile" not in n)
    ]
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in names:
        pipes[name], child_pipe = context.Pipe()
        process = context.Process(target=serve, args=(name, args.crop, args.batch, child_pipe))
        process.start()
        processes.append(process)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory = {}
    for number in range(args.rounds + 1):  # the first is warmup
        for name, pipe in pipes.items():
            pipe.send(True)
            elapsed, memory[name] = pipe.recv()
            if number:
                seconds[name].append(elapsed / STEPS)
        print(f"round {number} of {args.rounds}", flush=True)
    for pipe in pipes.values():
        pipe.send(False)
    rows = []
    baselines = [n for n in ("plain", "plain, allocator", "smp") if n in names]
    print(f"{'':28} {'ms a step':>9} {'images/s':>8} {'peak':>7}  times as fast as {baselines}")
    for name in names:
        median = statistics.median(seconds[name])
        ratios = [
            statistics.median(a / b for a, b in zip(seconds[base], seconds[name]))
            for base in baselines
        ]
        rows.append({"variant": name, "ms": 1000 * median, "images_per_second": args.batch / median,
                     "peak_bytes": memory[name], **dict(zip(baselines, ratios))})  # fmt: skip
        speedups = "  ".join(f"{ratio:5.2f}" for ratio in ratios)
        print(f"{name:28} {1000 * median:9.1f} {args.batch / median:8.2f} "
              f"{memory[name] / 1e9:5.2f} GB  {speedups}")  # fmt: skip
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
               "threads": torch.get_num_threads(), "torch": torch.__version__,
               "date": date.today().isoformat()}  # fmt: skip
    print(f"\n{machine}")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
