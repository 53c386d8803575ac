"""Bounds of the settings, and their --help."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
from config_helpers import (
    make_parser,
    valid,
)
from docstring_parser import parse_from_object

from segcoord.config.schema import CONFIGS as TASKS
from segcoord.config.schema import (
    GROUPS,
    ClassConfig,
    TrainConfig,
)
from segcoord.utils.errors import UserError


@pytest.mark.parametrize(
    ("epochs", "images", "batch", "steps"), [(3, 367, 8, 138), (0.1, 30, 3, 1), (0.01, 9, 16, 1)]
)
def test_epochs_are_whole_steps_that_cover_them(epochs, images, batch, steps) -> None:
    train = TrainConfig(epochs=epochs, batch_size=batch)
    train.resolve_epochs(images)
    assert train == TrainConfig(max_steps=steps, batch_size=batch)
    with pytest.raises(UserError, match=r"train\.warmup_steps: found 139"):
        TrainConfig(epochs=3, batch_size=8, warmup_steps=139).resolve_epochs(367)


# -- Config.check

ROCK = ClassConfig("rock", [90, 90, 90])


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("model.output_stride", {"model": {"output_stride": 4}}),
        ("model.output_stride", {"model": {"output_stride": 32}}),
        ("model.aspp_dropout", {"model": {"aspp_dropout": -0.1}}),
        ("model.aspp_dropout", {"model": {"aspp_dropout": 1.0}}),
        ("data.crop_size", {"data": {"crop_size": (15, 513)}}),
        ("data.crop_size", {"data": {"crop_size": (513, 15)}}),
        ("data.crop_size", {"data": {"crop_size": (7, 64)}, "model": {"output_stride": 8}}),
        ("data.scale", {"data": {"scale": (0.0, 2.0)}}),
        ("data.scale", {"data": {"scale": (-0.5, 1.0)}}),
        ("data.scale", {"data": {"scale": (2.0, 0.5)}}),
        ("data.color_jitter", {"data": {"color_jitter": -0.1}}),
        ("data.color_jitter", {"data": {"color_jitter": 1.0}}),
        ("data.rare_class_sampling", {"data": {"rare_class_sampling": 1.5}}),
        ("data.workers", {"data": {"workers": -1}}),
        ("data.val_fraction", {"data": {"val_fraction": 1.0}}),
        ("data.masks", {"data": {"layout": "cityscapes", "masks": "{split}"}}),
        ("data.classes", {"data": {"layout": "folder"}}),
        ("data.classes and data.void_ids", {"data": {"layout": "cityscapes", "classes": [ROCK]}}),
        ("data.classes and data.void_ids", {"data": {"layout": "cityscapes", "void_ids": [40]}}),
        ("train.max_steps", {"train": {"max_steps": 0}}),
        ("train.batch_size", {"train": {"batch_size": 1}}),
        ("train.lr", {"train": {"lr": 0.0}}),
        ("train.lr", {"train": {"lr": float("nan")}}),
        ("train.encoder_lr_factor", {"train": {"encoder_lr_factor": -1.0}}),
        ("train.weight_decay", {"train": {"weight_decay": -1e-9}}),
        ("train.poly_power", {"train": {"poly_power": -0.9}}),
        ("train.val_interval", {"train": {"val_interval": 0}}),
        ("train.seed", {"train": {"seed": -1}}),
        ("train.momentum", {"train": {"momentum": None}}),
        ("train.momentum", {"train": {"optimizer": "adamw"}}),
    ],
)
def test_invalid_values_name_their_key(key: str, changes: dict) -> None:
    with pytest.raises(UserError) as caught:
        valid(**changes).check()
    assert str(caught.value).startswith(f"{key}: found ")
    assert ", expected " in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": {"output_stride": 8, "aspp_dropout": 0.0}, "data": {"crop_size": (8, 8)}},
        {"data": {"crop_size": (16, 16), "scale": (1.0, 1.0), "color_jitter": 0.0, "workers": 0}},
        {"data": {"layout": "folder", "classes": [ROCK], "images": "{split}", "void_ids": [3]}},
        {"data": {"classes": [ROCK], "void_ids": [3]}},
        {"data": {"layout": "cityscapes"}},
        {"train": {"optimizer": "adamw", "momentum": None, "weight_decay": 0.0}},
        {"train": {"batch_size": 2, "encoder_lr_factor": 0.0, "poly_power": 0.0, "momentum": 0.0}},
    ],
)
def test_values_at_the_limits_pass(changes: dict) -> None:
    valid(**changes).check()


# -- help


def documented(group: type) -> dict[str, str]:
    """Setting -> its docstring, with those of the base class."""
    docs = [parse_from_object(c) for c in reversed(group.__mro__) if is_dataclass(c)]
    return {p.arg_name: " ".join(p.description.split()) for doc in docs for p in doc.params}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("task", TASKS)
def test_help_explains_every_setting(
    task: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # no line breaks within a text
    group_type = get_type_hints(TASKS[task])[group]
    options = make_parser(task).format_help().partition("options:\n")[2]
    shown = {o.split()[0]: o for o in re.split(r"\n +(?=--)", options)}
    texts = documented(group_type)
    assert list(texts) == [f.name for f in fields(group_type)]
    for name, text in texts.items():
        assert len(text) > 10
        assert text in shown[f"--{group}.{name}"]
