"""The list of runs below a folder with their scores, read from their files."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Column, Table

from segcoord.config.loading import read_yaml, task_of
from segcoord.config.schema import CONFIGS
from segcoord.training.run_dir import read_metrics, read_origin
from segcoord.utils.console import console, format_duration, score_title
from segcoord.utils.errors import UserError
from segcoord.utils.files import write_json

FILES = ("config.yaml", "origin.json", "metrics.csv")  # a folder with two of these is a run
TABLE_WIDTH = 100  # characters


@dataclass
class RunSummary:
    """Progress and scores of a run.

    Args:
        folder: the run folder.
        task: segmentation or classification.
        model: encoder, and for segmentation decoder and output stride.
        steps, max_steps: steps done and planned.
        score: the column of metrics.csv that selects best.ckpt.
        best, best_step: of all validations; None before the first.
        last: score of the latest validation.
        seconds: training time.
        date: start of the run, ISO 8601 in UTC.
        commit: code version at the start; None for an installed package.
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
    """Find the runs in a folder and below, best first, and the errors of unreadable ones.

    Raises:
        UserError: no such folder, or no run in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder, expected a folder of runs")
    runs, broken = [], []
    for folder, subfolders, files in os.walk(root):
        if len({*FILES} & {*files}) < 2:
            continue
        subfolders.clear()  # loggers keep folders inside that look like runs
        try:
            runs.append(_summarize(Path(folder)))
        except UserError as error:
            broken.append(error)
    if not runs and not broken:
        raise UserError(
            f"{root}: no run in it or below; a run is a folder with {', '.join(FILES[:-1])} "
            f"and {FILES[-1]}, written by train.py"
        )
    runs.sort(key=lambda run: (run.task, run.best is None, -(run.best or 0), run.folder))
    return runs, sorted(broken, key=str)


def _summarize(folder: Path) -> RunSummary:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"it has no {' and no '.join(missing)}", path=folder)
    config_file = folder / "config.yaml"
    config = read_yaml(config_file)
    task = task_of(str(config_file), config)
    score = CONFIGS[task].headline
    origin = read_origin(folder)
    try:
        rows = read_metrics(folder / "metrics.csv")
        scores = [(float(row[score]), int(row["step"])) for row in rows if row[score]]
        # The first of equal scores, as in training.
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
        problem = f"{type(error).__name__} {error}"
        raise UserError(f"its files are not those of a run ({problem})", path=folder) from error


def list_runs(root: Path, json_file: str | None) -> int:
    """Print the runs in a folder and below, and write them to a JSON file if named.

    Returns:
        The exit code: 0, or 1 if a run can't be read.
    """
    runs, broken = find_runs(root)
    for task in dict.fromkeys(run.task for run in runs):
        console.print(_table([run for run in runs if run.task == task], root), width=TABLE_WIDTH)
        console.print()
    for error in broken:
        console.print(f"can't be read: {error}", style="red")
    if json_file:
        content = {"runs": [asdict(run) for run in runs], "broken": [str(e) for e in broken]}
        write_json(json_file, content)
        console.print(json_file)
    return int(bool(broken))


def _table(runs: list[RunSummary], root: Path) -> Table:
    """Two lines per run, to fit into TABLE_WIDTH."""
    first = (Column("run", overflow="fold"), Column("model", overflow="fold", min_width=20))
    heads = ("steps", f"best {score_title(runs[0].score)} %", "last", "time")
    numbers = (Column(head, justify="right", no_wrap=True) for head in heads)
    columns = (*first, *numbers, Column("begun", no_wrap=True))
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
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
