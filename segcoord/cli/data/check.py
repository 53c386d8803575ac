"""segcoord data check."""

from segcoord.cli.common import new_parser
from segcoord.config.loading import add_settings, parse


def check(program: str, argv: list[str]) -> int:
    """Check images, masks and splits of a dataset before training"""
    parser = new_parser(program, check)
    add_settings(parser, "data")
    parser.add_argument("--split", type=str, help="Check only this split (default: train and val)")
    parser.add_argument("--json", type=str, metavar="FILE", help="Write the findings")
    args = parse(parser, argv)
    from segcoord.data.checks.run import check_data

    return check_data(parser.instantiate(args).data, args.split, args.json)
