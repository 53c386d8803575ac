"""segcoord evaluate: scores a checkpoint on a split, and writes what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from jsonargparse import Namespace

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import find_split
from segcoord.data.mask_files import write_mask
from segcoord.data.pack.reader import pixel_source, with_pack
from segcoord.data.split import Sample, Split
from segcoord.evaluation.cityscapes import (
    CityscapesScores,
    InstanceWeights,
    instances_path,
    read_instances,
)
from segcoord.evaluation.evaluate import OnImage, check_labels, evaluate, verify_masks
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.outputs import (
    FILES,
    FOLDERS,
    _compares,
    _writes_predictions,
    check_options,
    check_split_outputs,
)
from segcoord.evaluation.protocol import protocol, write_scores
from segcoord.evaluation.report.build import ReportBuilder
from segcoord.evaluation.sheet import sheet_rows
from segcoord.evaluation.submission import server_archive
from segcoord.evaluation.tables import print_cityscapes, print_scores
from segcoord.inference.load import accelerator_for, load_with_metadata
from segcoord.inference.views import Views, parse_tile
from segcoord.inference.visualize import overlay, sheet, write_picture
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console, progress_bar
from segcoord.utils.devices import evaluation_fabric, is_main_process
from segcoord.utils.distributed import all_reduce, rank_indices
from segcoord.utils.errors import UserError


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
    model, checkpoint = load_with_metadata(args.checkpoint, fabric.device, runtime=args.runtime)
    check_labels(model, args.checkpoint, data)
    split = with_pack(find_split(data, args.split or data.val_split), data)
    check_split_outputs(args, data, split)
    if is_main_process():
        verify_masks(split)
        fabric.launch()
    instances = _instance_weights(split) if data.layout == "cityscapes" else None
    rows: list[list[np.ndarray]] = []
    takers = _writers(args, data, split)
    if args.sheet:
        takers.append(sheet_rows(rows, split))
    if instances is not None:
        takers.append(_instance_counter(instances))
    report = None
    if args.report or args.figures:
        report = ReportBuilder(args, model, split, data, views)
        takers.append(report.add)
    reading = f"{split.name}: read from {pixel_source(split, data)}"
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
        weights = all_reduce(instances.weights, model.mean.device).numpy()
    if not is_main_process():
        return 0
    if scores is not None:
        print_scores(scores, model.labels.names, len(split), str(views))
        further = {}
        if data.layout == "cityscapes":
            further["cityscapes"] = CityscapesScores(scores.confusion, weights).to_dict()
            print_cityscapes(further["cityscapes"])
        how = protocol(model, split, data, views, (Path(args.checkpoint), checkpoint)) | sizes
        if args.json:
            write_scores(Path(args.json), scores, model.labels, how, further)
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
    with progress_bar() as bar:
        task = bar.add_task(f"evaluate {split.name}", total=len(rank_indices(len(split))))

        def on_image(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
            height, width = prediction.shape
            lengths.copy_(lengths.maximum(torch.tensor([-height, height, -width, width])))
            for take in takers:
                take(sample, image, prediction, truth)
            bar.advance(task)

        scores = evaluate(model, split, workers, on_image, views)
    lengths = all_reduce(lengths, model.mean.device, dist.ReduceOp.MAX).abs().int().tolist()
    return scores, {"heights": lengths[:2], "widths": lengths[2:]}


def _writers(args: Namespace, data: DataConfig, split: Split) -> list[OnImage]:
    """What writes the files of single images."""

    def mask(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        path = Path(args.masks) / f"{sample.stem}.png"
        write_mask(path, prediction, split.labels, palette=data.layout != "cityscapes")

    def blended(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        path = Path(args.overlays) / f"{sample.stem}.png"
        write_picture(path, overlay(image, prediction, split.labels))

    return [write for write, where in ((mask, args.masks), (blended, args.overlays)) if where]


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
