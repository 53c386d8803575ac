"""segcoord share."""

from pathlib import Path

from segcoord.cli.common import SHAREABLE, new_parser
from segcoord.config.loading import parse
from segcoord.utils.errors import UserError


def share(program: str, argv: list[str]) -> int:
    """Write a checkpoint as safetensors and JSON, or upload it to the Hugging Face Hub"""
    parser = new_parser(program, share)
    parser.add_argument("--checkpoint", type=str, required=True, help=SHAREABLE)
    parser.add_argument("--out", type=str, metavar="DIR", help="Folder to write")
    parser.add_argument("--push", type=str, metavar="USER/NAME", help="Upload to this repository")
    parser.add_argument(
        "--private",
        action="store_true",
        help="Create a private repository; fail if a public one exists",
    )
    args = parse(parser, argv)
    if args.out is None and args.push is None:
        raise UserError("expected --out DIR, --push USER/NAME or both")
    if args.private and args.push is None:
        raise UserError("--private: needs --push USER/NAME")
    from segcoord.models.checkpoint import read_segmentation, rebuild
    from segcoord.utils.console import console

    content = read_segmentation(args.checkpoint)
    model = rebuild(content, args.checkpoint)
    best = content.get("progress", {}).get("best", -1.0)
    # last.ckpt has the best score of the run, which is not the score of its weights.
    metrics = {"mIoU": best} if best >= 0 and "optimizer" not in content else {}
    settings = content.get("config", {}).get("data", {})
    dataset = "custom" if settings.get("classes") else settings.get("layout", "custom")
    if args.out is not None:
        model.save_pretrained(Path(args.out), metrics=metrics, dataset=dataset)
        console.print(f"{args.out}: complete README.md before sharing")
    if args.push is not None:
        private = args.private or None
        url = model.push_to_hub(args.push, private=private, metrics=metrics, dataset=dataset)
        console.print(url)
    return 0
