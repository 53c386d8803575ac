"""segcoord predict: masks of anybody's photos and videos."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jsonargparse import Namespace

from segcoord.checkpoints import load
from segcoord.console import clock, console, counted
from segcoord.cores import available_cores
from segcoord.data.reading import histogram
from segcoord.devices import fabric_on, out_of_memory
from segcoord.errors import UserError
from segcoord.export.areas import AreaTable
from segcoord.export.masks import write_mask, write_probabilities
from segcoord.export.overlays import overlay, reduced, write_picture
from segcoord.inference import predict, predict_probabilities
from segcoord.model import SegmentationModel
from segcoord.photos import Photo, read_photo
from segcoord.pipeline import in_threads, stopping
from segcoord.sources import Source, Sources, by_suffix, check_outputs, find_sources
from segcoord.video import NoVideo, Stopped, predict_video
from segcoord.views import Views, parse_tile

MAX_PIXELS = 2**22
SOME_FAILED = 3
"""Exit code where some inputs were predicted and others could not be."""
LONGEST = 4096  # pixels of an overlay's longer side, which is for eyes
THREADS = min(4, available_cores())  # that read, and as many that write


@dataclass
class Job:
    """What is written of each source, and what became of them so far.

    Args:
        out: the folder of all outputs.
        overlays, probs: whether they are written.
        views: how an image is looked at, but for the tiles of large ones.
        max_pixels: of a look; images with more are cut into tiles.
        done: sources that were predicted.
        tiled: images that were cut because of max_pixels.
        failed: path and reason of each source that could not be predicted.
    """

    out: Path
    overlays: bool
    probs: bool
    views: Views
    max_pixels: int
    done: int = 0
    tiled: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def table(self) -> Path:
        return self.out / "areas.csv"

    def outputs(self, source: Source) -> dict[str, Path]:
        """The files that are written of a source, by kind."""
        if source.is_video:
            return {"overlays": self.out / "overlays" / f"{source.name}.mp4"}
        kinds = {"masks": ".png"}
        if self.overlays:
            kinds["overlays"] = ".jpg"
        if self.probs:
            kinds["probs"] = ".npz"
        return {kind: self.out / kind / f"{source.name}{end}" for kind, end in kinds.items()}

    def fail(self, source: Source, error: UserError) -> None:
        """Reports a source that can't be predicted."""
        self.failed.append(f"{source.shown}: {error.found} {error.remedy}".rstrip())
        console.print(self.failed[-1], style="red")


def run_prediction(args: Namespace) -> int:
    """Predicts what the inputs mean; returns the exit code.

    0: all of it. 3: some could not be predicted. 1: none could. 130: Ctrl-C, after what was begun.
    """
    job = _job(args)
    sources = find_sources(args.inputs, job.out)
    _check_outputs(job, sources)
    exported = Path(args.checkpoint).is_dir()  # which runs on the CPU, whatever else there is
    device = fabric_on("cpu" if exported and args.device == "auto" else args.device).device
    model = load(args.checkpoint, device, runtime=args.runtime)
    warnings.filterwarnings("ignore", module="PIL")  # of sizes and EXIF, which do no harm
    told = {"images": len(sources.images), "videos": len(sources.videos)}
    passed = f"; passed over: {by_suffix(sources.passed_over)}" if sources.passed_over else ""
    console.print(", ".join(f"{n} {what}" for what, n in told.items() if n) + passed)
    began = time.monotonic()
    areas = AreaTable(job.table, model.labels)
    with stopping(_tell_of_the_stop) as stopped:
        try:
            _predict_images(job, model, sources.images, areas, stopped)
            _predict_videos(job, model, sources.videos, areas, stopped)
        finally:
            _summarize(job, sum(told.values()), time.monotonic() - began)
        if stopped():
            return 130
    if job.failed:
        return SOME_FAILED if job.done else 1
    return 0


def _job(args: Namespace) -> Job:
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
    return Job(out, not args.no_overlays, args.probs, views, most)


