"""segcoord data check."""

from segcoord.cli.common import new_parser
from segcoord.config.loading import add_settings, parse


def check(program: str, argv: list[str]) -> int:
    """Check images, masks and splits of a dataset before training"""
    parser = new_parser(program, check)
    add_settings(parser, "data")
    parser.add_argument("--split", type=str, help="Check only this split (default: train and val)")
    parser.add_argument("--json", type=str, metavar="FILE", help="Write the findings")
    parser.add_argument(
        "--write-lists", type=str, metavar="DIR", help="Write DIR/SPLIT.txt with the usable samples"
    )
    parser.add_argument(
        "--resize-masks",
        type=str,
        metavar="DIR",
        help="With --write-lists: resize masks with their image's aspect ratio to its size",
    )
    args = parse(parser, argv)
    from segcoord.data.checks.run import check_data
    from segcoord.data.checks.usable_lists import usable_lists

    data = parser.instantiate(args).data
    lists = usable_lists(args.write_lists, args.resize_masks, data.root)
    return check_data(data, args.split, args.json, lists)
