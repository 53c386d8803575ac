"""segcoord score."""

from typing import Literal

from segcoord.cli.common import add_score_outputs, new_parser
from segcoord.config.loading import add_settings, parse


def score(program: str, argv: list[str]) -> int:
    """Score masks written by any program as evaluate scores a checkpoint"""
    parser = new_parser(program, score)
    parser.add_argument(
        "--predictions",
        type=str,
        required=True,
        metavar="DIR",
        help="Folder with one gray or palette PNG per image, or DIR/{name}_pred.png to select them "
        "by name",
    )
    add_settings(parser, "data")
    parser.add_argument(
        "--split", type=str, help="Split to score (default: the val_split of the settings)"
    )
    parser.add_argument(
        "--mask-values",
        type=Literal["ids", "indices"],
        help="What a mask value is: the dataset's mask value of a class, such as Cityscapes' label "
        "ids, or the position of the class from 0, such as train ids (default: ids)",
    )
    parser.add_argument(
        "--allow-extra", action="store_true", help="Ignore masks that belong to no image"
    )
    parser.add_argument(
        "--against",
        type=str,
        metavar="DIR",
        help="Folder of other predictions; test whether the mIoU differs by more than chance",
    )
    add_score_outputs(parser)
    args = parse(parser, argv)
    from segcoord.evaluation.score import run_score

    return run_score(args, parser.instantiate(args).data)
