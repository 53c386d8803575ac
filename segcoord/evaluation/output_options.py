"""Checks of the output options of `segcoord evaluate` and `segcoord score`, before any work."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from jsonargparse import Namespace

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import in_dataset
from segcoord.data.split import Split
from segcoord.evaluation.prediction_files import PredictionFiles
from segcoord.evaluation.submission import check_server
from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import require_writable_path

SINGLE_PROCESS = ("sheet", "export", "report", "figures")
"""Outputs that need every image, hence a single process."""

FILES, FOLDERS = ("sheet", "json", "report", "out"), ("masks", "overlays", "figures")
"""Options that name an output file or folder."""


def check_options(args: Namespace, processes: int) -> None:
    """Raises UserError for options that don't go together and outputs that can't be written."""
    from segcoord.inference.load import checkpoint_path  # imports torch

    for option, other in (("export", "out"), ("out", "export")):
        if getattr(args, option) and not getattr(args, other):
            raise UserError(f"--{option}: found without --{other}; give both or none")
    if args.overlap is not None and not args.tile:
        raise UserError(
            f"--overlap: found {args.overlap} without --tile; give both, for example --tile 769x769"
        )
    if args.against and not (args.report or args.figures):
        raise UserError("--against: is part of a report; give --report or --figures too")
    inputs = {"checkpoint": Path(args.checkpoint)}
    if args.against:
        inputs["against"] = checkpoint_path(args.against)
    check_paths(args, inputs)
    given = [option for option in SINGLE_PROCESS if getattr(args, option)]
    if processes > 1 and given:
        raise UserError(
            f"--{given[0]}: needs a single process, found {processes}; run without torchrun, or "
            "write --masks and --json only"
        )


def writes_predictions(args: Namespace) -> bool:
    """Whether an output needs predictions only."""
    return bool(args.masks or args.overlays or args.export)


def writes_scores(args: Namespace) -> bool:
    """Whether an output needs scores."""
    return bool(args.json or args.report or args.figures)


def check_split_outputs(args: Namespace, data: DataConfig, split: Split) -> None:
    """Raises UserError for outputs that this split can't have or that are among its files."""
    if not split.labelled and not writes_predictions(args):
        raise UserError(
            f"split {split.name!r} has no masks, so it can't be scored; "
            "give --masks DIR, --overlays DIR or --export SERVER to write predictions"
        )
    if not split.labelled and (writes_scores(args) or args.sheet):
        raise UserError(
            f"--json, --sheet, --report and --figures need masks; split {split.name!r} has none"
        )
    require_outside_dataset(args, data, split)
    if args.export:
        warning = check_server(args.export, Path(args.out), split, data.layout)
        if warning:
            console.print(warning, style="yellow")


def require_outside_dataset(args: Namespace, data: DataConfig, split: Split) -> None:
    """Raises UserError for an output that is in a folder of the split's files."""
    for option, path in _paths(args).items():
        if in_dataset(data, split, path if option in FOLDERS else path.parent):
            raise UserError(
                f"--{option} {path.resolve()}: is in a folder of the dataset and could overwrite "
                "its files; choose another folder"
            )


def require_masks_kept(
    args: Namespace, split: Split, option: str, predictions: PredictionFiles
) -> None:
    """Raises UserError for an output that could overwrite a mask that `option` names.

    Files and folders are compared by inode, so links and the case of names don't matter.
    """
    masks = _existing(predictions.paths)
    parents = {path.parent for path in predictions.paths}
    parents |= {path.resolve().parent for path in predictions.paths}
    folders = _existing([predictions.folder, *parents])
    for output, path in _paths(args).items():
        if output in FOLDERS:
            written = [path / f"{sample.stem}.png" for sample in split.samples]
            if _existing([path]) & folders or _existing(written) & masks:
                raise UserError(
                    f"--{output} {path}: contains masks of --{option} and could overwrite them; "
                    "choose another folder"
                )
        elif _existing([path]) & masks:
            raise UserError(f"--{output} {path}: is a mask of --{option}; choose another file")


def _existing(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Device and inode of the paths that exist."""
    found = (path.stat() for path in paths if path.exists())
    return {(status.st_dev, status.st_ino) for status in found}


def expand_home(args: Namespace) -> None:
    """Replace `~` in the outputs by the home folder. A shell leaves it in `--json=~/score.json`."""
    for option, path in _paths(args).items():
        args[option] = str(path.expanduser())


def check_paths(args: Namespace, inputs: Mapping[str, Path]) -> None:
    """Raises UserError for outputs that can't be written or that share a path.

    `inputs` are the options that name what the command reads, and their paths.
    """
    options = {path.resolve(): option for option, path in inputs.items()}
    for option, path in _paths(args).items():
        other = options.setdefault(path.resolve(), option)
        if other != option:
            raise UserError(
                f"--{other} and --{option}: both are {path}, expected two "
                f"{'folders' if option in FOLDERS else 'files'}"
            )
        require_writable_path(path, folder=option in FOLDERS)


def _paths(args: Namespace) -> dict[str, Path]:
    """The requested files and folders by option."""
    return {o: Path(getattr(args, o)) for o in (*FILES, *FOLDERS) if getattr(args, o, None)}
