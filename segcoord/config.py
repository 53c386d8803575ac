"""Every setting of a run, typed; YAML files and command-line overrides are read into these classes.

A YAML file may name another as `base:` (a path relative to itself) and then only says what differs.
An unknown key is an error that names the nearest valid one. Imports no torch.
"""

from __future__ import annotations

import datetime
import difflib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from segcoord.errors import UserError


@dataclass
class ModelConfig:
    """The network.

    Args:
        encoder: backbone by its timm name; ours are family_attention_width.
        reduction: how many times the attention squeezes its channels; null for its own default.
        output_stride: 16 or 8: how many pixels one cell of the last feature covers.
        atrous_rates: three ASPP rates; null for (6, 12, 18) at stride 16 and (12, 24, 36) at 8.
        aspp_dropout: probability of dropping a value after the ASPP's projection.
        encoder_weights: null to start at random; imagenet to fetch the weights that timm names.
    """

    encoder: str = "mobilenetv2_ca_100"
    reduction: int | None = None
    output_stride: int = 16
    atrous_rates: list[int] | None = None
    aspp_dropout: float = 0.1
    encoder_weights: Literal["imagenet"] | None = None

    def check(self) -> None:
        """Raises UserError for values that can't work."""
        _require(
            self.output_stride in (8, 16), "model.output_stride", self.output_stride, "16 or 8"
        )
        squeeze = self.reduction
        _require(squeeze is None or squeeze > 0, "model.reduction", squeeze, "at least 1, or null")
        dropout = self.aspp_dropout
        _require(0 <= dropout < 1, "model.aspp_dropout", dropout, "0 up to below 1")


@dataclass
class ClassConfig:
    """One class of an own dataset.

    Args:
        name: shown in every table.
        color: RGB, 0 to 255, for palettes and overlays.
        id: its value in the mask files; null for its position in the list.
    """

    name: str
    color: list[int]
    id: int | None = None


@dataclass
class DataConfig:
    """The images, their labels, and what training does to them.

    Args:
        layout: how the files lie: voc, cityscapes, or folder (images and masks paired by stem).
        root: folder of the dataset; for voc the one that holds VOCdevkit, or VOC2012 itself.
        classes: own classes, for folder and for own data in a voc tree; null for the dataset's.
        void_ids: mask values that count for nothing, besides 255.
        images: folder layout only: where a split's images lie below root.
        masks: folder layout only: where a split's masks lie below root.
        train_split: name of the split to train on; trainaug reads SegmentationClassAug.
        val_split: name of the split that is scored.
        crop_size: height and width of a training crop, in pixels.
        scale: smallest and largest random scale of a training image.
        flip: mirror half of the training images.
        color_jitter: strength of random brightness, contrast and saturation; 0 for none.
        workers: processes that load training images; 0 to load in the training process.
    """

    layout: Literal["voc", "cityscapes", "folder"]
    root: str
    classes: list[ClassConfig] | None = None
    void_ids: list[int] = field(default_factory=list)
    images: str | None = None
    masks: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    crop_size: tuple[int, int] = (513, 513)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    color_jitter: float = 0.2
    workers: int = 2

    def check(self) -> None:
        """Raises UserError for values that can't work, alone or together."""
        low, high = self.scale
        _require(0 < low <= high, "data.scale", [low, high], "the smaller above 0, then the larger")
        jitter = self.color_jitter
        _require(0 <= jitter < 1, "data.color_jitter", jitter, "0 up to below 1")
        _require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        own_folders = [self.images, self.masks]
        _require(
            self.layout == "folder" or own_folders == [None, None],
            "data.images and data.masks",
            own_folders,
            f"null, for layout {self.layout} has its own folders",
        )
        _require(
            self.layout != "folder" or self.classes is not None,
            "data.classes",
            None,
            "a list of classes with name and color, which layout folder needs",
        )
        _require(
            self.layout != "cityscapes" or (self.classes is None and not self.void_ids),
            "data.classes and data.void_ids",
            "own ones",
            "null and [], for layout cityscapes has its 19; own data goes with voc or folder",
        )


@dataclass
class TrainConfig:
    """The optimisation.

    Args:
        max_steps: optimiser steps in all; the schedule ends with them.
        batch_size: images in a step.
        optimizer: sgd (with momentum) or adamw.
        lr: learning rate at the first step, of the head.
        encoder_lr_factor: the encoder's learning rate as a multiple of lr.
        momentum: of sgd; must be null with adamw.
        weight_decay: on weights and, as in the papers, on biases and norms too.
        poly_power: the rate at step t is lr * (1 - t / max_steps) ** poly_power.
        val_interval: steps between validations; one follows the last step in any case.
        seed: of every random draw: weights, order, augmentation, dropout.
        accelerator: auto, cpu, cuda or mps.
    """

    max_steps: int
    batch_size: int = 16
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.007
    encoder_lr_factor: float = 1.0
    momentum: float | None = 0.9
    weight_decay: float = 4e-5
    poly_power: float = 0.9
    val_interval: int = 1000
    seed: int = 0
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"

    def check(self) -> None:
        """Raises UserError for values that can't work, alone or together."""
        for key in ("max_steps", "lr", "val_interval"):
            _require(getattr(self, key) > 0, f"train.{key}", getattr(self, key), "above 0")
        for key in ("encoder_lr_factor", "weight_decay", "poly_power", "seed"):
            _require(getattr(self, key) >= 0, f"train.{key}", getattr(self, key), "0 or more")
        _require(self.seed < 2**63, "train.seed", self.seed, "below 2**63")
        _require(
            self.batch_size >= 2,
            "train.batch_size",
            self.batch_size,
            "at least 2 per device: batch norm can't train on the one value per channel that the "
            "ASPP's pooling leaves of a single image",
        )
        given = self.momentum is not None
        ok = given and self.momentum >= 0 if self.optimizer == "sgd" else not given
        _require(ok, "train.momentum", self.momentum, "0 or more with sgd, null with adamw")


