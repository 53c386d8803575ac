"""segcoord data import."""

from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser

from segcoord.cli.common import new_parser
from segcoord.config.loading import parse


def import_(program: str, argv: list[str]) -> int:
    """Convert the export of an annotation tool to a dataset with its config.yaml"""
    parser = new_parser(program, import_)
    _add_options(parser)
    args = parse(parser, argv)
    from segcoord.data.annotations.importing import ImportOptions, import_dataset

    values = {field.name: getattr(args, field.name) for field in fields(ImportOptions)}
    paths = {"source": Path(args.source), "out": Path(args.out)}
    return import_dataset(ImportOptions(**(values | paths)))


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source", type=str, metavar="SOURCE", help="Folder or ZIP file of an export"
    )
    parser.add_argument("--out", type=str, required=True, metavar="DIR", help="Folder to write")
    parser.add_argument(
        "--format", type=str, help="Format, such as coco (default: the one that recognizes SOURCE)"
    )
    parser.add_argument(
        "--classes",
        type=str,
        nargs="+",
        metavar="CLASS",
        help='Classes to import, in this order: NAME, "NAME,NAME=NEW" to merge or rename, or '
        '"NAME=void" to ignore (default: all)',
    )
    parser.add_argument(
        "--split",
        type=str,
        metavar="FRACTIONS",
        help="Fractions of train, val and test, such as 0.8,0.1,0.1 (default: the splits of the "
        "export, else 0.8,0.2)",
    )
    parser.add_argument(
        "--group",
        type=str,
        metavar="PATTERN",
        help='Regular expression: images whose names match it alike, as with "seq\\d+", stay in '
        "one split",
    )
    parser.add_argument(
        "--overlap",
        type=str,
        help="Which of two overlapping shapes is on top: order (of the tool), smaller, last (in "
        "the file), or error (default: order if the tool has one, else smaller)",
    )
    parser.add_argument(
        "--unlabelled",
        type=str,
        default="background",
        help="What pixels without a label become: background or void",
    )
    parser.add_argument(
        "--unannotated",
        type=str,
        default="skip",
        help="Images without annotation: skip them, or keep them as background",
    )
    parser.add_argument("--workers", type=int, help="Processes (default: all cores)")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="Replace DIR, which an import wrote; its classes keep their ids",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="Leave out images that can't be used"
    )
    parser.add_argument(
        "--link", action="store_true", help="Hard-link the images instead of copying them"
    )
