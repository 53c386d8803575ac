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

from segcoord.commands import giga_macs, run_training
from segcoord.config import Config, nearest, read_yaml
from segcoord.console import clock, console
from segcoord.data.layouts import label_set
from segcoord.errors import UserError
from segcoord.files import atomic_write
from segcoord.model import create_model
from segcoord.runs import last_validation

Configure = Callable[[list[tuple[str, dict]]], Config]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        encoder: by its timm name.
        reduction: of its attention; None for its default.
        output_stride: of the segmentation model.
        published: the paper's score in percent, None where it gives none.
    """

    encoder: str
    reduction: int | None
    output_stride: int
    published: float | None

    @property
    def name(self) -> str:
        squeezed = f"_r{self.reduction}" if self.reduction else ""
        return f"{self.encoder}{squeezed}_os{self.output_stride}"

    def settings(self, seed: int) -> dict:
        model = {
            "encoder": self.encoder,
            "reduction": self.reduction,
            "output_stride": self.output_stride,
        }
        return {"model": model, "train": {"seed": seed}}


@dataclass(frozen=True)
class Table:
    """What a table's YAML file says: title, rows, seeds, and settings from the weakest on."""

    title: str
    rows: list[Row]
    seeds: list[int]
    layers: list[tuple[str, dict]]