@dataclass
class Config:
    """A whole run."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig

    def check(self) -> None:
        """Raises UserError for values that can't work, alone or together."""
        self.model.check()
        self.data.check()
        self.train.check()
        stride = self.model.output_stride
        _require(
            min(self.data.crop_size) >= stride,
            "data.crop_size",
            list(self.data.crop_size),
            f"at least the output stride, {stride}, in height and width",
        )

    def to_yaml(self) -> str:
        plain = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return yaml.safe_dump(plain, sort_keys=False)


def _require(ok: bool, key: str, found: object, expected: str) -> None:
    if not ok:
        raise UserError(f"{key}: found {found}, expected {expected}")


GROUPS = {"model": ModelConfig, "data": DataConfig, "train": TrainConfig}


def add_settings(parser: ArgumentParser, *groups: str) -> None:
    """Adds the options --config and, for each group of settings, --GROUP.*."""
    parser.add_argument("--config", help="YAML file of settings; the options below override it")
    for group in groups:
        parser.add_argument(f"--{group}", type=GROUPS[group])


def parse(parser: ArgumentParser, argv: list[str], *layers: tuple[str, dict]) -> Namespace:
    """Parses a command line; the settings of `layers` come first, then --config, then the options.

    Every YAML value goes through the parser as if it had been given on the command line, so there
    is one place that knows the types.

    Args:
        parser: made with exit_on_error=False.
        argv: the command line without the program.
        layers: (where it comes from, settings as a tree), weakest first.

    Raises:
        UserError: an unknown key or option, a value of the wrong type, a missing setting or file.
    """
    files = [
        following if word == "--config" else word.removeprefix("--config=")
        for word, following in zip(argv, [*argv[1:], None])
        if (word == "--config" and following) or word.startswith("--config=")
    ]
    options = [o.removeprefix("--") for o in parser._option_string_actions]
    given = []
    for source, tree in (*layers, *((file, read_yaml(Path(file))) for file in files)):
        groups = [group for group in GROUPS if group in options]
        for group in tree:
            if group not in GROUPS:
                near = nearest(str(group), list(GROUPS))
                raise UserError(f"{source}: unknown key {str(group)!r}{near}")
        # A command that needs the data settings alone takes a training's whole file.
        own = {group: settings or {} for group, settings in tree.items() if group in groups}
        for key, value in _flatten(own, options).items():
            if key not in options:
                raise UserError(f"{source}: unknown key {key!r}{nearest(key, options)}")
            if isinstance(value, datetime.date):
                value = str(value)  # a folder's name, say, that YAML takes for a date
            text = (
                value
                if isinstance(value, str)
                else json.dumps(value, ensure_ascii=False, default=str)
            )
            given.append((source, key, f"--{key}={text}"))
    try:
        return parser.parse_args([text for _, _, text in given] + argv)
    except ArgumentError as error:
        message = str(error)
        for source, key, _ in given:
            if f'"{key}"' in message and f"--{key}" not in " ".join(argv):
                message = f"{source}: {message}"
        for option in message.partition("unrecognized arguments: ")[2].split():
            if option.startswith("-"):
                message = f"unknown option {option}{nearest(option.lstrip('-'), options, '--')}"
                break
        raise UserError(f"{message}\nSee: {parser.prog} --help") from error


def read_yaml(path: Path) -> dict:
    """A YAML file as a dictionary, merged over the file that its `base:` names."""
    seen: list[Path] = []
    layers = []
    while path:
        if path in seen:
            raise UserError(f"{path}: names itself as base, through {' -> '.join(map(str, seen))}")
        seen.append(path)
        try:
            layer = yaml.safe_load(path.read_text())
        except FileNotFoundError:
            near = sorted(str(p) for p in path.parent.glob("*.yaml"))
            hint = f"; there is {', '.join(near)}" if near else ""
            raise UserError(f"{path}: no such configuration file{hint}") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path}: not a readable YAML file: {error}") from error
        if not isinstance(layer, dict):
            raise UserError(f"{path}: found {type(layer).__name__}, expected keys like 'data:'")
        base = layer.pop("base", None)
        if base is not None and not isinstance(base, str):
            raise UserError(f"{path}: base: found {base!r}, expected the path of a YAML file")
        layers.append(layer)
        path = Path(os.path.normpath(path.parent / base)) if base else None
    merged: dict = {}
    for layer in reversed(layers):
        _merge(merged, layer)
    return merged


def _merge(into: dict, layer: dict) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _flatten(tree: dict, options: list[str], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        is_group = not prefix or any(option.startswith(f"{name}.") for option in options)
        if isinstance(value, dict) and is_group:
            flat |= _flatten(value, options, f"{name}.")
        else:
            flat[name] = value
    return flat


def nearest(key: str, options: list[str], dashes: str = "") -> str:
    near = difflib.get_close_matches(key.partition("=")[0], options, n=1, cutoff=0.5)
    return f"; did you mean {dashes}{near[0]}?" if near else ""
