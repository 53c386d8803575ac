"""segcoord data show."""

from pathlib import Path

from segcoord.cli.common import new_parser
from segcoord.config.loading import add_settings, parse
from segcoord.utils.errors import UserError


def show(program: str, argv: list[str]) -> int:
    """Write a page with the classes, sizes, images and masks of a dataset"""
    parser = new_parser(program, show)
    add_settings(parser, "data")
    parser.add_argument("--out", type=str, required=True, metavar="FILE", help="HTML file to write")
    parser.add_argument("--split", type=str, help="Show only this split (default: train and val)")
    parser.add_argument(
        "--images",
        type=int,
        default=1000,
        help="Largest number of images to show (about 13 kB each)",
    )
    args = parse(parser, argv)
    if args.images < 0:
        raise UserError(f"--images: found {args.images}, expected 0 or more")
    from importlib.util import find_spec

    from segcoord.data.layouts import find_split
    from segcoord.utils.console import console, progress_counter
    from segcoord.utils.files import require_writable_path

    if find_spec("jinja2") is None:
        raise UserError("segcoord data show needs jinja2: pip install 'segcoord[report]'")
    out = Path(args.out).expanduser()
    require_writable_path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out}: expected the name of a page, such as page.html")
    data = parser.instantiate(args).data
    data.check()
    names = [args.split] if args.split else list(dict.fromkeys((data.train_split, data.val_split)))
    splits = [find_split(data, name) for name in names]
    from segcoord.evaluation.dataset_page.collect import collect
    from segcoord.evaluation.dataset_page.page import write_page

    with progress_counter("read", sum(map(len, splits))) as on_progress:
        content = collect(splits, args.images, on_progress)
    write_page(out, content, data.root)
    total = sum(split.images for split in content.splits)
    errors = sum(len(split.errors) for split in content.splits)
    unread = f", {errors} can't be read" if errors else ""
    console.print(f"{out}: {total} images, {len(content.thumbnails)} shown{unread}")
    return 0
