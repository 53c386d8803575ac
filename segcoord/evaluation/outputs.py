"""TODO."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import split_folders
from segcoord.data.split import Split
from segcoord.evaluation.submission import check_server
from segcoord.inference.load import checkpoint_path
from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import require_writable_path

ONE_FILE = ("sheet", "export", "report", "figures")
"""Options whose file is made of all images, which several processes can't write together."""

FILES, FOLDERS = ("sheet", "json", "report", "out"), ("masks", "overlays", "figures")
"""Options that name what is written."""


def check_options(args: Namespace, processes: int) -> None:
    """Raises UserError for options that don't go together."""
    for option, other in (("export", "out"), ("out", "export")):
        if getattr(args, option) and not getattr(args, other):
            raise UserError(f"--{option}: found without --{other}; give both, or none")
    if args.overlap is not None and not args.tile:
        raise UserError(f"--overlap: found {args.overlap} without --tile, 769x769 say")
    if args.against and not (args.report or args.figures):
        raise UserError("--against: is shown in a report; give --report or --figures too")
    _check_places(args)
    of_all = [option for option in ONE_FILE if getattr(args, option)]
    if processes > 1 and of_all:
        raise UserError(
            f"--{of_all[0]}: one process has to see all images for it, found {processes}; leave "
            "torchrun away, or write --masks and --json alone"
        )


def _writes_predictions(args: Namespace) -> bool:
    return bool(args.masks or args.overlays or args.export)


def _compares(args: Namespace) -> bool:
    """Whether a file is asked for that tells of the truth."""
    return bool(args.json or args.report or args.figures)


def check_split_outputs(args: Namespace, data: DataConfig, split: Split) -> None:
    """Raises UserError for what this split can't give, and where a file would be replaced."""
    if not split.labelled and not _writes_predictions(args):
        raise UserError(
            f"split {split.name!r} has no masks, so there is nothing to score; "
            "give --masks DIR, --overlays DIR or --export SERVER to write predictions"
        )
    if not split.labelled and (_compares(args) or args.sheet):
        raise UserError(
            "--json, --sheet, --report and --figures compare with truth; "
            f"split {split.name!r} has none"
        )
    _refuse_to_overwrite(args, data, split)
    if args.export:
        other = check_server(args.export, Path(args.out), split, data.layout)
        if other:
            console.print(other, style="yellow")


def _check_places(args: Namespace) -> None:
    """Raises UserError unless all that is asked for can be written, each to its own place."""
    taken = {Path(args.checkpoint).resolve(): "checkpoint"}
    if args.against:
        taken[checkpoint_path(args.against).resolve()] = "against"
    for option in (*FILES, *FOLDERS):
        if not getattr(args, option):
            continue
        path = Path(getattr(args, option))
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise UserError(
                f"--{other} and --{option}: both are {path}, expected two "
                f"{'folders' if option in FOLDERS else 'files'}"
            )
        require_writable_path(path, folder=option in FOLDERS)


def _refuse_to_overwrite(args: Namespace, data: DataConfig, split: Split) -> None:
    """Raises UserError where a file would be written among those of the dataset."""
    own = split_folders(data, split)
    for option in (*FILES, *FOLDERS):
        path = getattr(args, option) and Path(getattr(args, option)).resolve()
        if path and (path if option in FOLDERS else path.parent) in own:
            raise UserError(
                f"--{option} {path}: is in a folder of the dataset, whose files might be replaced; "
                "choose another"
            )
