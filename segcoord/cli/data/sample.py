"""segcoord data sample."""

from pathlib import Path

from segcoord.cli.common import new_parser
from segcoord.config.loading import parse
from segcoord.utils.errors import UserError


def sample(program: str, argv: list[str]) -> int:
    """Generate a small labeled dataset of synthetic street scenes"""
    parser = new_parser(program, sample)
    parser.add_argument("--layout", type=str, default="voc", help="Layout: voc or cityscapes")
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help="Folder to create")
    parser.add_argument("--train", type=int, default=240, help="Training images")
    parser.add_argument("--val", type=int, default=60, help="Validation images")
    parser.add_argument("--seed", type=int, default=0, help="Random seed")
    parser.add_argument("--size", type=str, default="256x192", help="WIDTHxHEIGHT in pixels")
    args = parse(parser, argv)
    width, _, height = args.size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise UserError(f"--size: found {args.size!r}, expected WIDTHxHEIGHT such as 256x192")
    from segcoord.data.synthetic.dataset import write_sample

    write_sample(
        Path(args.out), args.layout, args.train, args.val, args.seed, int(width), int(height)
    )
    print(f"{args.train} training and {args.val} validation images written to {args.out}")
    return 0
