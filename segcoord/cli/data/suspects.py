"""segcoord data suspects."""

from segcoord.cli.common import (
    CHECKPOINT,
    DATA_DEFAULTS,
    DEVICE,
    RUNTIME,
    add_views,
    data_layer,
    new_parser,
)
from segcoord.config.loading import add_settings, parse, preview
from segcoord.utils.errors import UserError


def suspects(program: str, argv: list[str]) -> int:
    """Rank images whose labels look wrong, or unlabeled images to label next"""
    parser = new_parser(program, suspects)
    parser.add_argument("--checkpoint", type=str, required=True, help=CHECKPOINT)
    parser.add_argument(
        "--config", help=f"YAML file of settings; options override it. {DATA_DEFAULTS}"
    )
    parser.add_argument("--runtime", type=str, help=RUNTIME)
    parser.add_argument(
        "--split", type=str, help="Split to rank (default: the train_split of the training run)"
    )
    parser.add_argument(
        "--unlabelled",
        type=str,
        metavar="DIR",
        help="Rank the images of this folder by what to label next, instead of a split",
    )
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help="Folder to write")
    parser.add_argument(
        "--top", type=int, default=24, metavar="N", help="Images on the contact sheet, at most 100"
    )
    add_views(parser)
    parser.add_argument("--device", type=str, default="auto", help=DEVICE)
    early = preview(argv, parser)
    if early.unlabelled is not None and not early.help:
        _refuse_settings(argv)
        args = parse(parser, argv)
        from segcoord.evaluation.suspects.unlabelled import run_unlabelled

        return run_unlabelled(args)
    add_settings(parser, "data")
    args = parse(parser, argv, *([] if early.help else data_layer(early.checkpoint)))
    from segcoord.evaluation.suspects.run import run_suspects

    return run_suspects(args, parser.instantiate(args).data)


def _refuse_settings(argv: list[str]) -> None:
    """Raise UserError for options that describe a dataset, which --unlabelled doesn't read."""
    for word in argv:
        option = word.partition("=")[0]
        if option in ("--split", "--config") or option.startswith("--data."):
            raise UserError(
                f"{option}: has no use with --unlabelled, which ranks a folder of images instead "
                "of a split; give one of them"
            )
