"""The YAML file of a table: which encoders, reductions, strides and seeds to train."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from segcoord.config.loading import read_yaml, task_of
from segcoord.config.messages import describe, did_you_mean
from segcoord.config.schema import CONFIGS, ModelConfig
from segcoord.utils.errors import UserError

VARIED = {  # settings that the rows set, and the key that lists their values
    ("model", "encoder"): "encoders",
    ("model", "reduction"): "encoders: [{encoder, reduction}]",
    ("model", "output_stride"): "output_strides",
    ("train", "seed"): "seeds",
}


_EXPECTED = {
    "encoders": (
        "a list of names, or of {encoder: name, reduction: an integer, published: a number or one "
        "per output stride}"
    ),
    "settings": "groups of settings, for example {train: {lr: 0.01}}",
}


@dataclass(frozen=True)
class EncoderEntry:
    """An entry of `encoders`.

    Args:
        encoder: timm name.
        reduction: of its attention; None for the default.
        published: the paper's score in percent, or one per output stride.
    """

    encoder: str
    reduction: int | None = None
    published: int | float | dict[int, int | float] | None = None


@dataclass(frozen=True)
class Row(EncoderEntry):
    """A row of a table: an encoder at an output stride, None for a classifier."""

    output_stride: int | None = None

    @property
    def name(self) -> str:
        reduction = f"_r{self.reduction}" if self.reduction else ""
        stride = f"_os{self.output_stride}" if self.output_stride else ""
        return f"{self.encoder}{reduction}{stride}"

    def settings(self, seed: int) -> dict:
        """The settings of this row as a tree."""
        model = {key: getattr(self, key) for key in ("encoder", "reduction", "output_stride")}
        model = {key: value for key, value in model.items() if value is not None}
        return {"model": model, "train": {"seed": seed}}


@dataclass
class TableFile:
    """The keys of the file.

    `config` is a training configuration relative to the file, `settings` apply on top of it to
    every row, `encoders` are names or {encoder, reduction, published}, and `output_strides` default
    to that of `config`.
    """

    title: str
    config: str
    encoders: list[EncoderEntry]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    output_strides: list[int] | None = None
    seeds: list[int] = field(default_factory=lambda: [0])


@dataclass(frozen=True)
class Table:
    """A table to train: title, task, rows, seeds, and layers of settings, weakest first."""

    path: Path
    title: str
    task: str
    rows: list[Row]
    seeds: list[int]
    layers: list[tuple[str, dict]]

    @property
    def score(self) -> str:
        """The column of metrics.csv that the table reports."""
        return CONFIGS[self.task].headline


def read_table(path: Path) -> Table:
    """Read the YAML file of a table.

    Raises:
        UserError: no such file, an unknown or missing key, a wrong type, an empty or repeated row.
    """
    file = _parse(path)
    for (group, key), source in VARIED.items():
        if key in file.settings.get(group, {}):
            raise UserError(f"{path}: settings: {group}.{key} is set by {source}; move it there")
    config = path.parent / file.config
    layers = [(str(config), read_yaml(config)), (str(path), file.settings)]
    task, strides = task_of(*layers[0]), file.output_strides
    if task == "classification" and strides is not None:
        raise UserError(f"{path}: output_strides: a classifier has none; remove the key")
    if strides is None:
        model = layers[0][1].get("model") or {}
        known = {key: model[key] for key in ("decoder", "output_stride") if key in model}
        strides = [ModelConfig(**known).output_stride if task == "segmentation" else None]
    rows = [_row(entry, stride, path) for entry in file.encoders for stride in strides]
    names = [row.name for row in rows]
    for key, values in (("output_strides", strides), ("encoders", names), ("seeds", file.seeds)):
        if not values or len({*values}) < len(values):
            raise UserError(f"{path}: {key}: found {values}, expected one or more different ones")
    return Table(path, file.title, task, rows, file.seeds, layers)


def _parse(path: Path) -> TableFile:
    tree = {key: value for key, value in read_yaml(path).items() if value is not None}
    if isinstance(encoders := tree.get("encoders"), list):
        tree["encoders"] = [{"encoder": e} if isinstance(e, str) else e for e in encoders]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TableFile)
    try:
        return TableFile(**vars(parser.instantiate(parser.parse_object(tree))))
    except ArgumentError as error:
        message = str(error)
        if unknown := re.search("Option '(.*?)' is not accepted", message):
            known = [each.name for each in (*fields(TableFile), *fields(EncoderEntry))]
            message = f"unknown key {unknown[1]!r}{did_you_mean(unknown[1], known)}"
        elif missing := re.search("arguments are required: (.*)", message):
            message = f"missing, but required: {missing[1]}"
        elif key := re.search('key "([a-z_]+)', message):
            expected = _EXPECTED.get(key[1]) or describe(get_type_hints(TableFile)[key[1]])
            message = f"{key[1]}: found {tree[key[1]]}, expected {expected}"
        raise UserError(f"{path}: {message}") from error


def _row(entry: EncoderEntry, stride: int | None, path: Path) -> Row:
    score = entry.published
    if isinstance(score, dict):
        if stride not in score:
            raise UserError(f"{path}: encoders: published: {score} has no output stride {stride}")
        score = score[stride]
    return Row(entry.encoder, entry.reduction, score, stride)
