"""segcoord compare."""

from segcoord.cli.common import DEVICE, data_layer, new_parser
from segcoord.config.loading import add_settings, parse, preview


def compare(program: str, argv: list[str]) -> int:
    """Test whether the mIoU of two checkpoints differs by more than chance"""
    parser = new_parser(program, compare)
    for name in ("run_a", "run_b"):
        text = "folder of a run, whose best.ckpt is used, or a checkpoint"
        parser.add_argument(name, type=str, metavar=name.upper(), help=text)
    parser.add_argument("--split", type=str, help="default: the val_split of RUN_A")
    parser.add_argument("--json", type=str, metavar="FILE", help="write the result")
    parser.add_argument("--resamples", type=int, default=10_000, help="bootstrap resamples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resampling")
    parser.add_argument("--device", type=str, default="auto", help=DEVICE)
    add_settings(parser, "data")
    early = preview(argv, parser)
    layers = []
    if early.run_b is not None and not early.help:
        from segcoord.inference.load import checkpoint_path

        layers = data_layer(str(checkpoint_path(early.run_a)))
    args = parse(parser, argv, *layers)
    from segcoord.evaluation.compare import run_comparison

    return run_comparison(args, parser.instantiate(args).data)
