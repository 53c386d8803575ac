"""segcoord export."""

from segcoord.cli.common import DATA_DEFAULTS, SHAREABLE, data_layer, new_parser
from segcoord.config.loading import add_settings, parse, preview
from segcoord.utils.errors import UserError


def export(program: str, argv: list[str]) -> int:
    """Export a checkpoint to ONNX, OpenVINO, TorchScript or pt2, and verify it"""
    parser = new_parser(program, export)
    parser.add_argument("--checkpoint", type=str, required=True, help=SHAREABLE)
    parser.add_argument(
        "--format", type=str, required=True, help="Format: onnx, openvino, torchscript or pt2"
    )
    parser.add_argument(
        "--precision",
        type=str,
        default="fp32",
        help="Precision: fp32, fp16 or int8 (onnx and openvino)",
    )
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help="Folder to create")
    parser.add_argument(
        "--image-to-mask",
        action="store_true",
        help="Also write a model from uint8 images of any size to class ids",
    )
    parser.add_argument(
        "--size",
        type=str,
        metavar="HEIGHTxWIDTH",
        help="onnx only: fix the size of the input, for OpenCV, TensorRT and NPUs (default: any)",
    )
    only_int8 = new_parser(program, export)
    for each in (parser, only_int8):
        each.add_argument(
            "--calibration",
            type=int,
            metavar="N",
            help="int8 only: number of train split images to calibrate on (default: 300, or all)",
        )
        each.add_argument(
            "--split", type=str, help="int8 only: split to score on (default: the val_split)"
        )
    text = f"int8 only: YAML file of settings; options override it. {DATA_DEFAULTS}"
    only_int8.add_argument("--config", help=text)
    add_settings(only_int8, "data")
    early = preview(argv, parser, only_int8)
    if early.help or early.precision == "int8":
        parser.add_argument("--config", help=text)
        add_settings(parser, "data")
    else:
        options = only_int8._option_string_actions.items()
        given = {o for o, a in options if a.dest != "help" and getattr(early, a.dest) is not None}
        if given:
            raise UserError(f"{min(given)}: only --precision int8 reads images; leave it out")
    int8 = early.precision == "int8" and not early.help
    args = parse(parser, argv, *(data_layer(early.checkpoint) if int8 else []))
    from segcoord.deploy.export import run_export

    return run_export(args, parser.instantiate(args).data if int8 else None)
