"""`segcoord score`: scores masks that any program wrote. Imports no torch, except for a report."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jsonargparse import Namespace

from segcoord.config.schema import DataConfig
from segcoord.data.image_io import read_header
from segcoord.data.labels import VOID
from segcoord.data.layouts import find_split
from segcoord.data.mask_reader import read_mask
from segcoord.data.pack.reader import pixel_source, verify_masks, with_pack
from segcoord.data.split import Sample, Split
from segcoord.evaluation.bootstrap import count_image, paired_bootstrap
from segcoord.evaluation.cityscapes import instance_weights
from segcoord.evaluation.metrics import Scores, joint_histogram
from segcoord.evaluation.output_options import (
    check_paths,
    expand_home,
    require_masks_kept,
    require_outside_dataset,
)
from segcoord.evaluation.outputs import (
    ImageCallback,
    overlay_writer,
    print_layout_scores,
    print_paths,
)
from segcoord.evaluation.prediction_files import (
    PredictionFiles,
    PredictionReader,
    find_predictions,
)
from segcoord.evaluation.protocol import split_protocol, write_scores
from segcoord.evaluation.sheet import SampleSheet
from segcoord.evaluation.tables import print_comparison, print_scores
from segcoord.utils.console import console, progress_bar
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError
from segcoord.utils.provenance import origin
from segcoord.utils.threads import map_in_threads


class Totals(NamedTuple):
    """What the masks of a folder add up to."""

    scores: Scores
    counts: np.ndarray
    """(N, 3, K) int64 from `count_image`."""
    void: int
    """Labeled pixels predicted as void."""
    sizes: dict[str, list[int]]
    """Smallest and largest height and width."""


def run_score(args: Namespace, data: DataConfig) -> int:
    """Scores the masks of a folder on a split and writes the requested outputs.

    Returns the exit code.
    """
    data.check()
    split, files = _inputs(args, data)
    reader = PredictionReader(split.labels, args.mask_values)
    other = None
    if args.against:
        other = _count(split, files["against"], reader, args.against, [])
    callbacks: list[ImageCallback] = []
    instances = report = sheet = None
    if data.layout == "cityscapes" and (instances := instance_weights(split)) is not None:
        callbacks.append(instances.add_image)
    if args.overlays:
        callbacks.append(overlay_writer(args.overlays, split.labels))
    if args.sheet:
        callbacks.append(sheet := SampleSheet(split))
    if args.report or args.figures:
        from segcoord.evaluation.report.build import OtherCounts, ReportBuilder

        against = other and OtherCounts(args.against, other.counts)
        callbacks.append((report := ReportBuilder(args, split, None, against)).add)
    with_images = bool(args.overlays or sheet or report)
    total = _count(split, files["predictions"], reader, args.predictions, callbacks, with_images)

    print_scores(total.scores, split.labels, len(split))
    _print_notes(total, files["predictions"])
    weights = None if instances is None else instances.weights
    more = {"predicted_void": total.void} | print_layout_scores(data, total.scores, weights)
    if other is not None:
        result = paired_bootstrap(other.counts, total.counts)
        print_comparison(result, split.labels.names, [args.against, args.predictions])
        more["comparison"] = {"against": args.against} | result.to_dict(split.labels.names)
    description = split_protocol(split, data) | {
        "predictions": args.predictions,
        "mask_values": args.mask_values or "ids",
        "predicted_void": "wrong",
        "extra": files["predictions"].extra,
        **total.sizes,
        **origin(),
    }
    if args.json:
        write_scores(Path(args.json), total.scores, split.labels, description, more)
    if sheet is not None:
        sheet.write(Path(args.sheet))
    if report is not None:
        report.write(total.scores, description)
    print_paths(args)
    return 0


def _inputs(args: Namespace, data: DataConfig) -> tuple[Split, dict[str, PredictionFiles]]:
    """The split, and the masks of `--predictions` and `--against`, checked before any is read."""
    folders = {option: args[option] for option in ("predictions", "against") if args[option]}
    expand_home(args)
    check_paths(args, {})
    split = with_pack(find_split(data, args.split or data.val_split), data)
    if not split.labelled:
        raise UserError(f"split {split.name!r} has no masks, so it can't be scored")
    require_outside_dataset(args, data, split)
    files = {
        option: find_predictions(folder, split, data.layout, args.allow_extra, f"--{option}")
        for option, folder in folders.items()
    }
    for option, predictions in files.items():
        require_masks_kept(args, split, option, predictions)
    verify_masks(split)
    console.print(f"{split.name}: truth read from {pixel_source(split, data)}")
    return split, files


def _print_notes(total: Totals, files: PredictionFiles) -> None:
    """Prints the number of pixels predicted as void, and of masks of no image."""
    if total.void:
        labeled = int(total.scores.truth.sum())
        console.print(
            f"{total.void} of {labeled} labeled pixels are predicted as void and counted as wrong"
        )
    if files.extra:
        masks = "mask belongs" if files.extra == 1 else "masks belong"
        console.print(f"{files.extra} {masks} to no image and were ignored")


def _count(
    split: Split,
    files: PredictionFiles,
    reader: PredictionReader,
    folder: str,
    callbacks: list[ImageCallback],
    with_images: bool = False,
) -> Totals:
    """Reads and counts every image once.

    Raises:
        UserError: a file that can't be used, masks without a labeled pixel, masks whose values may
            be ids or indices.
    """
    k = len(split.labels)
    confusion, counts, sizes, values = np.zeros((k, 256), np.int64), [], [], frozenset()
    with progress_bar() as bar, closing(_pairs(split, files, reader, with_images)) as pairs:
        task = bar.add_task(f"score {folder}", total=len(split))
        for sample, image, prediction, truth in pairs:
            confusion += joint_histogram(truth, prediction.indices)[:k]
            counts.append(count_image(prediction.indices, truth, k))
            sizes.append(truth.shape)
            values |= prediction.values
            for callback in callbacks:
                callback(sample, image, prediction.indices, truth)
            bar.advance(task)
    reader.require_unambiguous(values, folder)
    if not confusion.any():
        raise UserError(
            f"split {split.name!r}: no pixel of its {len(split)} masks is labeled (dummy masks); "
            "it can't be scored"
        )
    void = confusion[:, VOID]
    scored = np.column_stack([confusion[:, :k], void]) if void.any() else confusion[:, :k]
    heights, widths = np.transpose(sizes)
    extents = {
        name: [int(values.min()), int(values.max())]
        for name, values in (("heights", heights), ("widths", widths))
    }
    return Totals(Scores(scored), np.stack(counts), int(void.sum()), extents)


def _pairs(
    split: Split, files: PredictionFiles, reader: PredictionReader, with_images: bool
) -> Iterator[tuple]:
    """Sample, image (None unless needed), prediction and truth, read in threads, in order."""
    read = partial(_read, split, files, reader, with_images)
    threads = min(4, available_cores())
    return map_in_threads(read, range(len(split)), threads, threads)


def _read(
    split: Split, files: PredictionFiles, reader: PredictionReader, with_images: bool, index: int
) -> tuple:
    sample: Sample = split.samples[index]
    image = None
    if with_images or split.pack is not None:
        image, truth = split.read(index)
    else:
        size = read_header(sample.image, split.exif).size
        truth = read_mask(sample.mask, sample.labels, size)
    return sample, image, reader.read(files.paths[index], truth.shape), truth
