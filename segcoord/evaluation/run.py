"""`segcoord evaluate`: scores a checkpoint on a split and writes the requested outputs."""

import math
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from jsonargparse import Namespace

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import find_split
from segcoord.data.pack.reader import pixel_source, verify_masks, with_pack
from segcoord.data.split import Sample, Split
from segcoord.evaluation import output_options
from segcoord.evaluation.cityscapes import instance_weights
from segcoord.evaluation.compare import device_for, predict_counts
from segcoord.evaluation.evaluate import check_labels, evaluate
from segcoord.evaluation.metrics import Scores
from segcoord.evaluation.outputs import (
    ImageCallback,
    mask_writer,
    overlay_writer,
    print_layout_scores,
    print_paths,
)
from segcoord.evaluation.protocol import protocol, write_scores
from segcoord.evaluation.report.build import OtherCounts, ReportBuilder, require_report_packages
from segcoord.evaluation.sheet import SampleSheet
from segcoord.evaluation.submission import server_archive
from segcoord.evaluation.tables import print_scores
from segcoord.inference.load import accelerator_for, checkpoint_path, load, load_with_metadata
from segcoord.inference.scales_and_tiles import Views, parse_tile
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
    output_options.expand_home(args)
    output_options.check_options(args, math.prod(torchrun_processes() or (1,)))
    console.quiet = not is_main_process()
    model, checkpoint, split = _load(args, data, device)

    with ExitStack() as stack:
        callbacks = []
        if args.masks:
            palette = data.layout != "cityscapes"
            callbacks.append(mask_writer(args.masks, split.labels, palette))
        if args.overlays:
            callbacks.append(overlay_writer(args.overlays, split.labels))
        sheet = instances = report = None
        if args.sheet:
            callbacks.append(sheet := SampleSheet(split))
        if data.layout == "cityscapes" and (instances := instance_weights(split)) is not None:
            callbacks.append(instances.add_image)
        if args.report or args.figures:
            require_report_packages()
            report = ReportBuilder(args, split, model, _against(args, model, split, data, views))
            callbacks.append(report.add)
        source = f"{split.name}: read from {pixel_source(split, data)}"
        console.print(f"{source}; {views}" if str(views) else source)
        if args.export:
            add = stack.enter_context(server_archive(args.export, Path(args.out), split))
            callbacks.append(lambda sample, image, prediction, truth: add(sample, prediction))
        scores, sizes = _predict(model, split, data.workers, views, callbacks)

    if scores is None and split.labelled:
        _report_dummy_masks(args, split)
    weights = None
    if instances is not None:
        weights = all_reduce(torch.from_numpy(instances.weights), model.mean.device).numpy()
    if not is_main_process():
        return 0
    if scores is not None:
        print_scores(scores, split.labels, len(split), str(views))
        extra = print_layout_scores(data, scores, weights)
        description = protocol(model, split, data, views, (Path(args.checkpoint), checkpoint))
        description |= sizes
        if args.json:
            write_scores(Path(args.json), scores, split.labels, description, extra)
        if report is not None:
            report.write(scores, description)
    if sheet is not None:
        sheet.write(Path(args.sheet))
    print_paths(args)
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


def _against(
    args: Namespace, model: SegmentationModel, split: Split, data: DataConfig, views: Views
) -> OtherCounts | None:
    """Predicts the split with the checkpoint of `--against`, if any.

    Raises:
        UserError: a checkpoint with other classes.
    """
    if args.against is None:
        return None
    path = checkpoint_path(args.against)
    other = load(path, device_for(path, model.mean.device))
    check_labels(other, path, data)
    return OtherCounts(str(path), predict_counts(other, path, split, data.workers, views))


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
