"""`segcoord evaluate`: scores a checkpoint on a split and writes the requested outputs."""

import math
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from jsonargparse import Namespace
from torch import Tensor

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import find_split
from segcoord.data.mask_writer import write_mask
from segcoord.data.pack.reader import pixel_source, with_pack
from segcoord.data.split import Sample, Split
from segcoord.evaluation import output_options
from segcoord.evaluation.cityscapes import CityscapesScores, InstanceWeights, instances_path
from segcoord.evaluation.evaluate import ImageCallback, check_labels, evaluate, verify_masks
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.protocol import protocol, write_scores
from segcoord.evaluation.report.build import ReportBuilder
from segcoord.evaluation.sheet import SampleSheet
from segcoord.evaluation.submission import server_archive
from segcoord.evaluation.tables import print_cityscapes, print_scores
from segcoord.inference.load import accelerator_for, load_with_metadata
from segcoord.inference.scales_and_tiles import Views, parse_tile
from segcoord.inference.visualize import overlay, write_picture
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console, progress_bar
from segcoord.utils.devices import (
    find_device,
    is_main_process,
    join_torchrun,
    torchrun_processes,
)
from segcoord.utils.distributed import all_reduce, rank_indices
from segcoord.utils.errors import UserError


def run_evaluation(args: Namespace, data: DataConfig) -> int:
    """Scores a checkpoint on a split and writes the requested outputs; returns the exit code.

    Under torchrun, each process predicts its part of the images and writes their masks. The main
    process prints, and writes the JSON.
    """
    data.check()
    tile = args.tile and parse_tile(args.tile)
    views = Views(tuple(args.scales), args.flip, tile, args.overlap)
    device = find_device(accelerator_for(args.checkpoint, args.device))
    output_options.check_options(args, math.prod(torchrun_processes() or (1,)))
    console.quiet = not is_main_process()
    model, checkpoint, split = _load(args, data, device)

    with ExitStack() as stack:
        callbacks = _mask_writers(args, data, split)
        sheet = instances = report = None
        if args.sheet:
            callbacks.append(sheet := SampleSheet(split))
        if data.layout == "cityscapes" and (instances := _instance_weights(split)) is not None:
            callbacks.append(instances.add_image)
        if args.report or args.figures:
            report = ReportBuilder(args, model, split, data, views)
            callbacks.append(report.add)
        source = f"{split.name}: read from {pixel_source(split, data)}"
        console.print(f"{source}; {views}" if str(views) else source)
        if args.export:
            add = stack.enter_context(server_archive(args.export, Path(args.out), split))
            callbacks.append(lambda sample, image, prediction, truth: add(sample, prediction))
        scores, sizes = _predict(model, split, data.workers, views, callbacks)

    if scores is None and split.labelled:
        _report_dummy_masks(args, split)
    weights = None if instances is None else all_reduce(instances.weights, model.mean.device)
    if not is_main_process():
        return 0
    if scores is not None:
        print_scores(scores, split.labels, len(split), str(views))
        extra = _print_layout_scores(data, scores, weights)
        description = protocol(model, split, data, views, (Path(args.checkpoint), checkpoint))
        description |= sizes
        if args.json:
            write_scores(Path(args.json), scores, split.labels, description, extra)
        if report is not None:
            report.write(scores, description)
    if sheet is not None:
        sheet.write(Path(args.sheet))
    for option in (*output_options.FOLDERS, *output_options.FILES):
        if getattr(args, option):
            console.print(f"{option:10} {getattr(args, option)}")
    return 0


def _load(
    args: Namespace, data: DataConfig, device: torch.device
) -> tuple[SegmentationModel, dict, Split]:
    """Model, checkpoint content and split, checked by the main process before the others start.

    In `join_torchrun` the other processes wait for the main process.
    """
    if not is_main_process():
        join_torchrun(device)
    model, checkpoint = load_with_metadata(args.checkpoint, device, runtime=args.runtime)
    check_labels(model, args.checkpoint, data)
    split = with_pack(find_split(data, args.split or data.val_split), data)
    output_options.check_split_outputs(args, data, split)
    if is_main_process():
        verify_masks(split)
        join_torchrun(device)
    return model, checkpoint, split


def _mask_writers(args: Namespace, data: DataConfig, split: Split) -> list[ImageCallback]:
    """Callbacks that write the files of `--masks` and `--overlays`."""

    def mask(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        path = Path(args.masks) / f"{sample.stem}.png"
        write_mask(path, prediction, split.labels, palette=data.layout != "cityscapes")

    def blended(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
        path = Path(args.overlays) / f"{sample.stem}.png"
        write_picture(path, overlay(image, prediction, split.labels))

    return [write for write, folder in ((mask, args.masks), (blended, args.overlays)) if folder]


def _instance_weights(split: Split) -> InstanceWeights | None:
    """The iIoU metric; None, with a note, unless every mask has an instance file beside it."""
    if not split.labelled:
        return None
    missing = [p for p in map(instances_path, split.samples) if not p.is_file()]
    if not missing:
        return InstanceWeights()
    console.print(
        f"iIoU is left out: {len(missing)} of {len(split)} masks have no instance file beside "
        f"them, such as {missing[0].name}"
    )
    return None


def _predict(
    model: SegmentationModel,
    split: Split,
    workers: int,
    views: Views,
    callbacks: list[ImageCallback],
) -> tuple[Scores | None, dict]:
    """The scores, and the smallest and largest height and width of all images."""
    extents = torch.full((4,), -torch.inf)
    with progress_bar() as bar:
        task = bar.add_task(f"evaluate {split.name}", total=len(rank_indices(len(split))))

        def on_image(sample: Sample, image: np.ndarray, prediction: np.ndarray, truth) -> None:
            height, width = prediction.shape
            extents.copy_(extents.maximum(torch.tensor([-height, height, -width, width])))
            for callback in callbacks:
                callback(sample, image, prediction, truth)
            bar.advance(task)

        scores = evaluate(model, split, workers, on_image, views)
    extents = all_reduce(extents, model.mean.device, dist.ReduceOp.MAX).abs().int().tolist()
    return scores, {"heights": extents[:2], "widths": extents[2:]}


def _report_dummy_masks(args: Namespace, split: Split) -> None:
    """Prints that dummy masks were not scored; raises UserError if scores were requested."""
    message = f"split {split.name!r}: no pixel of its {len(split)} masks is labeled (dummy masks)"
    if output_options.writes_scores(args) or not output_options.writes_predictions(args):
        raise UserError(f"{message}; it can't be scored. Write its predictions with --masks.")
    console.print(f"{message}; it is not scored.")


def _print_layout_scores(data: DataConfig, scores: Scores, weights: Tensor | None) -> dict:
    """Prints and returns the scores that only a dataset layout has, for the JSON."""
    if data.layout != "cityscapes":
        return {}
    instance_weights = None if weights is None else weights.numpy()
    cityscapes = CityscapesScores(scores.confusion, instance_weights).to_dict()
    print_cityscapes(cityscapes)
    return {"cityscapes": cityscapes}
