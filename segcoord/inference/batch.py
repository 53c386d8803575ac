"""Predict a list of images and videos: read ahead, write behind, collect failures."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segcoord.data.image_io import histogram
from segcoord.data.labels import LabelSet
from segcoord.data.mask_writer import write_mask, write_probabilities
from segcoord.inference.class_areas import AreaTable
from segcoord.inference.inputs import Source
from segcoord.inference.photo import Photo
from segcoord.inference.polygon_files.export import PolygonExport, PolygonOptions
from segcoord.inference.polygon_files.image_polygons import ImagePolygons
from segcoord.inference.scales_and_tiles import Views
from segcoord.inference.segment import Segment
from segcoord.inference.strips import PhotoStrips, open_photo
from segcoord.inference.video import UnreadableVideo, VideoInterrupted, predict_video
from segcoord.inference.visualize import overlay, reduced, write_picture
from segcoord.utils.console import console, progress_counter
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError, explain_out_of_memory
from segcoord.utils.threads import map_in_threads

MAX_OVERLAY = 4096  # pixels of an overlay's longer side
LARGE_FACTOR = 3  # an image is large if it is this many times longer than a training crop
THREADS = min(4, available_cores())  # for reading, and as many for writing


@dataclass(frozen=True)
class PredictionJob:
    """What to predict and write."""

    out: Path
    overlays: bool
    probs: bool
    views: Views
    max_pixels: int  # images with more pixels are cut into tiles
    polygons: PolygonOptions | None

    @property
    def table(self) -> Path:
        return self.out / "areas.csv"

    def outputs(self, source: Source) -> dict[str, Path]:
        """The output files of a source, by kind."""
        if source.is_video:
            return {"overlays": self.out / "overlays" / f"{source.name}.mp4"}
        suffixes = {"masks": ".png"}
        if self.overlays:
            suffixes["overlays"] = ".jpg"
        if self.probs:
            suffixes["probs"] = ".npz"
        files = {kind: self.out / kind / f"{source.name}{end}" for kind, end in suffixes.items()}
        polygons = self.polygons and self.polygons.image_file(source.name)
        return files | ({"polygons": polygons} if polygons else {})

    def views_of(self, size: tuple[int, int]) -> Views:
        return self.views.within(self.max_pixels, size)


class PredictedImage(NamedTuple):
    """An image to write; probabilities are (K, H, W) float16, or None."""

    source: Source
    pixels: np.ndarray | PhotoStrips
    classes: np.ndarray
    probabilities: np.ndarray | None


class WrittenImage(NamedTuple):
    """A written image; pixels are (256,) counts by class index, polygons None without --to."""

    source: Source
    pixels: np.ndarray
    polygons: ImagePolygons | None


@dataclass
class BatchPredictor:
    """Predicts sources and counts the results."""

    job: PredictionJob
    segment: Segment
    labels: LabelSet
    crop: int  # the longer side of the model's training crops; 0 if unknown
    stopped: Callable[[], bool]  # whether the user has asked to stop
    export: PolygonExport | None
    done: int = 0  # predicted sources
    tiled: int = 0  # images cut into tiles because of `max_pixels`
    large: int = 0  # images much longer than `crop`, predicted at scale 1
    largest: int = 0  # the longest side of these
    failed: list[str] = field(default_factory=list)  # path and reason

    def images(self, sources: list[Source], areas: AreaTable) -> None:
        """Predict images while threads read the next ones and write the previous ones."""
        if not sources:
            return
        with (
            progress_counter("predict", len(sources)) as on_progress,
            closing(self._predict_all(sources)) as predicted,
        ):
            on_progress(0)
            for image in map_in_threads(self._write, predicted, THREADS, THREADS):
                if self.export is not None:
                    self.export.add(image.polygons)
                areas.add(image.source.path, image.pixels)
                self.done += 1
                on_progress(self.done + len(self.failed))

    def videos(self, sources: list[Source], areas: AreaTable) -> None:
        for source in sources:
            if self.stopped():
                return
            path = self.job.outputs(source)["overlays"]
            try:
                result = predict_video(
                    source, path, lambda x: self._predict(x)[0], self.labels, self.stopped
                )
            except UnreadableVideo as error:
                self._fail(source, error)
                continue
            except VideoInterrupted:
                return
            areas.add(source.path, result.pixels)
            self.done += 1
            console.print(f"{source.shown}: {result}")

    def _predict_all(self, sources: list[Source]) -> Iterator[PredictedImage]:
        with closing(map_in_threads(_read, sources, THREADS, THREADS)) as photos:
            for source, photo in photos:
                if self.stopped():
                    return
                try:
                    if isinstance(photo, UserError):
                        raise photo
                    prediction = self._predict(photo.pixels)
                except UserError as error:
                    self._fail(source, error)
                    continue
                for note in photo.notes:
                    console.print(f"{source.shown}: {note}")
                self._count(prediction[0].shape)
                yield PredictedImage(source, photo.pixels, *prediction)

    def _predict(self, pixels: np.ndarray | PhotoStrips) -> tuple[np.ndarray, np.ndarray | None]:
        """(H, W) uint8 classes, and (K, H, W) float16 probabilities if the job writes them."""
        size = pixels.shape[:2]
        option = "--max-pixels" if self.job.views.tile is None else "--tile"
        with explain_out_of_memory(size, f"Lower {option}."):
            return self.segment(pixels, self.job.views_of(size))

    def _write(self, image: PredictedImage) -> WrittenImage:
        """Write the outputs of an image, except its polygons, which are only computed."""
        files = self.job.outputs(image.source)
        write_mask(files["masks"], image.classes, self.labels, palette=True)
        if "overlays" in files:
            pixels = image.pixels
            if isinstance(pixels, PhotoStrips):
                pixels = pixels.reduced(MAX_OVERLAY)
            small = reduced(pixels, image.classes, MAX_OVERLAY)
            write_picture(files["overlays"], overlay(*small, self.labels))
        if "probs" in files:
            write_probabilities(files["probs"], image.probabilities, self.labels)
        polygons = None
        if self.export is not None:
            polygons = self.export.find(image.source, image.classes, image.probabilities)
        return WrittenImage(image.source, histogram(image.classes), polygons)

    def _count(self, size: tuple[int, int]) -> None:
        self.tiled += self.job.views_of(size) is not self.job.views
        if self.crop and self.job.views.scales == (1.0,) and max(size) > LARGE_FACTOR * self.crop:
            self.large += 1
            self.largest = max(self.largest, *size)

    def _fail(self, source: Source, error: UserError) -> None:
        self.failed.append(f"{source.shown}: {error.found} {error.remedy}".rstrip())
        console.print(self.failed[-1], style="red")


def _read(source: Source) -> tuple[Source, Photo | UserError]:
    try:
        return source, open_photo(source.path)
    except UserError as error:
        return source, error
