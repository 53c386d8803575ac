"""segcoord data ids."""

from pathlib import Path

from jsonargparse import ArgumentParser

from segcoord.cli.common import new_parser
from segcoord.config.loading import add_settings, parse


def ids(program: str, argv: list[str]) -> int:
    """Convert masks of colors or of other values to masks of class ids"""
    parser = new_parser(program, ids)
    _add_options(parser)
    args = parse(parser, argv)
    from segcoord.data.color_masks import (
        MaskConverter,
        convert_masks,
        find_masks,
        parse_color,
        parse_value,
    )
    from segcoord.data.layouts import label_set
    from segcoord.utils.console import console, progress_bar

    data, out = parser.instantiate(args).data, Path(args.out)
    data.check()
    void, meanings = [*map(parse_color, args.void)], [*map(parse_value, args.value)]
    converter = MaskConverter(label_set(data), void, meanings, args.threshold)
    masks = find_masks(args.masks, out)
    with progress_bar() as bar:
        task = bar.add_task("convert", total=len(masks))
        written, unchanged = convert_masks(masks, out, converter, lambda: bar.advance(task))
    console.print(f"{written} masks of class ids written to {out}, {unchanged} existed already")
    if converter.labels.binary:
        values = ", ".join(f"{c.id} is {c.name}" for c in converter.labels.classes)
        console.print(
            f"Binary segmentation (one class without an id): in them, {values}", markup=False
        )
    for line in converter.written_ids():
        console.print(line, markup=False)
    return 0


def _add_options(parser: ArgumentParser) -> None:
    add_settings(parser, "data")
    parser.add_argument(
        "--masks",
        type=str,
        required=True,
        metavar="DIR",
        help="Folder of the masks to convert, or DIR/{name}_mask.png to select them by name",
    )
    parser.add_argument(
        "--out", type=str, required=True, metavar="DIR", help="Folder to write the PNGs to"
    )
    parser.add_argument(
        "--void",
        type=str,
        action="append",
        default=[],
        metavar="R,G,B",
        help="Color to convert to void (255); may be repeated",
    )
    parser.add_argument(
        "--value",
        type=str,
        action="append",
        default=[],
        metavar="VALUE=ID",
        help="Mask value that stands for a class id, for example 255=1, or for void, 7=void; may "
        "be repeated",
    )
    parser.add_argument(
        "--threshold",
        type=int,
        metavar="N",
        help="For two classes: gray values of at least N are the second class, lower ones the "
        "first, for example 128 for masks with blurred edges",
    )
