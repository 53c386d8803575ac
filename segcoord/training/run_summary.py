"""All runs below a folder with what they have reached, read from their files alone."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from segcoord.config.loading import read_yaml, task_of
from segcoord.config.schema import CONFIGS
from segcoord.training.run_dir import read_metrics, read_origin
from segcoord.utils.console import console, format_duration, score_title
from segcoord.utils.errors import UserError
from segcoord.utils.files import write_json

FILES = ("config.yaml", "origin.json", "metrics.csv")  # two of these make a folder a run's
WIDTH = 100  # of the table, in characters


@dataclass
class RunSummary:
    """What a run has reached.

    Args:
        folder: of the run.
        task: segmentation or classification.
        model: encoder, and with segmentation decoder and output stride.
        steps, max_steps: done, and to be done.
        score: the column of metrics.csv that decides about best.ckpt.
        best, best_step: of all validations; None before the first.
        last: of the newest validation.
        seconds: spent in training.
        date: at which it began, ISO 8601 in UTC.
        commit: of the code that it began with; None where that was an installed package.
    """

    folder: str
    task: str
    model: str
    steps: int
    max_steps: int
    score: str
    best: float | None
    best_step: int | None
    last: float | None
    seconds: float
    date: str
    commit: str | None


def find_runs(root: Path) -> tuple[list[RunSummary], list[UserError]]:
    """The runs in a folder and below, the best first, and why others can't be read.

    Raises:
        UserError: no such folder, or nothing of a run in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder, expected one that holds runs")
    runs, broken = [], []
    for place, folders, files in os.walk(root):
        if len({*FILES} & {*files}) < 2:
            continue
        folders.clear()  # what loggers keep inside looks like runs too
        try:
            runs.append(_summary(Path(place)))
        except UserError as error:
            broken.append(error)
    if not runs and not broken:
        raise UserError(
            f"{root}: no run in it or below; a run is a folder with {', '.join(FILES[:-1])} "
            f"and {FILES[-1]}, as train.py makes them"
        )
    runs.sort(key=lambda run: (run.task, run.best is None, -(run.best or 0), run.folder))
    return runs, sorted(broken, key=str)


def _summary(folder: Path) -> RunSummary:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"it has no {' and no '.join(missing)}", path=folder)
    where = folder / "config.yaml"
    config = read_yaml(where)
    task = task_of(str(where), config)
    score = CONFIGS[task].headline
    origin = read_origin(folder)
    try:
        rows = read_metrics(folder / "metrics.csv")
        scores = [(float(row[score]), int(row["step"])) for row in rows if row[score]]
        # As training does, the first of equal ones.
        best, best_step = max(scores, key=lambda pair: (pair[0], -pair[1]), default=(None, None))
        model = config["model"]
        parts = [model.get(key) for key in ("encoder", "decoder", "output_stride")]
        return RunSummary(
            str(folder),
            task,
            " ".join(str(part) for part in parts if part is not None),
            int(rows[-1]["step"]) if rows else 0,
            int(config["train"]["max_steps"]),
            score,
            best,
            best_step,
            scores[-1][0] if scores else None,
            float(rows[-1]["seconds"]) if rows else 0.0,
            origin["date"],
            origin["commit"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        told = f"{type(error).__name__} {error}"
        raise UserError(f"its files are not those of a run ({told})", path=folder) from error


def list_runs(root: Path, json_file: str | None) -> int:
    """Prints the runs in a folder and below, and writes them as JSON where a file is named.

    Returns:
        0; 1 where one can't be read.
    """
    runs, broken = find_runs(root)
    for task in dict.fromkeys(run.task for run in runs):
        console.print(_table([run for run in runs if run.task == task], root), width=WIDTH)
        console.print()
    for error in broken:
        console.print(f"can't be read: {error}", style="red")
    if json_file:
        content = {"runs": [asdict(run) for run in runs], "broken": [str(e) for e in broken]}
        write_json(json_file, content)
        console.print(json_file)
    return int(bool(broken))


def _table(runs: list[RunSummary], root: Path) -> Table:
    """Two lines for each run, which keeps it within WIDTH."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("run", overflow="fold")
    table.add_column("model", overflow="fold", min_width=20)
    score = f"{score_title(runs[0].score)} %"
    for head in ("steps", f"best {score}", "last", "time"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("begun", no_wrap=True)
    for run in runs:
        encoder, _, rest = run.model.partition(" ")
        table.add_row(
            str(Path(run.folder).relative_to(root)),
            f"{encoder}\n{rest}" if rest else encoder,
            f"{run.steps}\nof {run.max_steps}",
            "-" if run.best is None else f"{100 * run.best:.2f}\nat {run.best_step}",
            "-" if run.last is None else f"{100 * run.last:.2f}",
            format_duration(run.seconds),
            f"{run.date[:10]}\n{run.commit or ''}",
        )
    return table
