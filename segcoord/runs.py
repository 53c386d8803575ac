"""The folder of a run: where it lies, its metrics.csv, its checkpoints.

config.yaml     every setting, resolved
metrics.csv     a row every few steps and for each validation
tensorboard/    the same numbers
best.ckpt       the weights with the best validation mIoU
last.ckpt       the newest weights with all that is needed to go on
"""

from __future__ import annotations

import csv
from pathlib import Path

from segcoord.errors import UserError
from segcoord.files import atomic_write

COLUMNS = ["step", "epoch", "loss", "lr", "miou", "pixel_accuracy", "mean_accuracy", "seconds"]


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
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder}: exists and is not empty. Go on with it by --resume {folder}, "
            "or name another folder with --run."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: can't be made ({error.strerror}); see --run") from error
    return folder


class MetricsFile:
    """metrics.csv, a row at a time; a run that goes on first drops what came after its state.

    Args:
        path: of the file.
        step: the state's step.
        validated: the state's last validation.
    """

    def __init__(self, path: Path, step: int, validated: int) -> None:
        self.path = path
        kept = []
        if path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    last = validated if row["miou"] else step
                    # A machine that died can leave a line cut short; it came after the state.
                    if row["step"].isdigit() and int(row["step"]) <= last:
                        kept.append(row)
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)

    def add(self, row: dict[str, float]) -> None:
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow(row)
