"""What the commands share in reading their arguments."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from segcoord.errors import UserError

RUNTIME = (
    "torch, onnxruntime, openvino or openvino-bf16; default: torch for a checkpoint, for an "
    "exported folder that of its format"
)
OFFLINE = "take weights from the cache, never from the network"


def new_parser(program: str, description: str) -> ArgumentParser:
    return ArgumentParser(
        prog=program,
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )


def add_views(parser: ArgumentParser) -> None:
    """How often, and how, an image is looked at: `views.Views`."""
    parser.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], help="0.5 1.0 1.5 say (default: 1.0)"
    )
    parser.add_argument("--flip", action="store_true", help="look at each scale mirrored too")
    parser.add_argument(
        "--tile", type=str, metavar="HEIGHTxWIDTH", help="predict in windows of this size"
    )
    parser.add_argument("--overlap", type=int, help="pixels that tiles share at least (default: 0)")


def peek(argv: list[str], option: str) -> str | None:
    """The value of an option that says where other settings come from, before the real parsing.

    Of an option that is given twice the last one counts, as in the real parsing.
    """
    found = None
    for word, following in zip(argv, [*argv[1:], None]):
        if word == option:
            found = following
        elif word.startswith(f"{option}="):
            found = word.removeprefix(f"{option}=")
    return found


def data_settings(argv: list[str]) -> list[tuple[str, dict]]:
    """The data settings that the evaluated checkpoint carries, as the weakest layer."""
    path = peek(argv, "--checkpoint")
    if path is None:
        raise UserError("--checkpoint: missing; give the path of a best.ckpt")
    return settings_of(path)


def settings_of(path: str) -> list[tuple[str, dict]]:
    from segcoord.checkpoints import described

    return [(path, {"data": described(path).get("config", {}).get("data", {})})]
