"""The folder of a run: where it lies, its metrics.csv, its checkpoints.

config.yaml     every setting, resolved
origin.json     code, versions, command and weights that it began with; the classes' weights
metrics.csv     a row every few steps and for each validation
tensorboard/    the same numbers
best.ckpt       the weights with the best validation mIoU
last.ckpt       the newest weights with all that is needed to go on
"""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch

from segcoord.encoders.weights import Report
from segcoord.errors import UserError
from segcoord.files import atomic_write


def new_run(run: str | None, config_name: str) -> Path:
    """Makes the folder of a new run: `run`, or runs/CONFIG-NAME/NUMBER.

    Raises:
        UserError: the folder holds something already.
    """
    if run is None:
        parent = Path("runs") / config_name
        numbers = [int(p.name) for p in parent.glob("*") if p.name.isdigit()]
        folder = parent / f"{max(numbers, default=0) + 1:03d}"
    else:
        folder = Path(run)
    refuse_existing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't be made ({error.strerror}); see --run") from error
    return folder


def refuse_existing(folder: Path) -> None:
    """Raises UserError where a new run would find something in its folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder}: exists and is not empty. Go on with it by --resume {folder}, "
            "or name another folder with --run."
        )


def origin() -> dict:
    """What a result came from: commit, versions, command, date."""
    return {
        "commit": _commit(),
        "versions": {name: version(name) for name in ("segcoord", "torch", "timm")},
        "command": shlex.join(sys.argv),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_origin(
    folder: Path, started: Report | None, class_weights: dict[str, float] | None = None
) -> None:
    """Writes origin.json: code, versions, threads, and the weights that the run began with.

    `class_weights` are those of the loss, which come from the data.
    """
    weights = None
    if started is not None:
        weights = {"from": started.source, "loaded": len(started.matched), "new": started.new}
    content = origin() | {
        "threads": torch.get_num_threads(),
        "weights": weights,
        "class_weights": class_weights,
    }
    with atomic_write(folder / "origin.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def read_origin(folder: Path) -> dict:
    """What `write_origin` wrote; UserError where it is gone or no longer readable."""
    path = folder / "origin.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the run's origin can't be read: {error}") from error


def _commit() -> str | None:
    """The commit of a source checkout, with "+" where files differ; None for an installed wheel."""
    folder = Path(__file__).parent
    if not (folder.parent / ".git").exists():
        return None
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "--short=10", "HEAD"], text=True)
        changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("+" if changed else "")


def last_validation(run: Path, score: str) -> dict[str, str] | None:
    """The newest row of metrics.csv that has this score; None before the first validation."""
    path = run / "metrics.csv"
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(score)]
    return rows[-1] if rows else None


class MetricsFile:
    """metrics.csv, a row at a time; a run that goes on first drops what came after its state.

    Args:
        path: of the file.
        scores: the columns of a validation.
        step: the state's step.
        validated: the state's last validation.
    """

    def __init__(self, path: Path, scores: Sequence[str], step: int, validated: int) -> None:
        self.path = path
        self.columns = ["step", "epoch", "loss", "lr", *scores, "seconds"]
        kept = []
        if path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    last = validated if row[scores[0]] else step
                    # A machine that died can leave a line cut short; it came after the state.
                    if row["step"].isdigit() and int(row["step"]) <= last:
                        kept.append(row)
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(kept)

    def add(self, row: dict[str, float]) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)
