"""Two processes on one machine: how much they slow each other, by how OpenMP's threads wait.

    python benchmarks/processes.py [--seconds 3] [--spin N ...] [--only WORD] [--json FILE]

Each process predicts images of 512x512 or trains on crops of 193, with as many threads as the
machine has cores, first alone, then two at the same time. "default" is OpenMP's own setting,
"ours" that of the commands; --spin adds values of GOMP_SPINCOUNT. Ratios are relative to "default"
alone. Two processes can't take less than twice the time of one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path

from segcoord.utils.cpu import limit_busy_waiting

WORK = ("predict 512x512", "train 4 crops of 193")


def measure(work: str, seconds: float, pipe: Connection) -> None:
    """Answer a message with the median time in milliseconds; runs in a process of its own."""
    import numpy as np

    import segcoord
    from segcoord.models.fold_batch_norm import fold_batch_norm
    from segcoord.utils.allocator import keep_freed_memory
    from train import our_step

    keep_freed_memory()
    if work == WORK[0]:
        model = fold_batch_norm(segcoord.create_model("mobilenetv2_ca_100", 21).eval())
        image = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)

        def step() -> None:
            segcoord.predict(model, image)
    else:
        step = our_step({}, 193, 4)
    for _ in range(3):
        step()
    pipe.send("ready")
    while pipe.recv():
        times, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        pipe.send(1000 * statistics.median(times))


def alone_and_together(work: str, seconds: float) -> tuple[float, float]:
    """Milliseconds of one process, and the mean of two at the same time."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(2):
        mine, theirs = context.Pipe()
        context.Process(target=measure, args=(work, seconds, theirs), daemon=True).start()
        pipes.append(mine)
    for pipe in pipes:
        pipe.recv()
    pipes[0].send(True)
    alone = pipes[0].recv()
    for pipe in pipes:
        pipe.send(True)
    together = statistics.mean([pipe.recv() for pipe in pipes])
    for pipe in pipes:
        pipe.send(False)
    return alone, together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--spin", type=int, nargs="*", default=[])
    parser.add_argument("--only", default="", metavar="WORD", help="predict or train")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = dict(os.environ)
    limit_busy_waiting()
    ours = {key: value for key, value in os.environ.items() if key not in before}
    variants = {"default": {}, "ours": ours}
    variants |= {f"GOMP_SPINCOUNT={n}": {"GOMP_SPINCOUNT": str(n)} for n in args.spin}
    rows = []
    for work in (each for each in WORK if args.only in each):
        baseline = None
        for name, variables in variants.items():
            for key in ours:
                os.environ.pop(key, None)
            os.environ.update(variables)
            alone, together = alone_and_together(work, args.seconds)
            baseline = baseline or alone
            for case, value in (("alone", alone), ("two processes", together)):
                ratio = value / baseline
                row = {"case": f"{work}, {case}", "variant": name, "value": value, "unit": "ms"}
                rows.append({**row, "ratio": ratio})
                print(f"{work:22} {name:22} {case:14} {value:8.1f} ms {ratio:6.2f}", flush=True)
    if args.json:
        machine = {"cores": os.cpu_count(), "python": platform.python_version()}
        content = {"rows": rows, "machine": machine | {"date": date.today().isoformat()}}
        args.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
