"""The folder of a run: where it lies, what it came from, its metrics.csv.

config.yaml     every setting, resolved
origin.json     code, versions, device, command and weights that it began with, and each resume
log.txt         what was printed
metrics.csv     a row every few steps and for each validation
plot.png        the curves of metrics.csv
predictions/    images of the validation split, their truth and prediction, at each validation
tensorboard/    the numbers and the predictions
.lock           held while a process trains here
best.ckpt       the weights with the best validation mIoU
last.ckpt       the newest weights with all that is needed to go on
"""

from __future__ import annotations

import csv
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import write_json
from segcoord.utils.provenance import describe_machine, origin

if TYPE_CHECKING:
    import torch

    from segcoord.models.encoders.weights import LoadReport


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
    require_new_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't be made ({error.strerror}); see --run") from error
    return folder


def require_new_folder(folder: Path) -> None:
    """Raises UserError where a new run would find something in its folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder}: exists and is not empty. Go on with it by --resume {folder}, "
            "or name another folder with --run."
        )


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in a run's folder; released however this one ends.

    It is a POSIX lock and not flock, which the workers that a killed process leaves behind for a
    moment would go on holding.

    Raises:
        UserError: another process trains there, or the folder can't be written.
    """
    try:
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror})") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder}: another process trains in it. Wait for its end or stop it, or start a "
                "run of its own with --run."
            ) from error
        except OSError as error:  # a file system without locks
            console.print(
                f"{folder}: its file system has no locks ({error.strerror}); see to it that no "
                "other process trains in it.",
                style="yellow",
            )
        yield


def write_origin(
    folder: Path,
    device: torch.device,
    processes: int,
    started: LoadReport | None,
    class_weights: dict[str, float] | None = None,
    train_images: dict[str, object] | None = None,
) -> None:
    """Writes origin.json: code, versions, machine, and the weights that the run began with.

    Args:
        folder: of the run.
        device: of this process.
        processes: that train together, each on its device.
        started: what became of the weights of a file.
        class_weights: of the loss by class.
        train_images: that it trains on, by which a resumed run knows them again.
    """
    weights = None
    if started is not None:
        weights = {"from": started.source, "loaded": len(started.matched), "new": started.new}
    session = origin() | describe_machine(device, processes)
    came_from = {"weights": weights, "class_weights": class_weights, "train_images": train_images}
    write_json(folder / "origin.json", session | came_from | {"resumed": []})


def append_resume(folder: Path, device: torch.device, processes: int) -> None:
    """Adds to origin.json that the run goes on: when, by which command, code and machine."""
    content = read_origin(folder)
    session = origin() | describe_machine(device, processes)
    write_json(
        folder / "origin.json", content | {"resumed": [*content.get("resumed", []), session]}
    )


def read_origin(folder: Path) -> dict:
    """What `write_origin` wrote; UserError where it is gone or no longer readable."""
    path = folder / "origin.json"
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the run's origin can't be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a {type(content).__name__}; its files are not those of a run")
    return content


def last_validation(run: Path, score: str) -> dict[str, str] | None:
    """The newest row of metrics.csv that has this score; None before the first validation."""
    path = run / "metrics.csv"
    rows = [row for row in read_metrics(path) if row.get(score)] if path.is_file() else []
    return rows[-1] if rows else None


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, without a last line that was cut short when its machine died."""
    text = path.read_text()
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
