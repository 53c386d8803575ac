"""Train the rows of a table with the same settings and write their scores.

Every cell, a row with one seed, is an ordinary run in a folder of its own. A table therefore
resumes where it stopped and trains nothing twice.
"""

import csv
import functools
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from jsonargparse import Namespace
from torchvision.datasets.folder import find_classes

from segcoord.config.base import split_parts
from segcoord.config.loading import read_yaml
from segcoord.config.schema import ClassificationConfig
from segcoord.data.layouts import label_set
from segcoord.models.classifier import create_classifier
from segcoord.models.factory import create_model
from segcoord.models.profile import count_parameters, giga_macs
from segcoord.training.launch import AnyConfig, run_training
from segcoord.training.resume import flat_settings
from segcoord.training.run_dir import last_validation, read_origin
from segcoord.training.table_config import Row, Table
from segcoord.utils.console import console, format_duration, score_title
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write

Configure = Callable[[list[tuple[str, dict]]], tuple[Namespace, AnyConfig]]


def run_table(table: Table, configure: Configure, command: str) -> int:
    """Train the missing runs of a table; writes table.md and table.csv after every run.

    Args:
        table: table from `read_table`.
        configure: turns layers of settings, with the command line on top, into arguments and a
            configuration.
        command: the command line, for the foot of the table.

    Returns:
        The exit code: 0, or that of the run that was interrupted.
    """
    cells = [(row, seed) for row in table.rows for seed in table.seeds]
    configs = {}
    for row, seed in cells:
        args, configs[row, seed] = configure([*table.layers, (row.name, row.settings(seed))])
        _require_not_overridden(row, seed, configs[row, seed])
    out = Path(args.out or Path("runs", "tables", table.path.stem))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: can't be created ({error.strerror}); see --out") from error
    results = _Results(table, out, configs, command)
    to_do = [cell for cell in cells if results.of(*cell) is None]
    console.print(f"{table.title}: {len(cells)} runs, {len(cells) - len(to_do)} done already")
    began = time.monotonic()
    for count, cell in enumerate(to_do):
        left = ""
        if count:
            seconds = (time.monotonic() - began) / count * (len(to_do) - count)
            left = f", about {format_duration(seconds)} left"
        folder = results.folder(*cell)
        console.print(f"\nrun {count + 1} of {len(to_do)}{left}: {folder.name}", style="bold")
        started = any((folder / name).exists() for name in ("last.ckpt", "previous.ckpt"))
        if folder.is_dir() and not started:
            _remove_unstarted_run(folder)
        code = run_training(
            configs[cell],
            folder.name,
            run=None if started else str(folder),
            resume=str(folder) if started else None,
            offline=args.offline,
        )
        if code:
            console.print(f"To resume the whole table, repeat its command: {out}")
            return code
        results.write()
    results.write()
    console.print(f"\n{(out / 'table.md').read_text()}\n{out / 'table.md'}\n{out / 'table.csv'}")
    return 0


def _remove_unstarted_run(folder: Path) -> None:
    """Remove a run that was killed before its first checkpoint; UserError if it has more files."""
    files_of_a_start = {"config.yaml", "origin.json", "log.txt", "metrics.csv", "tensorboard"}
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if names - files_of_a_start:
        raise UserError(
            f"{folder}: has no last.ckpt to resume from, but {', '.join(sorted(names))}; "
            "move it away, or name another folder with --out"
        )
    shutil.rmtree(folder)


def _require_not_overridden(row: Row, seed: int, config: AnyConfig) -> None:
    """Raise UserError if an option sets what the table varies."""
    if config.train.epochs is not None:
        raise UserError("--train.epochs: a table compares runs of equal steps; set train.max_steps")
    if config.train.patience is not None:
        raise UserError("--train.patience: every run of a table takes max_steps; leave it null")
    for group, settings in row.settings(seed).items():
        for key, expected in settings.items():
            value = getattr(getattr(config, group), key)
            if value != expected:
                raise UserError(
                    f"--{group}.{key} {value}: the table varies this setting; change its file"
                )


