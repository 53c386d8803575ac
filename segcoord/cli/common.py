"""Shared by the commands: the parser, common options, data settings stored in a checkpoint."""

import inspect
from collections.abc import Callable

from jsonargparse import ArgumentParser

from segcoord.utils.errors import UserError

Command = Callable[[str, list[str]], int]
"""(program name, arguments) -> exit code. --help prints its docstring as the description."""

CHECKPOINT = "A best.ckpt or last.ckpt, a shared folder, or a folder written by segcoord export"
SHAREABLE = "A best.ckpt, last.ckpt or shared folder"
DATA_DEFAULTS = "Data settings default to those stored in the checkpoint"
DEVICE = "Device: auto, cpu, cuda or mps"
OFFLINE = "Load pretrained weights only from the cache"
RUNTIME = (
    "Runtime: torch, onnxruntime, openvino or openvino-bf16 (default: torch for a checkpoint, the "
    "runtime of its format for an exported folder)"
)


def new_parser(program: str, command: Command) -> ArgumentParser:
    """A parser that raises its errors; the docstring of `command` is the description."""
    return ArgumentParser(
        prog=program, description=inspect.getdoc(command), exit_on_error=False, allow_abbrev=False
    )


def add_views(parser: ArgumentParser) -> None:
    """Add the options for test-time augmentation and tiling (`scales_and_tiles.Views`)."""
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[1.0],
        help="Test-time augmentation: scales to average, for example 0.5 1.0 1.5",
    )
    parser.add_argument("--flip", action="store_true", help="Also average over a horizontal flip")
    parser.add_argument(
        "--tile", type=str, metavar="HEIGHTxWIDTH", help="Predict in tiles of this size"
    )
    parser.add_argument(
        "--overlap",
        type=int,
        help="Smallest overlap of --tile in pixels (default: a fifth of its shorter side)",
    )


def add_score_outputs(parser: ArgumentParser) -> None:
    """Add the options for what a score writes (`evaluation.outputs`)."""
    parser.add_argument("--overlays", type=str, metavar="DIR", help="Write overlays with a legend")
    parser.add_argument(
        "--sheet",
        type=str,
        metavar="FILE",
        help="Write six images with ground truth and prediction",
    )
    parser.add_argument("--json", type=str, metavar="FILE", help="Write scores and protocol")
    parser.add_argument("--report", type=str, metavar="FILE", help="Write an HTML report")
    parser.add_argument(
        "--figures", type=str, metavar="DIR", help="Write the charts of the report as PNG and PDF"
    )


def data_layer(checkpoint: str | None) -> list[tuple[str, dict]]:
    """The data settings stored in a checkpoint, as a layer for `loading.parse`.

    Raises:
        UserError: no path given, or not a checkpoint.
    """
    if checkpoint is None:
        raise UserError("--checkpoint: missing; give the path of a best.ckpt")
    from segcoord.inference.load import read_metadata

    return [(checkpoint, {"data": read_metadata(checkpoint).get("config", {}).get("data", {})})]
