"""segcoord runs."""

from pathlib import Path

from segcoord.cli.common import new_parser
from segcoord.config.loading import parse


def runs(program: str, argv: list[str]) -> int:
    """List the runs in a folder and its subfolders, best score first"""
    parser = new_parser(program, runs)
    parser.add_argument(
        "folder", type=str, nargs="?", default="runs", metavar="DIR", help="Folder to search"
    )
    parser.add_argument("--json", type=str, metavar="FILE", help="Write the list")
    args = parse(parser, argv)
    from segcoord.training.run_list import list_runs

    return list_runs(Path(args.folder), args.json)
