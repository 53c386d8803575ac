"""The commands and their arguments. Heavy imports wait until a command runs, so --help is quick."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from jsonargparse import Namespace

from segcoord.allocator import keep_freed_memory
from segcoord.arguments import (
    OFFLINE,
    RUNTIME,
    add_views,
    data_settings,
    new_parser,
    peek,
    settings_of,
)
from segcoord.cli_data import (
    data_check,
    data_get,
    data_ids,
    data_pack,
    data_sample,
    data_trainaug,
    data_weights,
)
from segcoord.cli_models import demo, export, predict, share
from segcoord.config import CONFIGS
from segcoord.errors import UserError
from segcoord.settings import add_settings, parse, read_yaml, task_of

USAGE = """usage: segcoord COMMAND ...

  train         train a model; also: python train.py
  evaluate      score a model on a split, export its masks; also: python evaluate.py
  export        write a checkpoint as ONNX, OpenVINO, TorchScript or pt2, and verify it
  predict       write masks and overlays of photos, folders, videos or a camera
  compare       tell whether two checkpoints differ by more than chance
  models        list the encoders with their parameters and multiply-adds
  table         train every row of a table of encoders, write it as Markdown and CSV
  runs          list the runs below a folder with the best mIoU of each
  attend        draw where a model looks, and its coordinate gates
  share         write a checkpoint as safetensors and JSON, or upload it to the Hugging Face hub
  demo          look at a model's masks in the browser
  data sample   draw a small labelled dataset of street scenes
  data check    look for mistakes in a dataset before they cost a training
  data get      download Pascal VOC 2012 or SBD from its owner
  data trainaug make VOC's trainaug split from SBD
  data ids      make masks of class ids from masks in the classes' colours
  data weights  show the weights of the classes in the loss, by each formula
  data pack     decode a dataset once, so that training reads pixels and nothing else

