"""segcoord evaluate: scores a checkpoint on a split, and writes what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from jsonargparse import Namespace

from segcoord.checkpoints import accelerator_for, load_described
from segcoord.cityscapes_scores import (
    CityscapesScores,
    InstanceWeights,
    instances_path,
    read_instances,
)
from segcoord.config import DataConfig
from segcoord.console import console, counting_bar, show_cityscapes, show_scores
from segcoord.data.layouts import Sample, Split, find_split, folders_read
from segcoord.data.pack import source_of, with_pack
from segcoord.devices import evaluation_fabric, is_main_process
from segcoord.errors import UserError
from segcoord.evaluation import (
    OnImage,
    check_labels,
    evaluate,
    over_processes,
    protocol,
    share,
    verify_masks,
    write_json,
)
from segcoord.export.masks import write_mask
from segcoord.export.overlays import blend, overlay, sheet, write_picture
from segcoord.export.servers import check_server, server_archive
from segcoord.files import require_place
from segcoord.metrics import Scores
from segcoord.model import SegmentationModel
from segcoord.report_commands import Report, checkpoint_in
from segcoord.views import Views, parse_tile

SHEET_ROWS = 6
ONE_FILE = ("sheet", "export", "report", "figures")
"""Options whose file is made of all images, which several processes can't write together."""
FILES, FOLDERS = ("sheet", "json", "report", "out"), ("masks", "overlays", "figures")
"""Options that name what is written."""


def run_evaluation(args: Namespace, data: DataConfig) -> int:
    """Scores a checkpoint on a split and writes what was asked for; returns the exit code.

    Of several processes that torchrun started, each predicts its share and writes its masks; the
    first one prints, and writes the JSON.
    """
    data.check()
    views = Views(
        tuple(args.scales), args.flip, args.tile and parse_tile(args.tile), args.overlap or 0
    )
    fabric = evaluation_fabric(accelerator_for(args.checkpoint, args.device))
    check_options(args, fabric.world_size)
    console.quiet = not is_main_process()
    if not is_main_process():
        fabric.launch()  # which waits until the first process has found no mistake
    model, checkpoint = load_described(args.checkpoint, fabric.device, runtime=args.runtime)
    check_labels(model, args.checkpoint, data)
    split = with_pack(find_split(data, args.split or data.val_split), data)
    _check_split(args, data, split)
    if is_main_process():
        verify_masks(split)
        fabric.launch()
    instances = _instance_weights(split) if data.layout == "cityscapes" else None
    rows: list[list[np.ndarray]] = []
    takers = _writers(args, data, split)
    if args.sheet:
        takers.append(_row_of_sheet(rows, split))
    if instances is not None:
        takers.append(_instance_counter(instances))
    report = None
    if args.report or args.figures:
        report = Report(args, model, split, data, views)
        takers.append(report.add)
    reading = f"{split.name}: read from {source_of(split, data)}"
    console.print(f"{reading}; {views}" if str(views) else reading)
    with _archive(args, split, takers):
        scores, sizes = _predict(model, split, data.workers, views, takers)
    if scores is None and split.labelled:
        told = f"split {split.name!r}: no pixel of its {len(split)} masks counts; they are dummies"
        if _compares(args) or not _writes_predictions(args):
            raise UserError(f"{told}. Predict it with --masks, and don't score it.")
        console.print(f"{told}, and were not scored.")
    weights = None
    if instances is not None:
        weights = over_processes(instances.weights, model.mean.device).numpy()
    if not is_main_process():
        return 0
    if scores is not None:
        show_scores(scores, model.labels.names, len(split), str(views))
        further = {}
        if data.layout == "cityscapes":
            further["cityscapes"] = CityscapesScores(scores.confusion, weights).to_plain()
            show_cityscapes(further["cityscapes"])
        how = protocol(model, split, data, views, (Path(args.checkpoint), checkpoint)) | sizes
        if args.json:
            write_json(Path(args.json), scores, model.labels, how, further)
        if report is not None:
            report.write(scores, how)
    if args.sheet:
        titles = ("image", "truth", "prediction")
        write_picture(Path(args.sheet), sheet(rows, titles, split.labels))
    for what in (*FOLDERS, *FILES):
        if getattr(args, what):
            console.print(f"{what:10} {getattr(args, what)}")
    return 0