def read_table(path: Path) -> Table:
    """Reads a table's file.

    Its keys: title; config, a training's YAML file relative to it; settings, what differs from
    that for every row; encoders, names or {encoder, reduction, published}; output_strides, [16]
    unless given; seeds, [0] unless given.

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
    strides = _integers(tree, "output_strides", [16], path)
    rows = [_row(given, stride, path) for given in tree["encoders"] for stride in strides]
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: {name} is in it {names.count(name)} times")
    config = Path(path.parent, tree["config"])
    layers = [(str(config), read_yaml(config)), (str(path), tree.get("settings") or {})]
    return Table(tree["title"], rows, _integers(tree, "seeds", [0], path), layers)


def _integers(tree: dict, key: str, default: list[int], path: Path) -> list[int]:
    values = tree.get(key, default)
    if not isinstance(values, list) or not values or not all(type(v) is int for v in values):
        raise UserError(f"{path}: {key}: found {values!r}, expected a list of integers")
    if len(set(values)) < len(values):
        raise UserError(f"{path}: {key}: {values} has the same one twice")
    return values


def _row(given: object, stride: int, path: Path) -> Row:
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


def run_table(path: Path, out: Path, configure: Configure) -> int:
    """Trains what is missing of a table and writes table.md and table.csv after every run.

    Args:
        path: of the table's file.
        out: folder of its runs and results.
        configure: turns layers of settings into a configuration, with the command line's on top.

    Returns:
        0; 130 if it was interrupted.
    """
    table = read_table(path)
    cells = [(row, seed) for row in table.rows for seed in table.seeds]
    configs = {
        (row, seed): configure([*table.layers, (row.name, row.settings(seed))])
        for row, seed in cells
    }
    for (row, seed), config in configs.items():
        _check_not_overridden(row, seed, config)
    to_do = [cell for cell in cells if _finished(_folder(out, *cell), configs[cell]) is None]
    console.print(
        f"{table.title}: {len(cells)} runs, {len(cells) - len(to_do)} of them done already"
    )
    began = time.monotonic()
    for count, cell in enumerate(to_do):
        left = ""
        if count:
            left = (
                f", about {clock((time.monotonic() - began) / count * (len(to_do) - count))} left"
            )
        folder = _folder(out, *cell)
        console.print(f"\nrun {count + 1} of {len(to_do)}{left}: {folder.name}")
        started = (folder / "last.ckpt").exists()
        code = run_training(
            configs[cell],
            folder.name,
            None if started else str(folder),
            str(folder) if started else None,
            None,
            None,
        )
        if code:
            console.print(f"The table goes on when the same command is given again. {out}")
            return code
        _write(table, path, out, configs)
    _write(table, path, out, configs)
    console.print(f"\n{(out / 'table.md').read_text()}\n{out / 'table.md'}\n{out / 'table.csv'}")
    return 0


def _folder(out: Path, row: Row, seed: int) -> Path:
    return out / f"{row.name}_seed{seed}"


def _check_not_overridden(row: Row, seed: int, config: Config) -> None:
    found = {
        "--model.encoder": (config.model.encoder, row.encoder),
        "--model.reduction": (config.model.reduction, row.reduction),
        "--model.output_stride": (config.model.output_stride, row.output_stride),
        "--train.seed": (config.train.seed, seed),
    }
    for option, (now, expected) in found.items():
        if now != expected:
            raise UserError(f"{option} {now}: that is what the table varies; change its file")


def _finished(folder: Path, config: Config) -> dict[str, str] | None:
    """The last row of a run that has done all its steps; None where something is left to do."""
    if not (folder / "config.yaml").exists():
        return None
    then, now = (
        yaml.safe_load((folder / "config.yaml").read_text()),
        yaml.safe_load(config.to_yaml()),
    )
    for place in (then, now):
        place["data"].pop("workers")
        place["data"].pop("root")
    if then != now:
        raise UserError(
            f"{folder}: was trained with other settings than the table asks for now; "
            "name another folder with --out, or remove this one"
        )
    row = last_validation(folder)
    return row if row and int(row["step"]) == config.train.max_steps else None


def _write(table: Table, path: Path, out: Path, configs: dict) -> None:
    lines = [_line(table, out, row, configs) for row in table.rows]
    with atomic_write(out / "table.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    with atomic_write(out / "table.md") as temporary:
        temporary.write_text(_markdown(table, path, lines, next(iter(configs.values()))))


def _line(table: Table, out: Path, row: Row, configs: dict) -> dict[str, object]:
    config = configs[row, table.seeds[0]]
    model = create_model(
        row.encoder,
        len(label_set(config.data)),
        row.output_stride,
        config.model.atrous_rates,
        reduction=row.reduction,
    )
    results = [_finished(_folder(out, row, seed), configs[row, seed]) for seed in table.seeds]
    done = [result for result in results if result]
    scores = [100 * float(result["miou"]) for result in done]
    commits = {
        json.loads((_folder(out, row, seed) / "origin.json").read_text())["commit"]
        for seed, result in zip(table.seeds, results)
        if result
    }
    return {
        "encoder": row.encoder,
        "reduction": row.reduction or "",
        "output_stride": row.output_stride,
        "parameters": sum(p.numel() for p in model.parameters()),
        "giga_macs": round(giga_macs(model, *config.data.crop_size), 4),
        "runs": len(done),
        "miou": f"{statistics.mean(scores):.2f}" if scores else "",
        "spread": f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else "",
        "scores": " ".join(f"{score:.2f}" for score in scores),
        "published": row.published or "",
        "minutes": f"{statistics.mean(float(d['seconds']) for d in done) / 60:.1f}" if done else "",
        "commit": " ".join(sorted(str(commit) for commit in commits)),
    }


def _markdown(table: Table, path: Path, lines: list[dict], config: Config) -> str:
    height, width = config.data.crop_size
    published = any(line["published"] for line in lines)
    head = ["encoder", "r", "stride", "parameters, M", "multiply-adds, G", "mIoU %", "each seed"]
    head += ["published %"] * published + ["minutes a run"]
    text = [f"**{table.title}**", "", _bar(head), _bar(["---"] * len(head))]
    for line in lines:
        spread = f" ± {line['spread']}" if line["spread"] else ""
        row = [line["encoder"], line["reduction"], line["output_stride"]]
        row += [f"{line['parameters'] / 1e6:.2f}", f"{line['giga_macs']:.2f}"]
        row += [f"{line['miou']}{spread}", line["scores"]]
        row += [line["published"]] * published + [line["minutes"]]
        text.append(_bar(row))
    settings, commits = config.train, sorted({line["commit"] for line in lines} - {""})
    started = config.model.encoder_weights or "random weights"
    text += [
        "",
        f"`segcoord table {path}`: {settings.max_steps} steps of {settings.batch_size} crops of "
        f"{width}x{height}, {settings.optimizer}, lr {settings.lr:g}, from {started}; scored on "
        f"{config.data.val_split} at the last step; ± is the standard deviation over seeds "
        f"{table.seeds}; multiply-adds of one crop. {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, commit {', '.join(commits) or 'unknown'}.",
        "",
    ]
    return "\n".join(text)


def _bar(cells: list[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