segcoord COMMAND --help tells all the settings of a command.
"""


def main(argv: list[str] | None = None) -> int:
    """The `segcoord` console command."""
    argv = sys.argv[1:] if argv is None else argv
    words = 2 if argv[:1] == ["data"] else 1
    name = " ".join(argv[:words])
    if name in COMMANDS:
        return run(COMMANDS[name], f"segcoord {name}", argv[words:])
    if not argv or name in ("-h", "--help", "data", "data --help", "data -h"):
        print(USAGE, end="")
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"segcoord {version('segcoord')}")
        return 0
    print(f"segcoord: unknown command {name!r}\n\n{USAGE}", end="", file=sys.stderr)
    return 2


def run(command: Callable[[str, list[str]], int], program: str, argv: list[str]) -> int:
    """Runs a command; a user's mistake is told in words, without a traceback."""
    keep_freed_memory()
    try:
        return command(program, argv)
    except UserError as error:
        # From a loader's process the message comes wrapped in that process's traceback.
        message = str(error).rpartition(f"{UserError.__module__}.UserError: ")[2].strip()
        print(f"{program}: error: {message}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder that was taken away: it names the file
        print(f"{program}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return 130


def train(program: str, argv: list[str]) -> int:
    """Trains a model from a configuration."""
    parser = new_parser(program, "Train a segmentation model, or a backbone to classify images.")
    resumed, config_file = peek(argv, "--resume"), peek(argv, "--config")
    layers = []
    if resumed is not None:
        file = Path(resumed) / "config.yaml"
        if not file.is_file():
            raise UserError(f"--resume {resumed}: no run there, for it has no config.yaml")
        layers = [(str(file), read_yaml(file))]
    named = [(config_file, read_yaml(Path(config_file)))] if config_file else []
    task = next((task_of(*layer) for layer in layers + named), "segmentation")
    add_settings(parser, "model", "data", "train", task=task)
    parser.add_argument("--run", type=str, help="folder of the run; default runs/CONFIG/NUMBER")
    parser.add_argument("--resume", type=str, metavar="RUN", help="go on with this run")
    parser.add_argument(
        "--init-from",
        type=str,
        metavar="FILE",
        help="start from the weights of a checkpoint; takes the place of model.encoder_weights",
    )
    parser.add_argument("--offline", action="store_true", help=OFFLINE)
    args = parse(parser, argv, *layers)
    if resumed and (args.run or args.init_from is not None or args.offline):
        raise UserError(
            "--resume goes on with a run as it is; it takes no --run, --init-from or --offline"
        )
    if args.offline and task == "classification":
        raise UserError("--offline: a classifier starts at random and fetches nothing")
    given = parser.instantiate(args)
    config = CONFIGS[task](given.model, given.data, given.train)
    if args.init_from is not None and task == "segmentation":
        config.model.encoder_weights = None  # --init-from takes its place
    config.check()
    from segcoord.launch import run_training

    return run_training(
        config,
        Path(args.config).stem if args.config else "run",
        run=args.run,
        resume=resumed,
        init=args.init_from,
        offline=args.offline,
        again=f"python {program}" if program.endswith(".py") else program,
    )


def table(program: str, argv: list[str]) -> int:
    """Trains the rows of a table, each for several seeds."""
    parser = new_parser(program, "Train every row of a table; go on where it stopped.")
    parser.add_argument("table", type=str, metavar="TABLE.yaml", help="see configs/tables")
    parser.add_argument("--out", type=str, metavar="DIR", help="default runs/tables/TABLE")
    parser.add_argument("--offline", action="store_true", help=OFFLINE)
    path = next((Path(w) for w in argv if w.endswith((".yaml", ".yml"))), None)
    if path is None or {"-h", "--help"} & {*argv}:
        add_settings(parser, "model", "data", "train")
        if {"-h", "--help"} & {*argv}:
            parse(parser, argv)
        raise UserError("expected a table's YAML file, configs/tables/sample.yaml say")
    if any(word.partition("=")[0] == "--config" for word in argv):
        raise UserError("--config: a table's file names its own configuration")
    from segcoord.table import run_table
    from segcoord.table_file import read_table

    given = read_table(path)
    add_settings(parser, "model", "data", "train", task=given.task)

    def configure(layers: list[tuple[str, dict]]) -> tuple[Namespace, object]:
        args = parse(parser, argv, *layers)
        groups = parser.instantiate(args)
        config = CONFIGS[given.task](groups.model, groups.data, groups.train)
        config.check()
        return args, config

    return run_table(given, configure, shlex.join([*program.split(), *argv]))


def evaluate(program: str, argv: list[str]) -> int:
    """Scores a checkpoint and exports its predictions."""
    parser = new_parser(program, "Score a checkpoint on a split; export its predictions.")
    parser.add_argument(
        "--checkpoint",
        type=str,
        required=True,
        help="a best.ckpt or last.ckpt, or a folder of segcoord export",
    )
    parser.add_argument("--runtime", type=str, help=RUNTIME)
    parser.add_argument("--split", type=str, help="default: the val_split of the training")
    add_views(parser)
    parser.add_argument("--masks", type=str, metavar="DIR", help="write one PNG per image")
    parser.add_argument("--overlays", type=str, metavar="DIR", help="write blends with a legend")
    parser.add_argument(
        "--sheet", type=str, metavar="FILE", help="write image, truth and prediction of six images"
    )
    parser.add_argument("--json", type=str, metavar="FILE", help="write scores and protocol")
    parser.add_argument("--report", type=str, metavar="FILE", help="write a page that shows it all")
    parser.add_argument(
        "--figures", type=str, metavar="DIR", help="write the report's charts as PNG and PDF"
    )
    parser.add_argument(
        "--against", type=str, metavar="RUN", help="in the report, what changed since this one"
    )
    parser.add_argument(
        "--export",
        type=str,
        metavar="SERVER",
        help="write what an official server takes to --out: voc-server or cityscapes-server",
    )
    parser.add_argument("--out", type=str, metavar="FILE", help="the archive of --export")
    parser.add_argument(
        "--device", type=str, default="auto", help="auto, cpu, cuda or mps (default: auto)"
    )
    add_settings(parser, "data")
    from_run = []
    if "-h" not in argv and "--help" not in argv:
        from_run = data_settings(argv)
    args = parse(parser, argv, *from_run)
    from segcoord.evaluate_command import run_evaluation

    return run_evaluation(args, parser.instantiate(args).data)


def models(program: str, argv: list[str]) -> int:
    """Lists the encoders."""
    parser = new_parser(program, "List the encoders with their parameters and multiply-adds.")
    parser.add_argument("pattern", type=str, nargs="?", default="*", help='"*_ca_*" say')
    parser.add_argument("--output-stride", type=int, default=16, help="16 or 8 (default: 16)")
    args = parse(parser, argv)
    from segcoord.commands import list_models

    list_models(args.pattern, args.output_stride)
    return 0


def runs(program: str, argv: list[str]) -> int:
    """Lists the runs below a folder."""
    parser = new_parser(program, "List the runs in a folder and below it, the best first.")
    parser.add_argument("folder", type=str, nargs="?", default="runs", metavar="DIR")
    parser.add_argument("--json", type=str, metavar="FILE", help="write them as JSON too")
    args = parse(parser, argv)
    from segcoord.run_list import list_runs

    return list_runs(Path(args.folder), args.json)


def attend(program: str, argv: list[str]) -> int:
    """Draws Grad-CAM and the gates of one or several checkpoints for one image."""
    parser = new_parser(
        program, "Draw where models look: Grad-CAM and the gates of their attention."
    )
    parser.add_argument(
        "paths",
        type=str,
        nargs="+",
        metavar="CHECKPOINT... IMAGE",
        help="a row for each checkpoint",
    )
    parser.add_argument(
        "--class", type=str, metavar="NAME", help="default: what the first model sees most of"
    )
    parser.add_argument(
        "--block", type=str, help="blocks.5.2 say; default: each model's last one with attention"
    )
    parser.add_argument("--out", type=str, default="attend.png", metavar="FILE", help="a PNG")
    args = parse(parser, argv)
    from segcoord.commands import draw_attend

    draw_attend(args.paths, args["class"], args.block, Path(args.out))
    return 0


def compare(program: str, argv: list[str]) -> int:
    """Compares two checkpoints on the same images."""
    parser = new_parser(program, "Tell whether two checkpoints differ by more than chance.")
    for name in ("run_a", "run_b"):
        text = "a run's folder, whose best.ckpt is meant, or a checkpoint"
        parser.add_argument(name, type=str, metavar=name.upper(), help=text)
    parser.add_argument("--split", type=str, help="default: the val_split of RUN_A")
    parser.add_argument("--json", type=str, metavar="FILE", help="write all of it")
    parser.add_argument(
        "--resamples", type=int, default=10_000, help="draws of the images (default: 10000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    parser.add_argument(
        "--device", type=str, default="auto", help="auto, cpu, cuda or mps (default: auto)"
    )
    add_settings(parser, "data")
    from_run = []
    if not {"-h", "--help"} & {*argv}:
        # Each of its options takes a value, so the words that follow none are the runs.
        takes = [word.startswith("-") and "=" not in word for word in ["", *argv]]
        runs = [w for w, value in zip(argv, takes) if not (value or w.startswith("-"))]
        if len(runs) != 2:
            raise UserError(f"found {' '.join(runs) or 'nothing'}, expected RUN_A RUN_B")
        from segcoord.report_commands import checkpoint_in

        from_run = settings_of(str(checkpoint_in(runs[0])))
    args = parse(parser, argv, *from_run)
    from segcoord.report_commands import run_comparison

    return run_comparison(args, parser.instantiate(args).data)


COMMANDS: dict[str, Callable[[str, list[str]], int]] = {
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "predict": predict,
    "compare": compare,
    "models": models,
    "attend": attend,
    "share": share,
    "demo": demo,
    "table": table,
    "runs": runs,
    "data sample": data_sample,
    "data check": data_check,
    "data get": data_get,
    "data trainaug": data_trainaug,
    "data ids": data_ids,
    "data weights": data_weights,
    "data pack": data_pack,
}
