"""segcoord compare."""

from segcoord.cli.common import DATA_DEFAULTS, DEVICE, data_layer, new_parser
from segcoord.config.loading import add_settings, parse, preview
from segcoord.utils.errors import UserError


def compare(program: str, argv: list[str]) -> int:
    """Test whether the mIoU of two checkpoints differs by more than chance"""
    parser = new_parser(program, compare)
    for name in ("run_a", "run_b"):
        text = "Folder of a run, whose best.ckpt is used, or a checkpoint"
        parser.add_argument(name, type=str, metavar=name.upper(), help=text)
    parser.add_argument(
        "--split", type=str, help="Split to compare on (default: the val_split of RUN_A)"
    )
    parser.add_argument("--json", type=str, metavar="FILE", help="Write the result")
    parser.add_argument("--resamples", type=int, default=10_000, help="Bootstrap resamples")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the resampling")
    parser.add_argument("--device", type=str, default="auto", help=DEVICE)
    parser.add_argument(
        "--config", help=f"YAML file of settings; options override it. {DATA_DEFAULTS} of RUN_A"
    )
    add_settings(parser, "data")
    early = preview(argv, parser)
    layers = []
    if early.run_b is None and not early.help and (early.run_a or not argv):
        raise UserError("expected RUN_A RUN_B")
    if early.run_b is not None and not early.help:
        from segcoord.inference.load import checkpoint_path

        layers = data_layer(str(checkpoint_path(early.run_a)))
    args = parse(parser, argv, *layers)
    from segcoord.evaluation.compare import run_comparison

    return run_comparison(args, parser.instantiate(args).data)
