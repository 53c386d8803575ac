"""A model over a user's images and videos: what is read, what is written, what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segcoord.data.image_io import histogram
from segcoord.data.mask_files import write_mask, write_probabilities
from segcoord.inference.class_areas import AreaTable
from segcoord.inference.inputs import Source
from segcoord.inference.photo import Photo, read_photo
from segcoord.inference.predict import predict, predict_probabilities
from segcoord.inference.video import UnreadableVideo, VideoInterrupted, predict_video
from segcoord.inference.views import Views
from segcoord.inference.visualize import overlay, reduced, write_picture
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console, progress_counter
from segcoord.utils.cpu import available_cores
from segcoord.utils.devices import is_out_of_memory
from segcoord.utils.errors import UserError
from segcoord.utils.threads import map_in_threads

LONGEST = 4096  # pixels of an overlay's longer side, which is for eyes
MUCH = 3  # times as long as a crop of the training: things look unlike what it saw
THREADS = min(4, available_cores())  # that read, and as many that write


@dataclass(frozen=True)
class PredictionJob:
    """What is looked for, and written.

    Args:
        out: the folder of all outputs.
        overlays, probs: whether they are written.
        views: how an image is looked at, but for the tiles of large ones.
        max_pixels: of a look; images with more are cut into tiles.
    """

    out: Path
    overlays: bool
    probs: bool
    views: Views
    max_pixels: int

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

    def views_of(self, size: tuple[int, int]) -> Views:
        return self.views.within(self.max_pixels, size)


class PredictedImage(NamedTuple):
    """An image on its way to the disk; probabilities (K, H, W) float16, or None."""

    source: Source
    pixels: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray | None


@dataclass
class BatchPredictor:
    """Goes through sources, and keeps what became of them.

    Args:
        job: what is written.
        model: that predicts.
        crop: the longer side of the crops that it was trained on; 0 where that isn't known.
        stopped: whether to stop.
        done: sources that were predicted.
        tiled: images that were cut because of `max_pixels`.
        large: images much longer than `crop`, seen at their own scale.
        largest: the longest side of these.
        failed: path and reason of each source that could not be predicted.
    """

    job: PredictionJob
    model: SegmentationModel
    crop: int
    stopped: Callable[[], bool]
    done: int = 0
    tiled: int = 0
    large: int = 0
    largest: int = 0
    failed: list[str] = field(default_factory=list)

    def images(self, sources: list[Source], areas: AreaTable) -> None:
        """Reads ahead and writes behind in threads, so that the model waits for neither."""
        if not sources:
            return
        with (
            progress_counter("predict", len(sources)) as tell,
            closing(self._predicted(sources)) as found,
        ):
            tell(0)
            for source, pixels in map_in_threads(self._write, found, THREADS, THREADS):
                areas.add(source.path, pixels)
                self.done += 1
                tell(self.done + len(self.failed))

    def videos(self, sources: list[Source], areas: AreaTable) -> None:
        for source in sources:
            if self.stopped():
                return
            path = self.job.outputs(source)["overlays"]
            try:
                seen = predict_video(
                    source, path, lambda x: self._look(x)[0], self.model.labels, self.stopped
                )
            except UnreadableVideo as error:
                self._fail(source, error)
                continue
            except VideoInterrupted:
                return
            areas.add(source.path, seen.pixels)
            self.done += 1
            console.print(f"{source.shown}: {seen}")

    def _predicted(self, sources: list[Source]) -> Iterator[PredictedImage]:
        with closing(map_in_threads(_read, sources, THREADS, THREADS)) as photos:
            for source, photo in photos:
                if self.stopped():
                    return
                try:
                    if isinstance(photo, UserError):
                        raise photo
                    found = self._look(photo.pixels)
                except UserError as error:
                    self._fail(source, error)
                    continue
                for note in photo.notes:
                    console.print(f"{source.shown}: {note}")
                self._count(found[0].shape)
                yield PredictedImage(source, photo.pixels, *found)

    def _look(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(H, W) uint8 classes, and (K, H, W) float16 probabilities where they are asked for."""
        height, width = pixels.shape[:2]
        views = self.job.views_of((height, width))
        try:
            if self.job.probs:
                return predict_probabilities(self.model, pixels, views)
            return predict(self.model, pixels, views), None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            less = "Lower --max-pixels." if self.job.views.tile is None else "Lower --tile."
            found = f"the memory is not enough for its {width}x{height} pixels."
            raise UserError(found, remedy=less) from error

    def _write(self, seen: PredictedImage) -> tuple[Source, np.ndarray]:
        """Writes the files of an image; returns its (256,) pixels by class."""
        files = self.job.outputs(seen.source)
        write_mask(files["masks"], seen.classes, self.model.labels, palette=True)
        if "overlays" in files:
            shown = reduced(seen.pixels, seen.classes, LONGEST)
            write_picture(files["overlays"], overlay(*shown, self.model.labels))
        if "probs" in files:
            write_probabilities(files["probs"], seen.probabilities, self.model.labels)
        return seen.source, histogram(seen.classes)

    def _count(self, size: tuple[int, int]) -> None:
        self.tiled += self.job.views_of(size) is not self.job.views
        if self.crop and self.job.views.scales == (1.0,) and max(size) > MUCH * self.crop:
            self.large += 1
            self.largest = max(self.largest, *size)

    def _fail(self, source: Source, error: UserError) -> None:
        self.failed.append(f"{source.shown}: {error.found} {error.remedy}".rstrip())
        console.print(self.failed[-1], style="red")


def _read(source: Source) -> tuple[Source, Photo | UserError]:
    try:
        return source, read_photo(source.path)
    except UserError as error:
        return source, error