def _predict(
    model: SegmentationModel, split: Split, workers: int, views: Views, takers: list[OnImage]
) -> tuple[Scores | None, dict]:
    """The scores, and the smallest and largest height and width of all images."""
    lengths = torch.full((4,), -torch.inf)
    with counting_bar() as bar:
        task = bar.add_task(f"evaluate {split.name}", total=len(share(split)))

        def on_image(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
            height, width = prediction.shape
            lengths.copy_(lengths.maximum(torch.tensor([-height, height, -width, width])))
            for take in takers:
                take(sample, image, prediction, truth)
            bar.advance(task)

        scores = evaluate(model, split, workers, on_image, views)
    lengths = over_processes(lengths, model.mean.device, dist.ReduceOp.MAX).abs().int().tolist()
    return scores, {"heights": lengths[:2], "widths": lengths[2:]}


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


def _check_split(args: Namespace, data: DataConfig, split: Split) -> None:
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
        taken[checkpoint_in(args.against).resolve()] = "against"
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
        require_place(path, folder=option in FOLDERS)


def _refuse_to_overwrite(args: Namespace, data: DataConfig, split: Split) -> None:
    """Raises UserError where a file would be written among those of the dataset."""
    own = folders_read(data, split)
    for option in (*FILES, *FOLDERS):
        path = getattr(args, option) and Path(getattr(args, option)).resolve()
        if path and (path if option in FOLDERS else path.parent) in own:
            raise UserError(
                f"--{option} {path}: is in a folder of the dataset, whose files might be replaced; "
                "choose another"
            )


def _writers(args: Namespace, data: DataConfig, split: Split) -> list[OnImage]:
    """What writes the files of single images."""

    def mask(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        path = Path(args.masks) / f"{sample.stem}.png"
        write_mask(path, prediction, split.labels, palette=data.layout != "cityscapes")

    def blended(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        path = Path(args.overlays) / f"{sample.stem}.png"
        write_picture(path, overlay(image, prediction, split.labels))

    return [write for write, where in ((mask, args.masks), (blended, args.overlays)) if where]


def _row_of_sheet(rows: list[list[np.ndarray]], split: Split) -> OnImage:
    """What keeps a few images of the split, evenly spread, as rows of pictures."""
    indices = np.linspace(0, len(split) - 1, min(SHEET_ROWS, len(split))).round().astype(int)
    picked = {split.samples[i].stem for i in indices}

    def row(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        if sample.stem in picked:
            blends = [blend(image, indices, split.labels) for indices in (truth, prediction)]
            rows.append([image, *blends])

    return row


@contextmanager
def _archive(args: Namespace, split: Split, takers: list[OnImage]) -> Iterator[None]:
    """The archive of --export, open while images are predicted; nothing without it."""
    if not args.export:
        yield
        return
    with server_archive(args.export, Path(args.out), split) as add:
        takers.append(lambda sample, image, prediction, truth: add(sample, prediction))
        yield


def _instance_weights(split: Split) -> InstanceWeights | None:
    """What counts instances; None where their files don't lie beside all masks, and says so."""
    if not split.labelled:
        return None
    without = [p for p in map(instances_path, split.samples) if not p.is_file()]
    if not without:
        return InstanceWeights()
    console.print(
        f"iIoU is left out, for {len(without)} of {len(split)} masks have no instances beside "
        f"them, as {without[0].name}"
    )
    return None


def _instance_counter(instances: InstanceWeights) -> OnImage:
    def count(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        instances.update(prediction, read_instances(instances_path(sample), prediction.shape))

    return count
