"""The commands and their arguments. Heavy imports wait until a command runs, so --help is quick."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from segcoord.allocator import keep_freed_memory
from segcoord.config import CONFIGS
from segcoord.errors import UserError
from segcoord.settings import add_settings, parse, read_yaml, task_of

RUNTIME = (
    "torch, onnxruntime, openvino or openvino-bf16; default: torch for a checkpoint, for an "
    "exported folder that of its format"
)
OFFLINE = "take weights from the cache, never from the network"
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


def _parser(program: str, description: str) -> ArgumentParser:
    return ArgumentParser(
        prog=program,
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )


def _peek(argv: list[str], option: str) -> str | None:
    """The value of an option that says where other settings come from, before the real parsing."""
    for word, following in zip(argv, [*argv[1:], None]):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}=")
    return None


def train(program: str, argv: list[str]) -> int:
    """Trains a model from a configuration."""
    parser = _parser(program, "Train a segmentation model, or a backbone to classify images.")
    resumed, config_file = _peek(argv, "--resume"), _peek(argv, "--config")
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
    parser = _parser(program, "Train every row of a table; go on where it stopped.")
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
    parser = _parser(program, "Score a checkpoint on a split; export its predictions.")
    parser.add_argument(
        "--checkpoint",
        type=str,
        required=True,
        help="a best.ckpt or last.ckpt, or a folder of segcoord export",
    )
    parser.add_argument("--runtime", type=str, help=RUNTIME)
    parser.add_argument("--split", type=str, help="default: the val_split of the training")
    parser.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], help="0.5 1.0 1.5 say (default: 1.0)"
    )
    parser.add_argument("--flip", action="store_true", help="look at each scale mirrored too")
    parser.add_argument(
        "--tile", type=str, metavar="HEIGHTxWIDTH", help="predict in windows of this size"
    )
    parser.add_argument("--overlap", type=int, help="pixels that tiles share at least (default: 0)")
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
        from_run = _data_settings(argv)
    args = parse(parser, argv, *from_run)
    from segcoord.evaluate_command import run_evaluation

    return run_evaluation(args, parser.instantiate(args).data)


def export(program: str, argv: list[str]) -> int:
    """Writes a checkpoint for another runtime."""
    parser = _parser(program, "Write a checkpoint as files for other runtimes, and verify them.")
    parser.add_argument("--checkpoint", type=str, required=True, help="a best.ckpt or last.ckpt")
    parser.add_argument(
        "--format", type=str, required=True, help="onnx, openvino, torchscript or pt2"
    )
    parser.add_argument(
        "--precision", type=str, default="fp32", help="fp32, fp16 or int8 (default: fp32)"
    )
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--image-to-mask",
        action="store_true",
        help="write a second file that takes uint8 images of any size and gives class ids",
    )
    parser.add_argument(
        "--calibration",
        type=int,
        metavar="N",
        help="int8: images of the train split that it looks at (default: 300, or all)",
    )
    parser.add_argument(
        "--split", type=str, help="int8: score it on this split (default: that of the training)"
    )
    asks, int8 = bool({"-h", "--help"} & {*argv}), _peek(argv, "--precision") == "int8"
    if asks or int8:
        add_settings(parser, "data")
    else:
        for_images = ("--calibration", "--split", "--config", "--data")
        given = next((word for word in argv if word.startswith(for_images)), None)
        if given is not None:
            raise UserError(f"{given}: only --precision int8 reads images; leave it out")
    args = parse(parser, argv, *(_data_settings(argv) if int8 and not asks else []))
    from segcoord.deploy.command import run_export

    return run_export(args, parser.instantiate(args).data if int8 else None)


def predict(program: str, argv: list[str]) -> int:
    """Predicts photos and videos."""
    parser = _parser(program, "Write masks, overlays and class areas of photos and videos.")
    parser.add_argument(
        "inputs",
        type=str,
        nargs="+",
        metavar="INPUT",
        help="an image, a video, a folder with all below it, a quoted glob, a .txt with a path in "
        "each line, or the number of a camera",
    )
    parser.add_argument(
        "--checkpoint",
        type=str,
        required=True,
        help="a best.ckpt or last.ckpt, or a folder of segcoord export",
    )
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--runtime", type=str, help=RUNTIME)
    parser.add_argument("--probs", action="store_true", help="write probabilities too, as .npz")
    parser.add_argument("--no-overlays", action="store_true", help="write no overlays")
    parser.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], help="0.5 1.0 1.5 say (default: 1.0)"
    )
    parser.add_argument("--flip", action="store_true", help="look at each scale mirrored too")
    parser.add_argument(
        "--tile", type=str, metavar="HEIGHTxWIDTH", help="predict in windows of this size"
    )
    parser.add_argument("--overlap", type=int, help="pixels that tiles share at least (default: 0)")
    parser.add_argument(
        "--max-pixels",
        type=int,
        help="cut what has more into tiles of so many at most (default: 4194304)",
    )
    parser.add_argument(
        "--device", type=str, default="auto", help="auto, cpu, cuda or mps (default: auto)"
    )
    args = parse(parser, argv)
    from segcoord.predict_command import run_prediction

    return run_prediction(args)


def models(program: str, argv: list[str]) -> int:
    """Lists the encoders."""
    parser = _parser(program, "List the encoders with their parameters and multiply-adds.")
    parser.add_argument("pattern", type=str, nargs="?", default="*", help='"*_ca_*" say')
    parser.add_argument("--output-stride", type=int, default=16, help="16 or 8 (default: 16)")
    args = parse(parser, argv)
    from segcoord.commands import list_models

    list_models(args.pattern, args.output_stride)
    return 0


def runs(program: str, argv: list[str]) -> int:
    """Lists the runs below a folder."""
    parser = _parser(program, "List the runs in a folder and below it, the best first.")
    parser.add_argument("folder", type=str, nargs="?", default="runs", metavar="DIR")
    parser.add_argument("--json", type=str, metavar="FILE", help="write them as JSON too")
    args = parse(parser, argv)
    from segcoord.run_list import list_runs

    return list_runs(Path(args.folder), args.json)


def attend(program: str, argv: list[str]) -> int:
    """Draws Grad-CAM and the gates of one or several checkpoints for one image."""
    parser = _parser(program, "Draw where models look: Grad-CAM and the gates of their attention.")
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


def share(program: str, argv: list[str]) -> int:
    """Writes a checkpoint in the form that is shared."""
    parser = _parser(program, "Write a checkpoint as safetensors and JSON, which smp opens too.")
    parser.add_argument("--checkpoint", type=str, required=True, help="a best.ckpt or last.ckpt")
    parser.add_argument("--out", type=str, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--push", type=str, metavar="USER/NAME", help="upload it to the Hugging Face hub"
    )
    parser.add_argument("--private", action="store_true", help="where the repository is made anew")
    args = parse(parser, argv)
    from segcoord.share_command import share

    return share(args.checkpoint, args.out, args.push, args.private)


def demo(program: str, argv: list[str]) -> int:
    """Serves a page that shows what models see."""
    parser = _parser(program, "Look at a model's masks in the browser; nothing leaves the machine.")
    parser.add_argument(
        "--checkpoint", type=str, nargs="+", required=True, help="checkpoints, exported folders"
    )
    parser.add_argument(
        "--runtime", type=str, nargs="+", help="default: each that a checkpoint can be run by"
    )
    parser.add_argument("--samples", type=str, metavar="DIR", help="images to try; default: drawn")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument(
        "--host", type=str, default="127.0.0.1", help="0.0.0.0 to let others in (default: no one)"
    )
    args = parse(parser, argv)
    from segcoord.ui.serve import run_demo

    return run_demo(args.checkpoint, args.runtime, args.samples, args.host, args.port)


def compare(program: str, argv: list[str]) -> int:
    """Compares two checkpoints on the same images."""
    parser = _parser(program, "Tell whether two checkpoints differ by more than chance.")
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

        from_run = _settings_of(str(checkpoint_in(runs[0])))
    args = parse(parser, argv, *from_run)
    from segcoord.report_commands import run_comparison

    return run_comparison(args, parser.instantiate(args).data)


def _data_settings(argv: list[str]) -> list[tuple[str, dict]]:
    """The data settings that the evaluated checkpoint carries, as the weakest layer."""
    path = _peek(argv, "--checkpoint")
    if path is None:
        raise UserError("--checkpoint: missing; give the path of a best.ckpt")
    return _settings_of(path)


def _settings_of(path: str) -> list[tuple[str, dict]]:
    from segcoord.checkpoints import described

    return [(path, {"data": described(path).get("config", {}).get("data", {})})]


def data_sample(program: str, argv: list[str]) -> int:
    """Draws the sample dataset."""
    parser = _parser(program, "Draw a small labelled dataset of street scenes.")
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
    parser = _parser(program, "Look for mistakes in the splits that a configuration names.")
    add_settings(parser, "data")
    parser.add_argument("--split", type=str, help="check this split instead of the two")
    parser.add_argument("--json", type=str, metavar="FILE", help="write all that was found")
    args = parse(parser, argv)
    from segcoord.data_commands import check_data

    return check_data(parser.instantiate(args).data, args.split, args.json)


def data_ids(program: str, argv: list[str]) -> int:
    """Makes masks of class ids from masks in colours."""
    parser = _parser(program, "Make masks of class ids from masks in the classes' colours.")
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
    parser = _parser(program, "Show the weights of the classes in the loss, by each formula.")
    add_settings(parser, "data")
    args = parse(parser, argv)
    from segcoord.data_commands import show_weights

    show_weights(parser.instantiate(args).data)
    return 0


def data_get(program: str, argv: list[str]) -> int:
    """Downloads a dataset."""
    parser = _parser(program, "Download a dataset from its owner, verify it and unpack it.")
    parser.add_argument("name", type=str, help="voc, sbd or cityscapes (which needs your login)")
    parser.add_argument("--root", type=str, metavar="DIR", help="default data/NAME")
    args = parse(parser, argv)
    from segcoord.data.get import get_dataset

    get_dataset(args.name, Path(args.root or f"data/{args.name}"))
    return 0


def data_trainaug(program: str, argv: list[str]) -> int:
    """Makes VOC's trainaug split."""
    parser = _parser(program, "Make SegmentationClassAug and trainaug.txt in VOC's tree from SBD.")
    parser.add_argument("--voc", type=str, required=True, metavar="DIR", help="has VOC2012")
    parser.add_argument("--sbd", type=str, required=True, metavar="DIR", help="has SBD's dataset")
    args = parse(parser, argv)
    from segcoord.data.trainaug import make_trainaug

    make_trainaug(Path(args.voc), Path(args.sbd))
    return 0


def data_pack(program: str, argv: list[str]) -> int:
    """Writes the packs of the splits that a configuration names."""
    parser = _parser(program, "Decode a split once into files that training reads crops from.")
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
