"""Tables by command: a matrix of encoders, strides and seeds, trained alike and written down.

Every cell is an ordinary run in a folder of its own, so the table goes on where it stopped, runs
nothing twice, and each of its numbers can be looked at with the usual tools.
"""

from __future__ import annotations

import csv
import functools
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from jsonargparse import Namespace
from torchvision.datasets.folder import find_classes

from segcoord.config.loading import read_yaml
from segcoord.config.schema import ClassificationConfig, Config
from segcoord.data.layouts import label_set
from segcoord.models.classifier import create_classifier
from segcoord.models.factory import create_model
from segcoord.models.profile import count_parameters, giga_macs
from segcoord.training.launch import run_training
from segcoord.training.run_dir import last_validation
from segcoord.training.table_config import Row, Table
from segcoord.utils.console import console, format_duration, score_title
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write

AnyConfig = Config | ClassificationConfig
Configure = Callable[[list[tuple[str, dict]]], tuple[Namespace, AnyConfig]]


def run_table(table: Table, configure: Configure, command: str) -> int:
    """Trains what is missing of a table and writes table.md and table.csv after every run.

    Args:
        table: from `read_table`.
        configure: turns layers of settings into arguments and a configuration, with the command
            line's on top.
        command: as it was given, for the table's foot.

    Returns:
        0; 130 if it was interrupted.
    """
    cells = [(row, seed) for row in table.rows for seed in table.seeds]
    configs = {}
    for row, seed in cells:
        args, configs[row, seed] = configure([*table.layers, (row.name, row.settings(seed))])
        _check_not_overridden(row, seed, configs[row, seed])
    out = Path(args.out or Path("runs", "tables", table.path.stem))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: can't be made ({error.strerror}); see --out") from error
    result = _Result(table, out, configs, command)
    to_do = [cell for cell in cells if result.of(*cell) is None]
    console.print(f"{table.title}: {len(cells)} runs, {len(cells) - len(to_do)} done already")
    began = time.monotonic()
    for count, cell in enumerate(to_do):
        left = ""
        if count:
            seconds = (time.monotonic() - began) / count * (len(to_do) - count)
            left = f", about {format_duration(seconds)} left"
        folder = result.folder(*cell)
        console.print(f"\nrun {count + 1} of {len(to_do)}{left}: {folder.name}", style="bold")
        started = any((folder / name).exists() for name in ("last.ckpt", "previous.ckpt"))
        if folder.is_dir() and not started:
            _clear_start(folder)
        code = run_training(
            configs[cell],
            folder.name,
            run=None if started else str(folder),
            resume=str(folder) if started else None,
            offline=args.offline,
        )
        if code:
            console.print(f"Or go on with the whole table by the same command again: {out}")
            return code
        result.write()
    result.write()
    console.print(f"\n{(out / 'table.md').read_text()}\n{out / 'table.md'}\n{out / 'table.csv'}")
    return 0


def _clear_start(folder: Path) -> None:
    """Removes what a run left that was killed before its first checkpoint, and nothing else."""
    of_a_start = {"config.yaml", "origin.json", "log.txt", "metrics.csv", "tensorboard"}
    found = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if found - of_a_start:
        raise UserError(
            f"{folder}: has no last.ckpt to go on from, but {', '.join(sorted(found))}; "
            "move it away, or name another folder with --out"
        )
    shutil.rmtree(folder)


def _check_not_overridden(row: Row, seed: int, config: AnyConfig) -> None:
    found = {
        "--model.encoder": (config.model.encoder, row.encoder),
        "--train.seed": (config.train.seed, seed),
    }
    if row.reduction:
        found["--model.reduction"] = (config.model.reduction, row.reduction)
    if row.output_stride:
        found["--model.output_stride"] = (config.model.output_stride, row.output_stride)
    if config.train.patience is not None:
        raise UserError("--train.patience: a table's runs all take their max_steps; leave it null")
    for option, (now, expected) in found.items():
        if now != expected:
            raise UserError(f"{option} {now}: that is what the table varies; change its file")


