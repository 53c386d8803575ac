"""The commands on datasets and their arguments. Heavy imports wait until a command runs."""

from __future__ import annotations

from pathlib import Path

from segcoord.arguments import new_parser
from segcoord.errors import UserError
from segcoord.settings import add_settings, parse


def data_sample(program: str, argv: list[str]) -> int:
    """Draws the sample dataset."""
    parser = new_parser(program, "Draw a small labelled dataset of street scenes.")
    parser.add_argument("--layout", type=str, default="voc", help="voc or cityscapes")
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--train", type=int, default=240, help="training images")
    parser.add_argument("--val", type=int, default=60, help="validation images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=str, default="256x192", help="WIDTHxHEIGHT in pixels")
    args = parse(parser, argv)
    from segcoord.data.sample import write_sample

    width, _, height = args.size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise UserError(f"--size: found {args.size!r}, expected WIDTHxHEIGHT, 256x192 say")
    write_sample(
        Path(args.out), args.layout, args.train, args.val, args.seed, int(width), int(height)
    )
    print(f"{args.train} training and {args.val} validation scenes are in {args.out}")
    return 0


def data_check(program: str, argv: list[str]) -> int:
    """Checks the splits that a configuration names."""
    parser = new_parser(program, "Look for mistakes in the splits that a configuration names.")
    add_settings(parser, "data")
    parser.add_argument("--split", type=str, help="check this split instead of the two")
    parser.add_argument("--json", type=str, metavar="FILE", help="write all that was found")
    args = parse(parser, argv)
    from segcoord.data_commands import check_data

    return check_data(parser.instantiate(args).data, args.split, args.json)


def data_ids(program: str, argv: list[str]) -> int:
    """Makes masks of class ids from masks in colours."""
    parser = new_parser(program, "Make masks of class ids from masks in the classes' colours.")
    add_settings(parser, "data")
    parser.add_argument("--masks", type=str, required=True, metavar="DIR", help="masks in colours")
    parser.add_argument(
        "--out", type=str, required=True, metavar="DIR", help="folder for PNGs of the same stems"
    )
    parser.add_argument(
        "--void",
        type=str,
        action="append",
        default=[],
        metavar="R,G,B",
        help="a colour that counts for nothing; may be given again for others",
    )
    args = parse(parser, argv)
    from segcoord.data_commands import make_ids

    make_ids(parser.instantiate(args).data, Path(args.masks), Path(args.out), args.void)
    return 0


def data_weights(program: str, argv: list[str]) -> int:
    """Shows the class weights of the training split."""
    parser = new_parser(program, "Show the weights of the classes in the loss, by each formula.")
    add_settings(parser, "data")
    args = parse(parser, argv)
    from segcoord.data_commands import show_weights

    show_weights(parser.instantiate(args).data)
    return 0


def data_get(program: str, argv: list[str]) -> int:
    """Downloads a dataset."""
    parser = new_parser(program, "Download a dataset from its owner, verify it and unpack it.")
    parser.add_argument("name", type=str, help="voc, sbd or cityscapes (which needs your login)")
    parser.add_argument("--root", type=str, metavar="DIR", help="default data/NAME")
    args = parse(parser, argv)
    from segcoord.data.get import get_dataset

    get_dataset(args.name, Path(args.root or f"data/{args.name}"))
    return 0


def data_trainaug(program: str, argv: list[str]) -> int:
    """Makes VOC's trainaug split."""
    parser = new_parser(
        program, "Make SegmentationClassAug and trainaug.txt in VOC's tree from SBD."
    )
    parser.add_argument("--voc", type=str, required=True, metavar="DIR", help="has VOC2012")
    parser.add_argument("--sbd", type=str, required=True, metavar="DIR", help="has SBD's dataset")
    args = parse(parser, argv)
    from segcoord.data.trainaug import make_trainaug

    make_trainaug(Path(args.voc), Path(args.sbd))
    return 0


def data_pack(program: str, argv: list[str]) -> int:
    """Writes the packs of the splits that a configuration names."""
    parser = new_parser(program, "Decode a split once into files that training reads crops from.")
    add_settings(parser, "data")
    parser.add_argument("--split", type=str, help="pack this split instead of the two")
    parser.add_argument(
        "--out", type=str, metavar="DIR", help="write DIR/SPLIT; default: .segcoord in the dataset"
    )
    parser.add_argument("--workers", type=int, help="processes that decode; default: all cores")
    parser.add_argument(
        "--verify", action="store_true", help="write nothing; read every byte of the packs"
    )
    args = parse(parser, argv)
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers: found {args.workers}, expected 1 or more")
    from segcoord.data_commands import pack_data

    data = parser.instantiate(args).data
    pack_data(data, args.split, args.out, args.workers, args.verify)
    return 0
