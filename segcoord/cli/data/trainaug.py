"""segcoord data trainaug."""

from pathlib import Path

from segcoord.cli.common import new_parser
from segcoord.config.loading import parse


def trainaug(program: str, argv: list[str]) -> int:
    """Create SegmentationClassAug and trainaug.txt of Pascal VOC from SBD"""
    parser = new_parser(program, trainaug)
    parser.add_argument(
        "--voc", type=str, required=True, metavar="DIR", help="Folder that contains VOC2012"
    )
    parser.add_argument(
        "--sbd", type=str, required=True, metavar="DIR", help="Folder that contains SBD"
    )
    args = parse(parser, argv)
    from segcoord.data.voc_trainaug import make_trainaug

    make_trainaug(Path(args.voc), Path(args.sbd))
    return 0
