"""The command `segcoord predict`: check options and inputs, predict, print a summary."""

import time
import warnings
from contextlib import nullcontext
from pathlib import Path

from jsonargparse import Namespace

from segcoord.inference.batch import BatchPredictor, PredictionJob
from segcoord.inference.class_areas import AreaTable
from segcoord.inference.inputs import OUTPUTS, Sources, by_suffix, check_outputs, find_sources
from segcoord.inference.photo import allow_pixels
from segcoord.inference.polygon_files.export import PolygonExport, polygon_options
from segcoord.inference.scales_and_tiles import Views, parse_tile
from segcoord.inference.segment import open_segment
from segcoord.utils.console import console, format_duration
from segcoord.utils.errors import UserError
from segcoord.utils.threads import graceful_interrupt

MAX_PIXELS = 2**22  # docs/predict.md lists the memory needed
MIN_SCALE = 0.1  # to suggest: at less, objects vanish
SOME_FAILED = 3
"""Exit code if some inputs were predicted and others failed."""


def run_prediction(args: Namespace) -> int:
    """Predict all inputs.

    Returns:
        The exit code: 0 if all were predicted, 3 if some failed, 1 if all failed, 130 after Ctrl-C.
    """
    job = _job(args)
    sources = find_sources(args.inputs, job.out)
    _check_outputs(job, sources)
    segment, labels, checkpoint = open_segment(args, job.views)
    export = None
    if job.polygons is not None:
        model = "/".join(Path(args.checkpoint).absolute().parts[-2:])
        export = PolygonExport(job.polygons, labels, model)
    crop = max(checkpoint.get("config", {}).get("data", {}).get("crop_size", [0]))
    warnings.filterwarnings("ignore", module="PIL")  # harmless, about sizes and EXIF
    skipped = f"; skipped: {by_suffix(sources.skipped)}" if sources.skipped else ""
    console.print(f"{sources}{skipped}")
    areas = AreaTable(job.table, labels)
    start, total = time.monotonic(), len(sources.images) + len(sources.videos)
    message = "Stopping after the current images; press Ctrl-C again to stop at once."
    with (
        allow_pixels(args.allow_pixels),
        graceful_interrupt(lambda: console.print(message)) as stopped,
    ):
        predictor = BatchPredictor(job, segment, labels, crop, stopped, export)
        try:
            with export or nullcontext():
                predictor.images(sources.images, areas)
                predictor.videos(sources.videos, areas)
        finally:
            _summarize(predictor, total, time.monotonic() - start)
        if predictor.done + len(predictor.failed) < total:
            return 130  # unless only a camera was stopped, which counts as done
    if predictor.failed:
        return SOME_FAILED if predictor.done else 1
    return 0


def _job(args: Namespace) -> PredictionJob:
    """Raises UserError for incompatible options."""
    if args.overlap is not None and not args.tile:
        raise UserError(f"--overlap: found {args.overlap} without --tile, such as 769x769")
    if args.max_pixels is not None and args.tile:
        raise UserError("--max-pixels and --tile both set the size of tiles; give one of them")
    max_pixels = MAX_PIXELS if args.max_pixels is None else args.max_pixels
    if max_pixels < 4096:
        raise UserError(f"--max-pixels: found {max_pixels}, expected at least 4096")
    if args.allow_pixels is not None and args.allow_pixels < 1:
        raise UserError(f"--allow-pixels: found {args.allow_pixels}, expected at least 1")
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file, expected a folder")
    tile = args.tile and parse_tile(args.tile)
    views = Views(tuple(args.scales), args.flip, tile, args.overlap)
    polygons = polygon_options(args, out)
    return PredictionJob(out, not args.no_overlays, args.probs, views, max_pixels, polygons)


def _check_outputs(job: PredictionJob, sources: Sources) -> None:
    """Raises UserError for options that don't apply to videos, and for conflicting outputs."""
    if sources.videos and job.probs:
        raise UserError("--probs: applies to images only; predict the videos without it")
    if sources.videos and not job.overlays:
        raise UserError("--no-overlays: videos have no other output; predict them without it")
    if sources.videos and job.polygons is not None:
        raise UserError("--to: applies to images only; predict the videos without it")
    outputs = [(s, [*job.outputs(s).values()]) for s in [*sources.images, *sources.videos]]
    check_outputs(outputs, job.table)
    if job.polygons is not None:
        job.polygons.check_absent(sources.images)


def _summarize(predictor: BatchPredictor, total: int, seconds: float) -> None:
    job, done = predictor.job, predictor.done
    rate = f", {done / seconds:.3g} per second" if done else ""
    console.print(f"{done} of {total} predicted in {format_duration(seconds)}{rate}")
    if predictor.tiled:
        limit = f"{job.max_pixels / 1e6:.3g} million pixels"
        console.print(f"{predictor.tiled} of them in tiles, with more than {limit}")
    if predictor.large:
        scale = predictor.crop / predictor.largest
        remedy = f"scale down: --scales {scale:.2g}"
        if scale < MIN_SCALE:
            remedy = f"try --scales {MIN_SCALE}, or train with a larger data.crop_size"
        console.print(
            f"{predictor.large} of them much larger than the training crops: up to "
            f"{predictor.largest} pixels long, the crops {predictor.crop}. If masks look "
            f"fragmented, {remedy}"
        )
    if done:
        for kind in OUTPUTS:
            if (job.out / kind).is_dir():
                console.print(f"{kind:10} {job.out / kind}")
        console.print(f"{'areas':10} {job.table}")
    if predictor.export is not None and done:
        console.print(str(predictor.export))
    if predictor.failed:
        console.print(f"\n{len(predictor.failed)} could not be predicted:", style="red")
        for line in predictor.failed:
            console.print(f"  {line}")
