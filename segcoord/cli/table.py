"""segcoord table."""

import shlex
from pathlib import Path

from jsonargparse import Namespace

from segcoord.cli.common import OFFLINE, new_parser
from segcoord.config.loading import add_settings, parse, preview
from segcoord.config.schema import CONFIGS
from segcoord.utils.errors import UserError


def table(program: str, argv: list[str]) -> int:
    """Train every row of a table of encoders and write it as Markdown and CSV; resumable"""
    parsers = {task: new_parser(program, table) for task in CONFIGS}
    for task, parser in parsers.items():
        parser.add_argument(
            "table",
            type=str,
            metavar="TABLE.yaml",
            help="Table to train, such as configs/tables/sample.yaml",
        )
        parser.add_argument(
            "--out", type=str, metavar="DIR", help="Folder to write (default: runs/tables/TABLE)"
        )
        parser.add_argument("--offline", action="store_true", help=OFFLINE)
        add_settings(parser, "model", "data", "train", task=task)
    early = preview(argv, *parsers.values())
    if early.help:
        parse(parsers["segmentation"], argv)
    if early.table is None:
        raise UserError("TABLE.yaml: missing; give one such as configs/tables/sample.yaml")
    if early.config:
        raise UserError("--config: TABLE.yaml already names the configuration; leave it out")
    from segcoord.training.table import run_table
    from segcoord.training.table_config import read_table

    given = read_table(Path(early.table))
    parser = parsers[given.task]

    def configure(layers: list[tuple[str, dict]]) -> tuple[Namespace, object]:
        args = parse(parser, argv, *layers)
        groups = parser.instantiate(args)
        config = CONFIGS[given.task](groups.model, groups.data, groups.train)
        config.check()
        return args, config

    return run_table(given, configure, shlex.join([*program.split(), *argv]))