def _check_outputs(job: Job, sources: Sources) -> None:
    """Raises UserError for videos that options forbid, and outputs that can't be written."""
    if sources.videos and job.probs:
        raise UserError("--probs: is of images; predict the videos without it")
    if sources.videos and not job.overlays:
        raise UserError("--no-overlays: of videos nothing else is written; predict them without it")
    written = [(s, [*job.outputs(s).values()]) for s in [*sources.images, *sources.videos]]
    check_outputs(written, job.table)


def _tell_of_the_stop() -> None:
    console.print("Stopping after what is begun; Ctrl-C again to stop at once.")


def _look(
    job: Job, model: SegmentationModel, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W) uint8 classes, and (K, H, W) float16 probabilities where they are asked for."""
    height, width = pixels.shape[:2]
    views = job.views.within(job.max_pixels, (height, width))
    try:
        if job.probs:
            return predict_probabilities(model, pixels, views)
        return predict(model, pixels, views), None
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        told = "lower --max-pixels" if job.views.tile is None else "take smaller --tile"
        raise UserError(
            f"the memory is not enough for its {width}x{height} pixels; {told}."
        ) from error


def _predict_images(
    job: Job,
    model: SegmentationModel,
    sources: list[Source],
    areas: AreaTable,
    stopped: Callable[[], bool],
) -> None:
    """Reads ahead and writes behind in threads, so that the model waits for neither."""

    def read(source: Source) -> tuple[Source, Photo | UserError]:
        try:
            return source, read_photo(source.path)
        except UserError as error:
            return source, error

    def predicted() -> Iterator[tuple[Source, np.ndarray, np.ndarray, np.ndarray | None]]:
        with closing(in_threads(read, sources, THREADS, THREADS)) as photos:
            for source, photo in photos:
                if stopped():
                    return
                try:
                    if isinstance(photo, UserError):
                        raise photo
                    found = _look(job, model, photo.pixels)
                except UserError as error:
                    job.fail(source, error)
                    continue
                for note in photo.notes:
                    console.print(f"{source.shown}: {note}")
                job.tiled += job.views.within(job.max_pixels, found[0].shape) is not job.views
                yield source, photo.pixels, *found

    def write(
        item: tuple[Source, np.ndarray, np.ndarray, np.ndarray | None],
    ) -> tuple[Source, np.ndarray]:
        source, pixels, classes, probabilities = item
        files = job.outputs(source)
        write_mask(files["masks"], classes, model.labels, palette=True)
        if job.overlays:
            shown = reduced(pixels, classes, LONGEST)
            write_picture(files["overlays"], overlay(*shown, model.labels))
        if probabilities is not None:
            write_probabilities(files["probs"], probabilities, model.labels)
        return source, histogram(classes)

    if not sources:
        return
    with counted("predict", len(sources)) as tell:
        tell(0)
        for source, pixels in in_threads(write, predicted(), THREADS, THREADS):
            areas.add(source.path, pixels)
            job.done += 1
            tell(job.done + len(job.failed))


def _predict_videos(
    job: Job,
    model: SegmentationModel,
    sources: list[Source],
    areas: AreaTable,
    stopped: Callable[[], bool],
) -> None:
    for source in sources:
        if stopped():
            return
        path = job.outputs(source)["overlays"]
        try:
            seen = predict_video(
                source, path, lambda frame: _look(job, model, frame)[0], model.labels, stopped
            )
        except NoVideo as error:
            job.fail(source, error)
            continue
        except Stopped:
            return
        areas.add(source.path, seen.pixels)
        job.done += 1
        console.print(f"{source.shown}: {seen}")


def _summarize(job: Job, total: int, seconds: float) -> None:
    rate = f", {job.done / seconds:.3g} a second" if job.done else ""
    console.print(f"{job.done} of {total} predicted in {clock(seconds)}{rate}")
    if job.tiled:
        console.print(
            f"{job.tiled} of them, of more than {job.max_pixels / 1e6:.3g} million pixels, in tiles"
        )
    if job.done:
        for kind in ("masks", "overlays", "probs"):
            if (job.out / kind).is_dir():
                console.print(f"{kind:10} {job.out / kind}")
        console.print(f"{'areas':10} {job.table}")
    if job.failed:
        console.print(f"\n{len(job.failed)} could not be predicted:", style="red")
        for line in job.failed:
            console.print(f"  {line}")
