"""Tables by command: a matrix of encoders, strides and seeds, trained alike and written down.

Every cell is an ordinary run in a folder of its own, so the table goes on where it stopped, runs
nothing twice, and each of its numbers can be looked at with the usual tools.
"""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from jsonargparse import Namespace

from segcoord.classification import Classification, create_classifier
from segcoord.config import ClassificationConfig, Config
from segcoord.console import clock, console, spelled
from segcoord.counts import giga_macs, parameters
from segcoord.data.imagefolder import find_folders
from segcoord.data.layouts import label_set
from segcoord.errors import UserError
from segcoord.files import atomic_write
from segcoord.launch import run_training
from segcoord.model import create_model
from segcoord.runs import last_validation
from segcoord.segmentation import Segmentation
from segcoord.settings import nearest, read_yaml, task_of

AnyConfig = Config | ClassificationConfig
Configure = Callable[[list[tuple[str, dict]]], tuple[Namespace, AnyConfig]]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        encoder: by its timm name.
        reduction: of its attention; None for its default.
        output_stride: of the segmentation model; None where the encoder is a classifier.
        published: the paper's score in percent, None where it gives none.
    """

    encoder: str
    reduction: int | None
    output_stride: int | None
    published: float | None

    @property
    def name(self) -> str:
        squeezed = f"_r{self.reduction}" if self.reduction else ""
        stride = f"_os{self.output_stride}" if self.output_stride else ""
        return f"{self.encoder}{squeezed}{stride}"

    def settings(self, seed: int) -> dict:
        """What the row sets, as a tree of settings."""
        model = {"encoder": self.encoder, "reduction": self.reduction}
        if self.output_stride:
            model["output_stride"] = self.output_stride
        return {"model": model, "train": {"seed": seed}}


@dataclass(frozen=True)
class Table:
    """A table's YAML file: title, task, rows, seeds, and settings from the weakest on."""

    path: Path
    title: str
    task: str
    rows: list[Row]
    seeds: list[int]
    layers: list[tuple[str, dict]]

    @property
    def score(self) -> str:
        """The column of metrics.csv that the table is about."""
        task = Segmentation if self.task == "segmentation" else Classification
        return task.columns[0]


def read_table(path: Path) -> Table:
    """Reads a table's file.

    Its keys: title; config, a training's YAML file relative to it; settings, what differs from
    that for every row; encoders, names or {encoder, reduction, published}; output_strides, [16]
    unless given; seeds, [0] unless given. `published` is a score in percent, or one for each
    output stride.

    Raises:
        UserError: no such file, an unknown or missing key, an empty or repeated row.
    """
    tree = read_yaml(path)
    known = ["title", "config", "settings", "encoders", "output_strides", "seeds"]
    for key in tree:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}{nearest(str(key), known)}")
    for key in ("title", "config", "encoders"):
        if not tree.get(key):
            raise UserError(f"{path}: lacks the key {key!r}; a table has {', '.join(known)}")
    config = Path(path.parent, tree["config"])
    layers = [(str(config), read_yaml(config)), (str(path), tree.get("settings") or {})]
    task = task_of(*layers[0])
    if task == "segmentation":
        strides = _integers(tree, "output_strides", [16], path)
    elif "output_strides" in tree:
        raise UserError(f"{path}: output_strides: a classifier has none; take the key out")
    else:
        strides = [None]
    rows = [_row(given, stride, path) for given in tree["encoders"] for stride in strides]
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: {name} is in it {names.count(name)} times")
    return Table(path, tree["title"], task, rows, _integers(tree, "seeds", [0], path), layers)


def _integers(tree: dict, key: str, default: list[int], path: Path) -> list[int]:
    values = tree.get(key, default)
    if not isinstance(values, list) or not values or not all(type(v) is int for v in values):
        raise UserError(f"{path}: {key}: found {values!r}, expected a list of integers")
    if len(set(values)) < len(values):
        raise UserError(f"{path}: {key}: {values} has the same one twice")
    return values


def _row(given: object, stride: int | None, path: Path) -> Row:
    given = {"encoder": given} if isinstance(given, str) else given
    known = ["encoder", "reduction", "published"]
    if not isinstance(given, dict) or not isinstance(given.get("encoder"), str):
        raise UserError(f"{path}: encoders: found {given!r}, expected a name or {{encoder: name}}")
    for key in given:
        if key not in known:
            raise UserError(f"{path}: encoders: unknown key {key!r}{nearest(str(key), known)}")
    published = given.get("published")
    if isinstance(published, dict):
        published = published.get(stride)
    return Row(given["encoder"], given.get("reduction"), stride, published)