class _Results:
    """The finished runs of a table, as CSV and Markdown."""

    def __init__(
        self, table: Table, out: Path, configs: dict[tuple[Row, int], AnyConfig], command: str
    ) -> None:
        self.table, self.out, self.configs, self.command = table, out, configs, command
        self.sizes = {row: _count_model(configs[row, table.seeds[0]]) for row in table.rows}

    def folder(self, row: Row, seed: int) -> Path:
        return self.out / f"{row.name}_seed{seed}"

    def of(self, row: Row, seed: int) -> dict[str, str] | None:
        """The last validation of a finished run; None for a missing or unfinished one."""
        folder, config = self.folder(row, seed), self.configs[row, seed]
        if not (folder / "config.yaml").exists():
            return None
        trained = flat_settings(config, read_yaml(folder / "config.yaml"))
        expected = flat_settings(config)
        for settings in (trained, expected):
            for key in ("workers", "root", "pack"):  # these don't change a result
                settings.pop(f"data.{key}", None)
        if trained != expected:
            raise UserError(
                f"{folder}: trained with other settings than the table has now; "
                "name another folder with --out, or remove this one"
            )
        last = last_validation(folder, self.table.score)
        return last if last and int(last["step"]) == config.train.max_steps else None

    def write(self) -> None:
        lines = [self._line(row) for row in self.table.rows]
        path = self.out / "table.csv"
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
        with atomic_write(self.out / "table.md") as temporary:
            temporary.write_text(self._markdown(lines))

    def _line(self, row: Row) -> dict[str, object]:
        config = self.configs[row, self.table.seeds[0]]
        results = {seed: self.of(row, seed) for seed in self.table.seeds}
        done = {seed: result for seed, result in results.items() if result}
        scores = [100 * float(result[self.table.score]) for result in done.values()]
        origins = [read_origin(self.folder(row, s)) for s in done]
        minutes = [float(result["seconds"]) / 60 for result in done.values()]
        size, macs = self.sizes[row]
        return {
            "encoder": row.encoder,
            "reduction": config.model.reduction or "",
            "output_stride": row.output_stride or "",
            "parameters": size,
            "giga_macs": f"{macs:.4f}",
            "runs": len(done),
            self.table.score: f"{statistics.mean(scores):.2f}" if scores else "",
            "spread": f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else "",
            "scores": " ".join(f"{score:.2f}" for score in scores),
            "published": row.published or "",
            "minutes": f"{statistics.mean(minutes):.1f}" if minutes else "",
            "commit": " ".join(sorted({str(origin["commit"]) for origin in origins})),
            "threads": " ".join(sorted({str(origin.get("threads", "")) for origin in origins})),
            "torch": " ".join(sorted({origin["versions"]["torch"] for origin in origins})),
        }

    def _markdown(self, lines: list[dict]) -> str:
        score = self.table.score
        has_stride, has_published = (
            any(line[key] for line in lines) for key in ("output_stride", "published")
        )
        header = ["encoder", "r"] + ["stride"] * has_stride + ["parameters, M", "multiply-adds, G"]
        header += [f"{score_title(score)} %", "each seed"]
        header += ["published %"] * has_published + ["minutes a run"]
        text = [f"**{self.table.title}**", "", _bar(header), _bar(["---"] * len(header))]
        for line in lines:
            spread = f" ± {line['spread']}" if line["spread"] else ""
            row = [line["encoder"], line["reduction"]] + [line["output_stride"]] * has_stride
            row += [f"{line['parameters'] / 1e6:.2f}", f"{float(line['giga_macs']):.2f}"]
            row += [f"{line[score]}{spread}", line["scores"]]
            text.append(_bar(row + [line["published"]] * has_published + [line["minutes"]]))
        return "\n".join([*text, "", self._footnote(lines), ""])

    def _footnote(self, lines: list[dict]) -> str:
        config = next(iter(self.configs.values()))
        settings = config.train
        height, width = config.data.crop
        weights = getattr(config.model, "encoder_weights", None)
        decoder = getattr(config.model, "decoder", "classifier")

        def distinct(key: str) -> str:
            return ", ".join(sorted({line[key] for line in lines} - {""})) or "unknown"

        return (
            f"`{self.command}`: {decoder}, {settings.max_steps} steps of {settings.batch_size} "
            f"crops of {width}x{height}, {settings.optimizer}, lr {settings.lr:g}, from "
            f"{weights or 'random'} weights; scored on "
            f"{config.data.val_split} at the last step; ± is the standard deviation over seeds "
            f"{', '.join(map(str, self.table.seeds))}; multiply-adds of one crop. Threads: "
            f"{distinct('threads')}; torch {distinct('torch')}; commit {distinct('commit')}."
        )


def _count_model(config: AnyConfig) -> tuple[int, float]:
    """Number of parameters, and multiply-adds in 1e9 of one training crop."""
    settings = asdict(config.model)
    if isinstance(config, ClassificationConfig):
        names = _classes(config.data.root, config.data.train_split)
        net = create_classifier(classes=names, **settings)
    else:
        settings["encoder_weights"] = None
        net = create_model(num_classes=len(label_set(config.data)), **settings)
    return count_parameters(net), giga_macs(net, *config.data.crop)


@functools.cache  # slow for a large folder, and the same for every row
def _classes(root: str, split: str) -> list[str]:
    return find_classes(Path(root, split_parts(split)[0]))[0]


def _bar(cells: list[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
