"""segcoord predict: masks of anybody's photos and videos."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

from jsonargparse import Namespace

from segcoord.inference.batch import BatchPredictor, PredictionJob
from segcoord.inference.class_areas import AreaTable
from segcoord.inference.inputs import OUTPUTS, Sources, by_suffix, check_outputs, find_sources
from segcoord.inference.load import accelerator_for, load_with_metadata
from segcoord.inference.views import Views, parse_tile
from segcoord.utils.console import console, format_duration
from segcoord.utils.devices import fabric_on
from segcoord.utils.errors import UserError
from segcoord.utils.threads import graceful_interrupt

MAX_PIXELS = 2**22  # docs/predict.md has the memory that they take
SOME_FAILED = 3
"""Exit code where some inputs were predicted and others could not be."""


def run_prediction(args: Namespace) -> int:
    """Predicts what the inputs mean; returns the exit code.

    0: all of it. 3: some could not be predicted. 1: none could. 130: Ctrl-C came before the end.
    """
    job = _job(args)
    sources = find_sources(args.inputs, job.out)
    _check_outputs(job, sources)
    device = fabric_on(accelerator_for(args.checkpoint, args.device)).device
    model, checkpoint = load_with_metadata(args.checkpoint, device, runtime=args.runtime)
    crop = max(checkpoint.get("config", {}).get("data", {}).get("crop_size", [0]))
    warnings.filterwarnings("ignore", module="PIL")  # of sizes and EXIF, which do no harm
    passed = f"; passed over: {by_suffix(sources.passed_over)}" if sources.passed_over else ""
    console.print(f"{sources}{passed}")
    areas = AreaTable(job.table, model.labels)
    began, total = time.monotonic(), len(sources.images) + len(sources.videos)
    with graceful_interrupt(_tell_of_the_stop) as stopped:
        prediction = BatchPredictor(job, model, crop, stopped)
        try:
            prediction.images(sources.images, areas)
            prediction.videos(sources.videos, areas)
        finally:
            _summarize(prediction, total, time.monotonic() - began)
        if prediction.done + len(prediction.failed) < total:
            return 130  # a camera that was stopped is done
    if prediction.failed:
        return SOME_FAILED if prediction.done else 1
    return 0


def _job(args: Namespace) -> PredictionJob:
    """Raises UserError for options that don't go together."""
    if args.overlap is not None and not args.tile:
        raise UserError(f"--overlap: found {args.overlap} without --tile, 769x769 say")
    if args.max_pixels is not None and args.tile:
        raise UserError("--max-pixels: --tile says already how images are cut; give one of them")
    most = MAX_PIXELS if args.max_pixels is None else args.max_pixels
    if most < 4096:
        raise UserError(f"--max-pixels: found {most}, expected at least 4096")
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file, expected a folder")
    tile = args.tile and parse_tile(args.tile)
    views = Views(tuple(args.scales), args.flip, tile, args.overlap or 0)
    return PredictionJob(out, not args.no_overlays, args.probs, views, most)


def _check_outputs(job: PredictionJob, sources: Sources) -> None:
    """Raises UserError for videos that options forbid, and outputs that can't be written."""
    if sources.videos and job.probs:
        raise UserError("--probs: is of images; predict the videos without it")
    if sources.videos and not job.overlays:
        raise UserError("--no-overlays: of videos nothing else is written; predict them without it")
    written = [(s, [*job.outputs(s).values()]) for s in [*sources.images, *sources.videos]]
    check_outputs(written, job.table)


def _tell_of_the_stop() -> None:
    console.print("Stopping after what is begun; Ctrl-C again to stop at once.")


def _summarize(prediction: BatchPredictor, total: int, seconds: float) -> None:
    job, done = prediction.job, prediction.done
    rate = f", {done / seconds:.3g} a second" if done else ""
    console.print(f"{done} of {total} predicted in {format_duration(seconds)}{rate}")
    if prediction.tiled:
        bound = f"{job.max_pixels / 1e6:.3g} million pixels"
        console.print(f"{prediction.tiled} of them, of more than {bound}, in tiles")
    if prediction.large:
        console.print(
            f"{prediction.large} of them much larger than what training saw: up to "
            f"{prediction.largest} pixels long, its crops {prediction.crop}. Where masks look "
            "torn, let the model see them smaller: "
            f"--scales {prediction.crop / prediction.largest:.2g}"
        )
    if done:
        for kind in OUTPUTS:
            if (job.out / kind).is_dir():
                console.print(f"{kind:10} {job.out / kind}")
        console.print(f"{'areas':10} {job.table}")
    if prediction.failed:
        console.print(f"\n{len(prediction.failed)} could not be predicted:", style="red")
        for line in prediction.failed:
            console.print(f"  {line}")
