"""segcoord data get."""

from pathlib import Path

from segcoord.cli.common import new_parser
from segcoord.config.loading import parse


def get(program: str, argv: list[str]) -> int:
    """Download, verify and extract Pascal VOC 2012 or SBD; cityscapes prints instructions"""
    parser = new_parser(program, get)
    parser.add_argument(
        "name", type=str, help="Dataset: voc or sbd; cityscapes prints instructions"
    )
    parser.add_argument(
        "--root", type=str, metavar="DIR", help="Folder to write (default: data/NAME)"
    )
    args = parse(parser, argv)
    from segcoord.data.download import get_dataset

    get_dataset(args.name, Path(args.root or f"data/{args.name}"))
    return 0
