"""Configurations from a command line, and their errors."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from segcoord.cli.common import new_parser
from segcoord.config.loading import add_settings, parse
from segcoord.config.schema import (
    GROUPS,
    DataConfig,
    ModelConfig,
    SegmentationConfig,
    TrainConfig,
)
from segcoord.utils.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"


SHIPPED = sorted(p.stem for p in CONFIGS.glob("*.yaml") if p.stem not in ("base", "imagenet"))


MINIMAL = "data: {layout: voc, root: here}\ntrain: {max_steps: 5}\n"


@cache
def make_parser(task: str = "segmentation") -> ArgumentParser:
    """Like the parser of cli.train."""
    parser = new_parser("train.py", "Train.")
    add_settings(parser, "model", "data", "train", task=task)
    parser.add_argument("--run", type=str)
    parser.add_argument("--resume", type=str)
    return parser


def config_of(*argv: object, layers: tuple[tuple[str, dict], ...] = ()) -> SegmentationConfig:
    """The configuration that a command line gives."""
    parser = make_parser()
    parsed = parser.instantiate(parse(parser, [str(a) for a in argv], *layers))
    return SegmentationConfig(parsed.model, parsed.data, parsed.train)


def write(folder: Path, text: str, name: str = "own.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def error_of(*argv: object) -> str:
    """The error message of a command line."""
    with pytest.raises(UserError) as caught:
        config_of(*argv)
    return str(caught.value)


def valid(**changes: dict) -> SegmentationConfig:
    """A valid configuration with some settings changed: train={"lr": 1.0}."""
    config = SegmentationConfig(ModelConfig(), DataConfig("voc", "here"), TrainConfig(max_steps=5))
    return SegmentationConfig(
        **{g: replace(getattr(config, g), **changes.get(g, {})) for g in GROUPS}
    )


def assert_plain(message: str) -> None:
    """The message has no words of the parser."""
    assert not re.search("Parser|Union|typing|<class|Namespace|class_path|subtype|Errors", message)
