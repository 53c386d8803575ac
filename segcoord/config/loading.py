"""Reads settings from YAML files and the command line into the classes of `config.schema`.

`base: FILE` in a YAML file inherits the settings of another, whose path is relative to it.
"""

import argparse
import datetime
import json
import os
from collections.abc import Hashable
from pathlib import Path
from typing import ClassVar, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from segcoord.config.classes import KEY as CLASSES
from segcoord.config.classes import parse_classes, read_class_names
from segcoord.config.messages import Setting, did_you_mean, option_error, parser_error
from segcoord.config.schema import CONFIGS, GROUPS
from segcoord.utils.errors import UserError

_ALTERNATIVES = {"train.epochs": "train.max_steps", "train.max_steps": "train.epochs"}
"""Setting -> the setting of a weaker layer that it replaces."""

set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the texts of --help


def add_settings(parser: ArgumentParser, *groups: str, task: str = "segmentation") -> None:
    """Add the option --config and, for each group of settings of a task, --GROUP.KEY."""
    if "--config" not in parser._option_string_actions:
        parser.add_argument("--config", help="YAML file of settings; the options below override it")
    parser.task = task
    types = get_type_hints(CONFIGS[task])
    for group in groups:
        parser.add_argument(f"--{group}", type=types[group])


def preview(argv: list[str], *parsers: ArgumentParser) -> argparse.Namespace:
    """Read options as strings before the settings are known.

    `--config`, `--resume` and `--checkpoint` determine which settings exist and their defaults.

    Args:
        argv: command line without the program.
        parsers: parsers whose options to read; unknown options are ignored.

    Returns:
        Each option's value, None if absent; `help`; all --config as `configs`, the last one as
        `config`.

    Raises:
        UserError: an option without its value.
    """
    preview = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    preview.add_argument("-h", "--help", action="store_true")
    preview.add_argument("--config", dest="configs", action="append", default=[])
    actions = {action.dest: action for parser in reversed(parsers) for action in parser._actions}
    for name, action in actions.items():
        nargs = action.nargs if action.nargs in ("+", "*") else None
        if name in ("help", "config"):
            continue
        if not action.option_strings:
            preview.add_argument(name, nargs="*" if action.nargs else "?")
        elif action.nargs == 0:
            preview.add_argument(*action.option_strings, dest=name, action="store_const", const=1)
        else:
            preview.add_argument(*action.option_strings, dest=name, nargs=nargs)
    try:
        values = vars(preview.parse_known_args(argv)[0])
    except ArgumentError as error:
        raise option_error(error, parsers[0]) from error
    return argparse.Namespace(**values, config=(values["configs"] or [None])[-1])


def task_of(source: str, tree: dict) -> str:
    """The task of a tree of settings, segmentation by default; UserError for an unknown one."""
    task = tree.get("task", "segmentation")
    if not isinstance(task, str) or task not in CONFIGS:
        raise UserError(f"{source}: task: found {task!r}, expected {' or '.join(CONFIGS)}")
    return task


def parse(parser: ArgumentParser, argv: list[str], *layers: tuple[str, dict]) -> Namespace:
    """Parse a command line: options override --config, which overrides `layers`.

    The parser reads every YAML value as if it were given on the command line, so that types are
    checked in one place.

    Args:
        parser: made with exit_on_error=False.
        argv: command line without the program.
        layers: (source, tree of settings), weakest first; the source is for error messages.

    Raises:
        UserError: unknown key or option, value of the wrong type, missing setting or file.
    """
    given = preview(argv, parser)
    options = [option.removeprefix("--") for option in parser._option_string_actions]
    settings = []  # (source, key, value)
    for source, tree in (*layers, *((file, read_yaml(Path(file))) for file in given.configs)):
        _check_groups(source, tree, getattr(parser, "task", None))
        # A command that reads only the data settings accepts the whole file of a training run.
        known = {key: value or {} for key, value in tree.items() if key in options}
        flat = _flatten(known, options)
        overridden = {_ALTERNATIVES.get(key) for key, value in flat.items() if value is not None}
        settings = [setting for setting in settings if setting[1] not in overridden]
        for key, value in flat.items():
            if key not in options:
                raise UserError(f"{source}: unknown key {key!r}{did_you_mean(key, options)}")
            if key == CLASSES:
                _check_classes(source, value)
            settings.append((source, key, _to_text(value)))
    for word in argv:  # a key inside the value of a setting, which the parser would guess about
        option = word.removeprefix("--").partition("=")[0]
        setting = option.rpartition(".")[0]
        if word.startswith("--") and "." in setting and setting in options:
            hint = did_you_mean(option, options, "--")
            raise UserError(f"unknown option --{option}{hint}\nSee: {parser.prog} --help")
    overridden = {_ALTERNATIVES.get(word.partition("=")[0].removeprefix("--")) for word in argv}
    settings = [setting for setting in settings if setting[1] not in overridden]
    try:
        args = parser.parse_args([f"--{key}={text}" for _, key, text in settings] + argv)
    except ArgumentError as error:
        typed = [(None, key, value) for key, value in vars(given).items() if value is not None]
        raise parser_error(error, parser, settings + typed) from error
    _resolve_classes(args, settings, vars(given))
    return args


