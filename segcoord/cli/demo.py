"""segcoord demo."""

from segcoord.cli.common import CHECKPOINT, new_parser
from segcoord.config.loading import parse


def demo(program: str, argv: list[str]) -> int:
    """Segment images in a local web page"""
    parser = new_parser(program, demo)
    parser.add_argument("--checkpoint", type=str, nargs="+", required=True, help=CHECKPOINT)
    parser.add_argument(
        "--runtime",
        type=str,
        nargs="+",
        help="Runtimes to offer (default: all that can read the checkpoint)",
    )
    parser.add_argument(
        "--samples",
        type=str,
        metavar="DIR",
        help="Folder of example images (default: synthetic scenes)",
    )
    parser.add_argument("--port", type=int, default=7860, help="TCP port")
    parser.add_argument(
        "--host",
        type=str,
        default="127.0.0.1",
        help="Address to listen on; 0.0.0.0 for all interfaces",
    )
    args = parse(parser, argv)
    from segcoord.deploy.demo.server import run_demo

    return run_demo(args.checkpoint, args.runtime, args.samples, args.host, args.port)
