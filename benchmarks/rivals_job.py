"""A training of benchmarks/rivals.py: its paths, budget and processes."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
INTERVAL = 30  # seconds between lines of progress
# The allocator and thread settings of segcoord's commands, for every process.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "1",
    "GOMP_SPINCOUNT": "1000",
    "YOLO_OFFLINE": "true",
}


@dataclass(frozen=True)
class Job:
    """Where a training reads and writes, and what it may use."""

    name: str
    data: Path  # in VOC's layout
    config: Path  # of the dataset, for the score
    work: Path  # of all trainings
    folder: Path  # of this training
    minutes: float
    threads: int
    seed: int
    weights: Path | None  # ImageNet weights in timm's names, or None for random ones
    options: dict[str, str]  # of the script, for single kinds

    @property
    def masks(self) -> Path:
        return self.folder / "masks"

    def paths(self, split: str) -> list[tuple[Path, Path]]:
        """The images and masks of a split."""
        base = self.data / "VOCdevkit" / "VOC2012"
        base = base if base.is_dir() else self.data
        names = (base / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
        return [
            (base / "JPEGImages" / f"{name}.jpg", base / "SegmentationClass" / f"{name}.png")
            for name in names
        ]


@dataclass(frozen=True)
class Used:
    """Time that a process and its children took."""

    seconds: float
    cpu_seconds: float


def run(job: Job, step: str, words: list[str], seconds: float | None = None, **env: str) -> Used:
    """Run a process, with its output in a log file, and print its progress.

    Args:
        job: of the process.
        step: what it does, and the name of the log.
        words: the command.
        seconds: how long it takes, if known.
        env: more environment variables.

    Raises:
        SystemExit: the process failed.
    """
    log = job.folder / f"{step}.txt"
    env = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": str(job.threads)} | env
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    next_line = begin + INTERVAL
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, env=env, cwd=ROOT)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if time.monotonic() >= next_line:
                    next_line += INTERVAL
                    _print_progress(job, step, time.monotonic() - begin, seconds)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{job.name}: {step} failed, see {log}\n{tail}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Used(time.monotonic() - begin, cpu)


def _print_progress(job: Job, step: str, elapsed: float, seconds: float | None) -> None:
    left = "" if seconds is None else f", {max(0.0, seconds - elapsed) / 60:.1f} minutes left"
    print(f"  {job.name}: {step}, {elapsed / 60:.1f} minutes{left}", flush=True)
