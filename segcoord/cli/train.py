"""segcoord train, and train.py."""

from pathlib import Path

from segcoord.cli.common import OFFLINE, new_parser
from segcoord.config.loading import add_settings, parse, preview, read_yaml, task_of
from segcoord.config.schema import CONFIGS
from segcoord.utils.errors import UserError


def train(program: str, argv: list[str]) -> int:
    """Train a segmentation model, or pretrain its encoder as a classifier (same as train.py)"""
    parser = new_parser(program, train)
    parser.add_argument("--run", type=str, help="Folder of the run (default: runs/CONFIG/NUMBER)")
    parser.add_argument("--resume", type=str, metavar="RUN", help="Continue this run")
    parser.add_argument(
        "--init-from",
        type=str,
        metavar="FILE",
        help="Initialize all weights from a checkpoint, instead of model.encoder_weights",
    )
    parser.add_argument("--offline", action="store_true", help=OFFLINE)
    parser.add_argument("--config", help="YAML file of settings; the options below override it")
    # The YAML files name the task, which determines the options.
    early = preview(argv, parser)
    layers = []
    if early.resume is not None:
        file = Path(early.resume) / "config.yaml"
        if not file.is_file():
            raise UserError(f"--resume {early.resume}: not a run: found no config.yaml in it")
        layers = [(str(file), read_yaml(file))]
    named = [(early.config, read_yaml(Path(early.config)))] if early.config else []
    task = next((task_of(*layer) for layer in layers + named), "segmentation")
    add_settings(parser, "model", "data", "train", task=task)
    args = parse(parser, argv, *layers)
    if args.resume and (args.run or args.init_from is not None or args.offline):
        raise UserError(
            "--resume: can't be combined with --run, --init-from or --offline; leave them out"
        )
    if args.offline and task == "classification":
        raise UserError("--offline: a classifier needs no pretrained weights; leave it out")
    given = parser.instantiate(args)
    config = CONFIGS[task](given.model, given.data, given.train)
    if args.init_from is not None and task == "segmentation":
        config.model.encoder_weights = None  # replaced by --init-from
    config.check()
    from segcoord.training.launch import run_training

    return run_training(
        config,
        Path(args.config).stem if args.config else "run",
        run=args.run,
        resume=args.resume,
        init=args.init_from,
        offline=args.offline,
        again=f"python {program}" if program.endswith(".py") else program,
    )
