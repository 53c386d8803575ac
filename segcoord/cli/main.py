"""The `segcoord` command: maps its subcommands to functions and prints their errors."""

import inspect
import sys

from segcoord.cli.attend import attend
from segcoord.cli.common import Command
from segcoord.cli.compare import compare
from segcoord.cli.data.check import check
from segcoord.cli.data.get import get
from segcoord.cli.data.ids import ids
from segcoord.cli.data.import_ import import_
from segcoord.cli.data.pack import pack
from segcoord.cli.data.sample import sample
from segcoord.cli.data.show import show
from segcoord.cli.data.split import split
from segcoord.cli.data.suspects import suspects
from segcoord.cli.data.trainaug import trainaug
from segcoord.cli.data.weights import weights
from segcoord.cli.demo import demo
from segcoord.cli.evaluate import evaluate
from segcoord.cli.export import export
from segcoord.cli.models import models
from segcoord.cli.predict import predict
from segcoord.cli.runs import runs
from segcoord.cli.score import score
from segcoord.cli.share import share
from segcoord.cli.table import table
from segcoord.cli.train import train
from segcoord.config.messages import did_you_mean
from segcoord.utils.allocator import keep_freed_memory
from segcoord.utils.cpu import limit_busy_waiting
from segcoord.utils.errors import UserError

_TOP = (
    *(train, evaluate, score, predict, export, compare),
    *(models, table, runs, attend, share, demo),
)
_DATA = (sample, import_, check, show, split, suspects, get, trainaug, ids, weights, pack)
COMMANDS: dict[str, Command] = {command.__name__: command for command in _TOP}
COMMANDS |= {f"data {command.__name__.rstrip('_')}": command for command in _DATA}


def main(argv: list[str] | None = None) -> int:
    """Run the `segcoord` command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    n = 2 if argv[:1] == ["data"] else 1
    name = " ".join(argv[:n])
    if name in COMMANDS:
        return run(COMMANDS[name], f"segcoord {name}", argv[n:])
    if not argv or name in ("-h", "--help", "data", "data --help", "data -h"):
        print(usage(), end="")
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"segcoord {version('segcoord')}")
        return 0
    hint = did_you_mean(name, list(COMMANDS))
    print(f"segcoord: unknown command {name!r}{hint}\n\n{usage()}", end="", file=sys.stderr)
    return 2


def usage() -> str:
    """The list of all commands with their descriptions."""
    lines = (f"  {name:14}{inspect.getdoc(each)}\n" for name, each in COMMANDS.items())
    return (
        f"usage: segcoord COMMAND ...\n\n{''.join(lines)}\n"
        "segcoord COMMAND --help lists the options of a command.\n"
    )


def run(command: Command, program: str, argv: list[str]) -> int:
    """Run a command and return its exit code; user errors are printed without a traceback."""
    keep_freed_memory()
    limit_busy_waiting()
    try:
        return command(program, argv)
    except (UserError, OSError) as error:  # the text of an OSError names the file
        # A DataLoader worker wraps the message in its traceback.
        message = str(error).rpartition(f"{UserError.__module__}.UserError: ")[2].strip()
        print(f"{program}: error: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return 130
