"""Settings from YAML files and the command line, read into the classes of segcoord.config.

A YAML file may name another as `base:` (a path relative to itself) and then only says what differs.
An unknown key is an error that names the nearest valid one. Imports no torch.
"""

from __future__ import annotations

import argparse
import datetime
import difflib
import json
import os
from collections.abc import Hashable
from pathlib import Path
from typing import ClassVar, NoReturn, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from segcoord.config.schema import CONFIGS, GROUPS
from segcoord.utils.errors import UserError


def add_settings(parser: ArgumentParser, *groups: str, task: str = "segmentation") -> None:
    """Adds the options --config and, for each group of a task's settings, --GROUP.*."""
    if "--config" not in parser._option_string_actions:
        parser.add_argument("--config", help="YAML file of settings; the options below override it")
    parser.task = task
    types = get_type_hints(CONFIGS[task])
    for group in groups:
        parser.add_argument(f"--{group}", type=types[group])


def preview(argv: list[str], *parsers: ArgumentParser) -> argparse.Namespace:
    """Reads options as plain strings, before it is known which settings there are.

    Some options say where further settings come from: `--config`, `--resume`, `--checkpoint`.

    Args:
        argv: the command line without the program.
        parsers: whose options are known; others are passed over.

    Returns:
        The value of every option as given, None where it isn't given; `help`; `config` as the last
        of `configs`. All are None where the command line is malformed, which `parse` reports.
    """
    early = _PreviewParser(add_help=False, allow_abbrev=False)
    early.add_argument("-h", "--help", action="store_true")
    early.add_argument("--config", dest="configs", action="append", default=[])
    known = {"help", "config"}
    for action in (action for parser in parsers for action in parser._actions):
        if action.dest in known:
            continue
        known.add(action.dest)
        kind = {"action": "store_const", "const": True} if action.nargs == 0 else {}
        if action.option_strings:
            early.add_argument(
                *action.option_strings,
                dest=action.dest,
                **(kind or {"nargs": action.nargs if action.nargs in ("+", "*") else None}),
            )
        else:
            early.add_argument(action.dest, nargs="?" if action.nargs is None else "*")
    try:
        found = vars(early.parse_known_args(argv)[0])
    except ArgumentError:
        found = vars(early.parse_args([]))
    return argparse.Namespace(**found, config=(found["configs"] or [None])[-1])


class _PreviewParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ArgumentError(None, message)


def task_of(source: str, tree: dict) -> str:
    """The task that a file of settings is for; segmentation unless it says otherwise."""
    task = tree.get("task", "segmentation")
    if not isinstance(task, str) or task not in CONFIGS:
        raise UserError(f"{source}: task: found {task!r}, expected {' or '.join(CONFIGS)}")
    return task


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
    files = preview(argv, parser).configs
    options = [o.removeprefix("--") for o in parser._option_string_actions]
    given = []
    for source, tree in (*layers, *((file, read_yaml(Path(file))) for file in files)):
        groups = [group for group in GROUPS if group in options]
        task = getattr(parser, "task", None)
        if "task" in tree and task not in (None, task_of(source, tree)):
            raise UserError(
                f"{source}: its task is {task_of(source, tree)}, expected settings for {task}"
            )
        for group in tree:
            if group not in (*GROUPS, "task"):
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
            layer = yaml.load(path.read_text(), _Loader)
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


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would silently take the last.

    Words such as `off` and `no` stay words, as in YAML 1.2: a setting may mean them.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {
        start: [r for r in resolvers if r[0] != "tag:yaml.org,2002:bool" or start in "tTfF"]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "found a list or mapping as a key, expected a word", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


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
