"""Coordinate attention against the authors' form of it, and what it adds to an encoder.

    python benchmarks/attention.py [--json FILE] [--rounds N]

In one run, alternating: the block for one image without gradients; MobileNetV2 at stride 16 for one
512x512 image, channels_last, folded; the block forward and backward for four images. Ours runs in
both memory formats, the authors' in NCHW, which suits it better. Ratios are paired within a round.
Results are compared before they are timed; the allocator is set as our commands set it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from segcoord.models.attention import CoordAtt
from segcoord.models.fold_batch_norm import fold_batch_norm
from segcoord.utils.allocator import keep_freed_memory

SHAPES = [(96, 256), (144, 128), (192, 64), (576, 32), (960, 32), (960, 64)]  # channels, side
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
Variants = dict[str, Callable[[], Tensor]]  # the first is what the others are compared with


class AuthorsCoordAtt(CoordAtt):
    """houqb/CoordAttention, mbv2_ca.py: adaptive pools, and h-swish by ReLU6; our parameters."""

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        rows = nn.functional.adaptive_avg_pool2d(x, (None, 1))
        columns = nn.functional.adaptive_avg_pool2d(x, (1, None)).permute(0, 1, 3, 2)
        strip = self.bn1(self.conv1(torch.cat([rows, columns], 2)))
        strip = strip * (nn.functional.relu6(strip + 3) / 6)
        rows, columns = torch.split(strip, [h, w], 2)
        a_w = self.conv3(columns.permute(0, 1, 3, 2)).sigmoid()
        return x * a_w * self.conv2(rows).sigmoid()


def authors_like(block: CoordAtt) -> AuthorsCoordAtt:
    twin = AuthorsCoordAtt(block.conv1.in_channels)
    twin.load_state_dict(block.state_dict())
    return twin.train(block.training)


def inference(x: Tensor) -> Variants:
    block = CoordAtt(x.shape[1]).eval()
    variants: Variants = {"authors', NCHW": partial(authors_like(block), x)}
    for name, memory_format in FORMATS.items():
        variants[f"ours, {name}"] = partial(block, x.contiguous(memory_format=memory_format))
    return variants


def training(x: Tensor, grad: Tensor) -> Variants:
    def step(block: CoordAtt, x: Tensor, grad: Tensor) -> Tensor:
        x.grad = None
        block.zero_grad()
        block(x).backward(grad)
        return x.grad

    block = CoordAtt(x.shape[1])
    variants: Variants = {"authors', NCHW": partial(step, authors_like(block), x, grad)}
    for name, memory_format in FORMATS.items():
        mine, back = (tensor.clone(memory_format=memory_format) for tensor in (x, grad))
        variants[f"ours, {name}"] = partial(step, block, mine.requires_grad_(), back)
    x.requires_grad_()
    return variants


def encoders(x: Tensor) -> Variants:
    names = {"without": "mobilenetv2_100", "ours": "mobilenetv2_ca_100"}
    names["authors'"] = names["ours"]
    settings = {"features_only": True, "output_stride": 16}
    nets = {key: timm.create_model(name, **settings) for key, name in names.items()}
    nets["authors'"].load_state_dict(nets["ours"].state_dict())
    for module in list(nets["authors'"].modules()):
        if isinstance(getattr(module, "se", None), CoordAtt):
            module.se = authors_like(module.se)
    last = {"memory_format": torch.channels_last}
    folded = {key: fold_batch_norm(net).to(**last) for key, net in nets.items()}
    x = x.contiguous(**last)
    return {key: lambda net=net: net(x)[-1] for key, net in folded.items()}


def measure(variants: Variants, rounds: int) -> dict[str, list[float]]:
    """Milliseconds per call, by variant and round; in a round each takes some 20 ms."""
    calls = dict.fromkeys(variants, 1)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 2):  # the first two warm up, and tell how often to call
        for name, run in variants.items():
            began = time.perf_counter()
            for _ in range(calls[name]):
                run()
            times[name].append(1000 * (time.perf_counter() - began) / calls[name])
            calls[name] = max(1, math.ceil(20 / times[name][-1]))
    return {name: values[2:] for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    rows, all_ratios = [], {}

    def report(kind: str, case: str, variants: Variants, slower: bool = False) -> None:
        results = {name: run() for name, run in variants.items() if name != "without"}
        expected = results.pop("authors'" if slower else "authors', NCHW")
        for found in results.values():
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        times = measure(variants, args.rounds)
        first, sign = next(iter(times.values())), -1 if slower else 1
        print(f"\n{kind}, {case}")
        for name, values in times.items():
            ratio = statistics.median((a / b) ** sign for a, b in zip(first, values))
            best, middle = (min(first) / min(values)) ** sign, statistics.median(values)
            print(f"  {name:20} {middle:8.3f} ms  {ratio:5.2f}x  ({best:.2f}x of the minima)")
            row = {"case": f"{kind}, {case}", "variant": name, "value": middle, "unit": "ms"}
            rows.append(row | {"ratio": ratio, "ratio_of_minima": best})
            all_ratios.setdefault(f"{kind}, {name}", []).append(ratio)

    with torch.inference_mode():
        for c, side in SHAPES:
            report("inference", f"1x{c}x{side}x{side}", inference(torch.randn(1, c, side, side)))
        report("encoder", "times that without", encoders(torch.randn(1, 3, 512, 512)), slower=True)
    for c, side in SHAPES:
        x, grad = torch.randn(2, 4, c, side, side)
        report("forward and backward", f"4x{c}x{side}x{side}", training(x, grad))
    print("\ngeometric means")
    for name, ratios in all_ratios.items():
        print(f"  {name:40} {statistics.geometric_mean(ratios):.2f}x")
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    machine |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    machine |= {"date": date.today().isoformat()}
    print(f"\n{machine}")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
