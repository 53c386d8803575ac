"""The folder of a run: its name, its lock, origin.json and metrics.csv.

config.yaml     every setting, resolved
origin.json     code, versions, device, command and initial weights, of the start and each resume
log.txt         the console output
metrics.csv     a row every few steps and for each validation
plot.png        the curves of metrics.csv
predictions/    validation images with ground truth and prediction, for each validation
tensorboard/    the metrics and the predictions
.lock           held while a process trains in the folder
best.ckpt       the weights with the best validation score
last.ckpt       the newest weights with all state needed to resume
previous.ckpt   the state before it
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
    """Create the folder of a new run: `run`, or runs/CONFIG-NAME/NUMBER.

    Raises:
        UserError: the folder is not empty or can't be created.
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
        raise UserError(f"{folder}: can't be created ({error.strerror}); see --run") from error
    return folder


def require_new_folder(folder: Path) -> None:
    """Raise UserError if the folder of a new run is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder}: exists and is not empty. Resume it with --resume {folder}, or name another "
            "folder with --run."
        )


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a run folder; the lock ends with this process.

    This is a POSIX lock, not flock: DataLoader workers that briefly outlive a killed process would
    still hold a flock.

    Raises:
        UserError: another process trains in the folder, or the folder is not writable.
    """
    try:
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise UserError(f"{folder}: not writable ({error.strerror})") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder}: another process trains in it. Wait for it or stop it, or start another "
                "run with --run."
            ) from error
        except OSError as error:  # a file system without locks
            console.print(
                f"{folder}: its file system has no locks ({error.strerror}); make sure that no "
                "other process trains in it.",
                style="yellow",
            )
        yield


def write_origin(
    folder: Path,
    device: torch.device,
    processes: int,
    load_report: LoadReport | None,
    inputs: dict[str, object],
) -> None:
    """Write origin.json: code, versions, machine, initial weights, and `resume.run_inputs`."""
    weights = None
    if load_report is not None:
        weights = {"from": load_report.source, "loaded": len(load_report.matched)}
        weights["new"] = load_report.new
        weights |= {"identity": load_report.identity, "mean_gates": load_report.mean_gates}
    session = origin() | describe_machine(device, processes)
    content = session | {"weights": weights} | inputs | {"resumed": []}
    write_json(folder / "origin.json", content)


def append_resume(folder: Path, device: torch.device, processes: int) -> None:
    """Add a resumed session to origin.json: date, command, code and machine."""
    content = read_origin(folder)
    session = origin() | describe_machine(device, processes)
    resumed = [*content.get("resumed", []), session]
    write_json(folder / "origin.json", content | {"resumed": resumed})


def read_origin(folder: Path) -> dict:
    """Read origin.json; UserError if it is missing or unreadable."""
    path = folder / "origin.json"
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: found a {type(content).__name__}; not the file of a run")
    return content


def last_validation(run: Path, score: str) -> dict[str, str] | None:
    """The latest row of metrics.csv with this score; None before the first validation."""
    path = run / "metrics.csv"
    rows = [row for row in read_metrics(path) if row.get(score)] if path.is_file() else []
    return rows[-1] if rows else None


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, without a last line cut short by a power failure."""
    text = path.read_text()
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
