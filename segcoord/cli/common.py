"""What the commands share: a parser, common options, settings that a checkpoint carries."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from jsonargparse import ArgumentParser

from segcoord.utils.errors import UserError

Command = Callable[[str, list[str]], int]
"""(program name, arguments) -> exit code. Its docstring is the description that --help prints."""

CHECKPOINT = "a best.ckpt or last.ckpt, a shared folder, or a folder written by segcoord export"
DEVICE = "auto, cpu, cuda or mps (default: auto)"
OFFLINE = "read weights from the cache, never from the network"
RUNTIME = (
    "torch, onnxruntime, openvino or openvino-bf16; default: torch for a checkpoint, the runtime "
    "of its format for an exported folder"
)


def new_parser(program: str, command: Command) -> ArgumentParser:
    """A parser whose errors are raised; its description is the docstring of `command`."""
    return ArgumentParser(
        prog=program,
        description=inspect.getdoc(command),
        exit_on_error=False,
        allow_abbrev=False,
    )


def add_views(parser: ArgumentParser) -> None:
    """Adds the options of test-time augmentation and tiling, `inference.views.Views`."""
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[1.0],
        help="test-time augmentation: 0.5 1.0 1.5 for example (default: 1.0)",
    )
    parser.add_argument("--flip", action="store_true", help="predict each scale mirrored too")
    parser.add_argument(
        "--tile", type=str, metavar="HEIGHTxWIDTH", help="predict in tiles of this size"
    )
    parser.add_argument("--overlap", type=int, help="least overlap of tiles in pixels (default: 0)")


def data_layer(checkpoint: str | None) -> list[tuple[str, dict]]:
    """The data settings stored in a checkpoint, as the weakest layer for `loading.parse`.

    Raises:
        UserError: none given, or not a checkpoint.
    """
    if checkpoint is None:
        raise UserError("--checkpoint: missing; give the path of a best.ckpt")
    from segcoord.inference.load import read_metadata

    return [(checkpoint, {"data": read_metadata(checkpoint).get("config", {}).get("data", {})})]
