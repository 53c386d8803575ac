"""segcoord evaluate, and evaluate.py."""

from segcoord.cli.common import (
    CHECKPOINT,
    DATA_DEFAULTS,
    DEVICE,
    RUNTIME,
    add_score_outputs,
    add_views,
    data_layer,
    new_parser,
)
from segcoord.config.loading import add_settings, parse, preview


def evaluate(program: str, argv: list[str]) -> int:
    """Score a checkpoint on a split or export its predictions (same as evaluate.py)"""
    parser = new_parser(program, evaluate)
    parser.add_argument("--checkpoint", type=str, required=True, help=CHECKPOINT)
    parser.add_argument(
        "--config", help=f"YAML file of settings; options override it. {DATA_DEFAULTS}"
    )
    parser.add_argument("--runtime", type=str, help=RUNTIME)
    parser.add_argument(
        "--split", type=str, help="Split to score (default: the val_split of the training run)"
    )
    add_views(parser)
    parser.add_argument("--masks", type=str, metavar="DIR", help="Write one PNG per image")
    add_score_outputs(parser)
    parser.add_argument(
        "--against", type=str, metavar="RUN", help="Compare with this run in the report"
    )
    parser.add_argument(
        "--export",
        type=str,
        metavar="SERVER",
        help="Write a test server submission to --out: voc-server or cityscapes-server",
    )
    parser.add_argument("--out", type=str, metavar="FILE", help="Output archive for --export")
    parser.add_argument("--device", type=str, default="auto", help=DEVICE)
    add_settings(parser, "data")
    early = preview(argv, parser)
    args = parse(parser, argv, *([] if early.help else data_layer(early.checkpoint)))
    from segcoord.evaluation.run import run_evaluation

    return run_evaluation(args, parser.instantiate(args).data)
