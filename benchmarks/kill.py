"""Kill a training with SIGKILL at random moments, resume it, and compare with an uninterrupted one.

python benchmarks/kill.py --data DIR [--times 20] [--seed 0]

DIR is a sample dataset (segcoord data sample --layout voc --out DIR --train 16 --val 6). A run of
60 steps with validations every 7, every second time with 2 workers, is killed at a random moment
between its first state and its end, then resumed; every third run is killed and resumed twice. Its
weights, EMA, optimizer, best weights and metrics must equal those of the uninterrupted run.
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from segcoord.models.checkpoint import read_checkpoint

TRAIN = Path(__file__).parents[1] / "train.py"
CONFIG = TRAIN.parent / "configs" / "sample.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        reference = Path(scratch, "reference")
        process = start(args.data, reference, 0)
        wait_for_state(reference, process)
        began = time.monotonic()
        assert process.wait() == 0, "the uninterrupted run failed"
        seconds = time.monotonic() - began
        print(f"uninterrupted: {seconds:.1f} s from its first state to its end")
        equal = 0
        for number in range(args.times):
            run, workers = Path(scratch, f"run{number}"), 2 * (number % 2)
            process, steps = start(args.data, run, workers), []
            wait_for_state(run, process)
            for _ in range(2 if number % 3 == 2 else 1):
                time.sleep(rng.uniform(0, 0.8 * seconds))
                assert process.poll() is None, "ended before it was killed; use more steps"
                process.kill()
                process.wait()
                steps.append(f"step {read_checkpoint(run / 'last.ckpt')['progress']['step']}")
                process = resume(run, workers)
            assert process.wait() == 0, f"{run} could not be resumed"
            same = is_same(run, reference)
            equal += same
            print(
                f"{number + 1:2}: {workers} workers, killed, resumed from {' and '.join(steps)}: "
                f"{'equal' if same else 'DIFFERS'}",
                flush=True,
            )
        print(f"{equal} of {args.times} equal")
        return 0 if equal == args.times else 1


def start(data: str, run: Path, workers: int) -> subprocess.Popen:
    return launch(
        f"--config={CONFIG}", f"--data.root={data}", f"--run={run}", f"--data.workers={workers}",
        "--data.crop_size=[64,64]", "--train.batch_size=4", "--train.max_steps=60",
        "--train.val_interval=7", "--train.ema_decay=0.95", "--train.accelerator=cpu",
    )  # fmt: skip


def resume(run: Path, workers: int) -> subprocess.Popen:
    return launch(f"--resume={run}", f"--data.workers={workers}")


def launch(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, str(TRAIN), *arguments], stdout=subprocess.DEVNULL)


def wait_for_state(run: Path, process: subprocess.Popen) -> None:
    while not (run / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)


def is_same(mine: Path, theirs: Path) -> bool:
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (read_checkpoint(run / name) for run in (mine, theirs))
        for content in (a, b):
            content["config"]["data"].pop("workers")
            content["progress"].pop("seconds")
        if not equal(a, b):
            return False
    return rows(mine) == rows(theirs)


def equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


if __name__ == "__main__":
    sys.exit(main())