def run_table(table: Table, configure: Configure) -> int:
    """Trains what is missing of a table and writes table.md and table.csv after every run.

    Args:
        table: from `read_table`.
        configure: turns layers of settings into arguments and a configuration, with the command
            line's on top.

    Returns:
        0; 130 if it was interrupted.
    """
    cells = [(row, seed) for row in table.rows for seed in table.seeds]
    configs = {}
    for row, seed in cells:
        args, configs[row, seed] = configure([*table.layers, (row.name, row.settings(seed))])
        _check_not_overridden(row, seed, configs[row, seed])
    out = Path(args.out or Path("runs", "tables", table.path.stem))
    result = _Result(table, out, configs)
    to_do = [cell for cell in cells if result.of(*cell) is None]
    console.print(f"{table.title}: {len(cells)} runs, {len(cells) - len(to_do)} done already")
    began = time.monotonic()
    for count, cell in enumerate(to_do):
        left = ""
        if count:
            seconds = (time.monotonic() - began) / count * (len(to_do) - count)
            left = f", about {clock(seconds)} left"
        folder = result.folder(*cell)
        console.print(f"\nrun {count + 1} of {len(to_do)}{left}: {folder.name}", style="bold")
        started = (folder / "last.ckpt").exists()
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


def _check_not_overridden(row: Row, seed: int, config: AnyConfig) -> None:
    found = {
        "--model.encoder": (config.model.encoder, row.encoder),
        "--model.reduction": (config.model.reduction, row.reduction),
        "--train.seed": (config.train.seed, seed),
    }
    if row.output_stride:
        found["--model.output_stride"] = (config.model.output_stride, row.output_stride)
    for option, (now, expected) in found.items():
        if now != expected:
            raise UserError(f"{option} {now}: that is what the table varies; change its file")


class _Result:
    """What a table's runs have come to so far."""

    def __init__(self, table: Table, out: Path, configs: dict[tuple[Row, int], AnyConfig]) -> None:
        self.table, self.out, self.configs = table, out, configs
        self.sizes = {row: _size(configs[row, table.seeds[0]]) for row in table.rows}

    def folder(self, row: Row, seed: int) -> Path:
        return self.out / f"{row.name}_seed{seed}"

    def of(self, row: Row, seed: int) -> dict[str, str] | None:
        """The last row of a run that has done all its steps; None where something is to do."""
        folder, config = self.folder(row, seed), self.configs[row, seed]
        if not (folder / "config.yaml").exists():
            return None
        then = yaml.safe_load((folder / "config.yaml").read_text())
        now = yaml.safe_load(config.to_yaml())
        for place in (then, now):  # neither changes a result
            place["data"].pop("workers")
            place["data"].pop("root")
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
        results = {seed: self.of(row, seed) for seed in self.table.seeds}
        done = {seed: result for seed, result in results.items() if result}
        scores = [100 * float(result[self.table.score]) for result in done.values()]
        origins = [json.loads((self.folder(row, s) / "origin.json").read_text()) for s in done]
        minutes = [float(result["seconds"]) / 60 for result in done.values()]
        size, macs = self.sizes[row]
        return {
            "encoder": row.encoder,
            "reduction": row.reduction or "",
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
        }

    def _markdown(self, lines: list[dict]) -> str:
        config, table = next(iter(self.configs.values())), self.table
        strides, published = (
            any(line[key] for line in lines) for key in ("output_stride", "published")
        )
        head = ["encoder", "r"] + ["stride"] * strides + ["parameters, M", "multiply-adds, G"]
        head += [f"{spelled(table.score)} %", "each seed"]
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
        started = getattr(config.model, "encoder_weights", None)
        text += [
            "",
            f"`segcoord table {table.path}`: {settings.max_steps} steps of {settings.batch_size} "
            f"crops of {crop}, {settings.optimizer}, lr {settings.lr:g}, from "
            f"{f'{started} weights' if started else 'random weights'}; scored on "
            f"{config.data.val_split} at the last step; ± is the standard deviation over seeds "
            f"{', '.join(map(str, table.seeds))}; multiply-adds of one crop. "
            f"{torch.get_num_threads()} threads, torch {torch.__version__}, commit "
            f"{', '.join(sorted({line['commit'] for line in lines} - {''})) or 'unknown'}.",
            "",
        ]
        return "\n".join(text)


def _size(config: AnyConfig) -> tuple[int, float]:
    """Parameters, and multiply-adds in 1e9 of one training crop."""
    model, size = config.model, config.data.crop_size
    if isinstance(config, ClassificationConfig):
        names = [str(n) for n in range(len(find_folders(config.data)[0].classes))]
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
    return parameters(net), giga_macs(net, *size)


def _bar(cells: list[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
