"""segcoord attend."""

from pathlib import Path

from segcoord.cli.common import new_parser
from segcoord.config.loading import parse
from segcoord.utils.errors import UserError


def attend(program: str, argv: list[str]) -> int:
    """Draw Grad-CAM and the coordinate attention gates of models for one image"""
    parser = new_parser(program, attend)
    parser.add_argument(
        "paths",
        type=str,
        nargs="+",
        metavar="CHECKPOINT... IMAGE",
        help="Models to compare, one row each, and the image",
    )
    parser.add_argument(
        "--class",
        type=str,
        metavar="NAME",
        help="Class to explain (default: the first model's most frequent class)",
    )
    parser.add_argument(
        "--block",
        type=str,
        help="Block to show, such as blocks.5.2 (default: the last with attention)",
    )
    parser.add_argument(
        "--out", type=str, default="attend.png", metavar="FILE", help="PNG file to write"
    )
    args = parse(parser, argv)
    out = Path(args.out)
    *checkpoints, image = args.paths
    if not checkpoints:
        raise UserError(f"found only {image}, expected CHECKPOINT... IMAGE")
    if Path(image).suffix == ".ckpt":
        raise UserError(f"{image}: found a checkpoint as the last argument, expected an image")
    if out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: expected a file name that ends in .png")
    from segcoord.inference.explain_figure import draw_attention
    from segcoord.inference.load import load
    from segcoord.inference.photo import read_photo
    from segcoord.inference.visualize import write_picture
    from segcoord.utils.console import console

    models = [(path, load(path, fold=False)) for path in checkpoints]
    pixels = read_photo(Path(image)).pixels
    write_picture(out, draw_attention(models, pixels, args["class"], args.block))
    console.print(f"{out}")
    return 0