def _resolve_classes(args: Namespace, settings: list[Setting], typed: dict[str, object]) -> None:
    """Convert data.classes to a list of `ClassConfig`, reading the file that it may name.

    So a run's config.yaml and checkpoints hold the classes themselves.
    """
    if CLASSES not in args:
        return
    try:
        classes = parse_classes(args[CLASSES])
        if isinstance(classes, str):
            classes = read_class_names(classes, args["data.root"])
    except UserError as error:
        sources = [source for source, key, _ in settings if key == CLASSES]
        where = f"{sources[-1]}: " if sources and typed.get(CLASSES) is None else ""
        raise UserError(f"{where}{error}") from None
    args[CLASSES] = classes


def _check_classes(source: str, value: object) -> None:
    try:
        parse_classes(value)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _check_groups(source: str, tree: dict, task: str | None) -> None:
    """Raise UserError for an unknown group of settings, or settings of another task."""
    found = task_of(source, tree)
    if "task" in tree and task not in (None, found):
        raise UserError(f"{source}: task: found {found}, expected {task}")
    for group in map(str, tree):
        if group not in (*GROUPS, "task"):
            raise UserError(f"{source}: unknown key {group!r}{did_you_mean(group, list(GROUPS))}")


def _to_text(value: object) -> str:
    """A YAML value as it is typed on the command line."""
    if isinstance(value, (str, datetime.date)):  # YAML reads a folder named 2026-11-22 as a date
        return str(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def read_yaml(path: Path) -> dict:
    """Read a YAML file, merged over the chain of its `base:` files.

    Raises:
        UserError: missing or unreadable file, keys given twice, circular bases.
    """
    seen: list[Path] = []
    layers = []
    while path:
        if path in seen:
            raise UserError(f"{path}: names itself as base, through {' -> '.join(map(str, seen))}")
        seen.append(path)
        try:
            layer = yaml.load(path.read_text(), _Loader)
        except FileNotFoundError:
            others = sorted(str(p) for p in path.parent.glob("*.yaml"))
            hint = f"; found {', '.join(others)}" if others else ""
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
        _drop_alternatives(merged, layer)
        _merge(merged, layer)
    return merged


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys; reads only true and false as booleans, like YAML 1.2.

    So `off` and `no` stay strings, which may be the value of a setting or the name of a class.
    The names in `classes` are always strings: 007 and 1.50 keep their digits.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {
        start: [r for r in resolvers if r[0] != "tag:yaml.org,2002:bool" or start in "tTfF"]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Hashable] = set()
        for key, value in node.value:
            problem = ""
            if not isinstance(key, yaml.ScalarNode):
                problem = "found a list or mapping as a key, expected a string"
            elif key.value in seen:
                problem = f"duplicate key {key.value!r}"
            elif key.value == "color" and isinstance(value, yaml.ScalarNode) and not value.value:
                problem = 'found color without a value; write "#rrggbb" in quotes, # is a comment'
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
            if key.value == "classes" and isinstance(value, yaml.SequenceNode):
                for name in _name_nodes(value):
                    name.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def _drop_alternatives(merged: dict, layer: dict) -> None:
    """Remove the settings that `layer` replaces by an alternative."""
    for key, other in _ALTERNATIVES.items():
        (group, name), replaced = key.split("."), other.split(".")[1]
        given, inherited = layer.get(group), merged.get(group)
        if isinstance(given, dict) and isinstance(inherited, dict) and given.get(name) is not None:
            inherited.pop(replaced, None)


def _name_nodes(classes: yaml.SequenceNode) -> list[yaml.ScalarNode]:
    """The names in a list of names and of mappings with the key `name`."""
    nodes = [item for item in classes.value if not isinstance(item, yaml.MappingNode)]
    for item in classes.value:
        if isinstance(item, yaml.MappingNode):
            nodes += [value for key, value in item.value if key.value == "name"]
    return [node for node in nodes if isinstance(node, yaml.ScalarNode)]


def _merge(into: dict, layer: dict) -> None:
    """Update nested dictionaries in place."""
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _flatten(tree: dict, options: list[str], prefix: str = "") -> dict[str, object]:
    """{"data": {"root": x}} -> {"data.root": x}; a dictionary that is one option's value stays."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        is_group = not prefix or any(option.startswith(f"{name}.") for option in options)
        if isinstance(value, dict) and is_group:
            flat |= _flatten(value, options, f"{name}.")
        else:
            flat[name] = value
    return flat
