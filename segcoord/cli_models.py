"""The commands that use a trained model and their arguments; imports as in `cli.py`."""

from __future__ import annotations

from segcoord.arguments import RUNTIME, add_views, data_settings, new_parser, peek
from segcoord.errors import UserError
from segcoord.settings import add_settings, parse


def export(program: str, argv: list[str]) -> int:
    """Writes a checkpoint for another runtime."""
    parser = new_parser(program, "Write a checkpoint as files for other runtimes, and verify them.")
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
    asks, int8 = bool({"-h", "--help"} & {*argv}), peek(argv, "--precision") == "int8"
    if asks or int8:
        add_settings(parser, "data")
    else:
        for_images = ("--calibration", "--split", "--config", "--data")
        given = next((word for word in argv if word.startswith(for_images)), None)
        if given is not None:
            raise UserError(f"{given}: only --precision int8 reads images; leave it out")
    args = parse(parser, argv, *(data_settings(argv) if int8 and not asks else []))
    from segcoord.deploy.command import run_export

    return run_export(args, parser.instantiate(args).data if int8 else None)


def predict(program: str, argv: list[str]) -> int:
    """Predicts photos and videos."""
    parser = new_parser(program, "Write masks, overlays and class areas of photos and videos.")
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
    add_views(parser)
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


def share(program: str, argv: list[str]) -> int:
    """Writes a checkpoint in the form that is shared."""
    parser = new_parser(program, "Write a checkpoint as safetensors and JSON, which smp opens too.")
    parser.add_argument("--checkpoint", type=str, required=True, help="a best.ckpt or last.ckpt")
    parser.add_argument("--out", type=str, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--push", type=str, metavar="USER/NAME", help="upload it to the Hugging Face hub"
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="of a repository that only you see; refused where it is there, and public",
    )
    args = parse(parser, argv)
    from segcoord.share_command import share

    return share(args.checkpoint, args.out, args.push, args.private)


def demo(program: str, argv: list[str]) -> int:
    """Serves a page that shows what models see."""
    parser = new_parser(
        program, "Look at a model's masks in the browser; nothing leaves the machine."
    )
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
