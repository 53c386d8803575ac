"""segcoord predict."""

from segcoord.cli.common import CHECKPOINT, DEVICE, RUNTIME, add_views, new_parser
from segcoord.config.loading import parse


def predict(program: str, argv: list[str]) -> int:
    """Predict masks, overlays and class areas for images, folders, videos or a camera"""
    parser = new_parser(program, predict)
    parser.add_argument(
        "inputs",
        type=str,
        nargs="+",
        metavar="INPUT",
        help="An image, a video, a folder (searched recursively), a quoted glob, a .txt file with "
        "one path per line, or a camera number",
    )
    parser.add_argument("--checkpoint", type=str, required=True, help=CHECKPOINT)
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help="Folder to write")
    parser.add_argument("--runtime", type=str, help=RUNTIME)
    parser.add_argument(
        "--probs", action="store_true", help="Images only: also write probabilities as .npz"
    )
    parser.add_argument("--no-overlays", action="store_true", help="Images only: write no overlays")
    parser.add_argument(
        "--to",
        type=str,
        metavar="FORMAT",
        help="Images only: also write polygons that an annotation tool imports: coco, labelme, "
        "cvat, labelstudio or yolo",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="PIXELS",
        help="Largest distance of a region from its polygon (default: 1; 0: exact)",
    )
    parser.add_argument(
        "--min-area",
        type=int,
        metavar="PIXELS",
        help="Drop regions of fewer pixels from the polygons (default: 0)",
    )
    parser.add_argument(
        "--skip-classes",
        type=str,
        nargs="*",
        metavar="NAME",
        help="Classes without polygons (default: the background of binary segmentation)",
    )
    add_views(parser)
    parser.add_argument(
        "--max-pixels",
        type=int,
        help="Predict images with more pixels than this in tiles (default: 4194304)",
    )
    parser.add_argument(
        "--allow-pixels",
        type=int,
        metavar="N",
        help="Read images of up to N pixels (default: 178956970, a limit against files made to "
        "exhaust the memory)",
    )
    parser.add_argument("--device", type=str, default="auto", help=DEVICE)
    args = parse(parser, argv)
    from segcoord.inference.run import run_prediction

    return run_prediction(args)