class _Result:
    """What a table's runs have come to so far."""

    def __init__(
        self, table: Table, out: Path, configs: dict[tuple[Row, int], AnyConfig], command: str
    ) -> None:
        self.table, self.out, self.configs, self.command = table, out, configs, command
        self.sizes = {row: _size(configs[row, table.seeds[0]]) for row in table.rows}

    def folder(self, row: Row, seed: int) -> Path:
        return self.out / f"{row.name}_seed{seed}"

    def of(self, row: Row, seed: int) -> dict[str, str] | None:
        """The last row of a run that has done all its steps; None where something is to do."""
        folder, config = self.folder(row, seed), self.configs[row, seed]
        if not (folder / "config.yaml").exists():
            return None
        then = read_yaml(folder / "config.yaml")
        now = yaml.safe_load(config.to_yaml())
        for place in (then, now):  # neither changes a result
            for key in ("workers", "root", "pack"):
                place.get("data", {}).pop(key, None)
        if then != now:
            raise UserError(
                f"{folder}: was trained with other settings than the table asks for now; "
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
        origins = [json.loads((self.folder(row, s) / "origin.json").read_text()) for s in done]
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
        config, table = next(iter(self.configs.values())), self.table
        strides, published = (
            any(line[key] for line in lines) for key in ("output_stride", "published")
        )
        head = ["encoder", "r"] + ["stride"] * strides + ["parameters, M", "multiply-adds, G"]
        head += [f"{score_title(table.score)} %", "each seed"]
        head += ["published %"] * published + ["minutes a run"]
        text = [f"**{table.title}**", "", _bar(head), _bar(["---"] * len(head))]
        for line in lines:
            spread = f" ± {line['spread']}" if line["spread"] else ""
            row = [line["encoder"], line["reduction"]] + [line["output_stride"]] * strides
            row += [f"{line['parameters'] / 1e6:.2f}", f"{float(line['giga_macs']):.2f}"]
            row += [f"{line[table.score]}{spread}", line["scores"]]
            text.append(_bar(row + [line["published"]] * published + [line["minutes"]]))
        settings, size = config.train, config.data.crop_size
        crop = "x".join(str(n) for n in ((size, size) if isinstance(size, int) else size[::-1]))
        weights = getattr(config.model, "encoder_weights", None)
        decoder = getattr(config.model, "decoder", "classifier")

        def all_of(key: str) -> str:
            return ", ".join(sorted({line[key] for line in lines} - {""})) or "unknown"

        text += [
            "",
            f"`{self.command}`: {decoder}, {settings.max_steps} steps of {settings.batch_size} "
            f"crops of {crop}, {settings.optimizer}, lr {settings.lr:g}, from "
            f"{weights or 'random'} weights; scored on "
            f"{config.data.val_split} at the last step; ± is the standard deviation over seeds "
            f"{', '.join(map(str, table.seeds))}; multiply-adds of one crop. Threads: "
            f"{all_of('threads')}; torch {all_of('torch')}; commit {all_of('commit')}.",
            "",
        ]
        return "\n".join(text)


def _size(config: AnyConfig) -> tuple[int, float]:
    """Parameters, and multiply-adds in 1e9 of one training crop."""
    model, size = config.model, config.data.crop_size
    if isinstance(config, ClassificationConfig):
        names = _classes(config.data.root, config.data.train_split)
        net = create_classifier(model.encoder, names, model.reduction)
        size = (size, size)
    else:
        net = create_model(
            model.encoder,
            len(label_set(config.data)),
            model.output_stride,
            model.atrous_rates,
            decoder=model.decoder,
            reduction=model.reduction,
        )
    return count_parameters(net), giga_macs(net, *size)


@functools.cache  # of a large folder it takes long, and is the same for every row
def _classes(root: str, split: str) -> list[str]:
    return find_classes(Path(root, split))[0]


def _bar(cells: list[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
