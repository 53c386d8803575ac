"""Messages about settings and options that the parser rejects, in words instead of types."""

import difflib
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser

from segcoord.utils.errors import UserError

Setting = tuple[str | None, str, str | list[str]]
"""(source, key, value as typed on the command line); the source is a file, or None for that."""

_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_PLURALS = {int: "integers", float: "numbers", bool: "true or false", str: "texts"}
_EXAMPLES = {int: ["1", "2", "3"], float: ["0.5", "1.0", "2.0"], str: ["a", "b", "c"]}
_COUNTS = {1: "one", 2: "two", 3: "three"}


def describe(hint: Any) -> str:
    """The values that a type hint allows, in words: "an integer, or null"."""
    options = _options(hint)
    texts = [text for option in options if (text := _describe_one(option))]
    if type(None) in options:
        texts.append("null")
    if len(texts) == 1:
        return texts[0]
    return f"{', '.join(texts[:-1])}, or {texts[-1]}"


def _options(hint: Any) -> tuple:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _describe_one(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if hint is type(None):
        return ""
    if origin is Literal:
        return _either([str(each) for each in args])
    if origin is tuple:
        example = ", ".join(_EXAMPLES[args[0]][: len(args)])
        return f"{_COUNTS[len(args)]} {_PLURALS[args[0]]}, for example [{example}]"
    if origin is list and get_origin(args[0]) is Literal:
        words = get_args(args[0])
        return f"a list of {_either(words)}, for example [{words[0]}]"
    if origin is list and args[0] in _PLURALS:
        example = ", ".join(_EXAMPLES[args[0]][:2])
        return f"a list of {_PLURALS[args[0]]}, for example [{example}]"
    if origin is list or hint is list:
        return "a list"
    if origin is dict:
        return "keys with values"
    return _WORDS.get(hint, "its settings, one by one")


def _either(words: Sequence[str]) -> str:
    return " or ".join([*([", ".join(words[:-1])] if words[1:] else []), words[-1]])


def did_you_mean(key: str, options: list[str], dashes: str = "") -> str:
    """'; did you mean ...?' with the most similar option; empty if none is similar."""
    near = difflib.get_close_matches(key.partition("=")[0], options, n=1, cutoff=0.5)
    return f"; did you mean {dashes}{near[0]}?" if near else ""


def parser_error(
    error: ArgumentError, parser: ArgumentParser, settings: list[Setting]
) -> UserError:
    """The error for settings that a parser rejected, without the parser's own words.

    Args:
        error: raised by the parser.
        parser: knows the type of each option.
        settings: what it parsed: those of files and of the command line.
    """
    message = str(error)
    options = [option.removeprefix("--") for option in parser._option_string_actions]
    for option in message.partition("unrecognized arguments: ")[2].split():
        if option.startswith("-"):
            text = f"unknown option {option}{did_you_mean(option.lstrip('-'), options, '--')}"
            return _with_help(text, parser)
        return _with_help(f"found {option!r}, expected only options such as --help", parser)
    if missing := message.partition("arguments are required: ")[2]:
        return _with_help(f"missing, but required: {missing}", parser)
    if error.argument_name is not None:
        return option_error(error, parser)
    for source, key, value in settings:
        action = parser._option_string_actions.get(f"--{key}")
        if action is None:  # the key of --allow-pixels is allow_pixels
            key = key.replace("_", "-")
            action = parser._option_string_actions.get(f"--{key}")
        if action is not None and (text := _rejected(key, value, action)):
            return _with_help(text if source is None else f"{source}: {text}", parser)
    return _with_help("these options and settings can't be read", parser)


def option_error(error: ArgumentError, parser: ArgumentParser) -> UserError:
    """The error for an option without its value, or with one that it doesn't take."""
    name = error.argument_name.split("/")[0]
    action = parser._option_string_actions.get(name)
    if action is None or action.nargs == 0:
        return _with_help(f"{name}: found a value, expected the option alone", parser)
    return _with_help(f"{name}: found no value, expected {describe(_hint_of(action))}", parser)


def _with_help(text: str, parser: ArgumentParser) -> UserError:
    return UserError(f"{text}\nSee: {parser.prog} --help")


def _hint_of(action: Any) -> Any:
    return getattr(action, "_typehint", None) or action.type or str


def _rejected(key: str, value: str | list[str], action: Any) -> str:
    """What is wrong with the value of an option; empty if its type accepts it."""
    if type(action).__name__ == "_ActionConfigLoad":  # --data, a whole group
        return f"{key}: found {value}, expected its settings one by one, such as --{key}.KEY VALUE"
    hint = _hint_of(action)
    for item in value if isinstance(value, list) and action.nargs else [value]:
        probe = ArgumentParser(exit_on_error=False)
        probe.add_argument("--value", type=hint)
        try:
            probe.parse_args([f"--value={item}"])
        except ArgumentError:
            option = key if "." in key else f"--{key}"
            return f"{option}: found {item}, expected {describe(hint)}"
    return ""
