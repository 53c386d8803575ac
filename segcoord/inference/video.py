"""Predict the frames of a video or camera and write a video of overlays, with OpenCV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segcoord.data.image_io import histogram
from segcoord.data.labels import LabelSet
from segcoord.inference.inputs import Source
from segcoord.inference.visualize import blend, legend
from segcoord.utils.console import progress_counter
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_write
from segcoord.utils.threads import map_in_threads

CODEC = "mp4v"  # MPEG-4 Part 2: every build of OpenCV writes it; players support it, browsers don't
DEFAULT_FPS = 25.0  # if a camera or file reports none
MAX_FPS = 1000.0  # larger values are invalid
PREFETCH = 2  # frames


class UnreadableVideo(UserError):
    """No frame of the source can be read."""


class VideoInterrupted(Exception):
    """The user stopped the prediction before the end of a video file."""


class VideoResult(NamedTuple):
    """Number of predicted frames and their pixels by class."""

    frames: int
    claimed: int  # frames according to the file's header; 0 if unknown
    pixels: np.ndarray  # (256,) int64 by class index, over all frames

    def __str__(self) -> str:
        missing = f" of the {self.claimed} in its header" if self.frames < self.claimed else ""
        return f"{self.frames} frames{missing}"


def predict_video(
    source: Source,
    path: Path,
    predict: Callable[[np.ndarray], np.ndarray],
    labels: LabelSet,
    stopped: Callable[[], bool],
) -> VideoResult:
    """Write a video of overlays with a legend of all classes below.

    Threads read and write frames during prediction. Sound is not copied. A camera is recorded until
    `stopped` returns True.

    Args:
        source: a file or camera.
        path: the .mp4 to write, which appears once it is complete.
        predict: maps (H, W, 3) uint8 RGB to (H, W) uint8 class indices.
        labels: names and colors of the classes.
        stopped: whether to stop, which completes a camera's video and discards a file's.

    Raises:
        UnreadableVideo: no frame can be read.
        VideoInterrupted: stopped before the end of a file.
        UserError: the video can't be written.
    """
    with _capture(source) as capture:
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 0 < fps <= MAX_FPS else DEFAULT_FPS
        claimed = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        claimed = 0 if source.camera is not None else claimed

        def predict_frames() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            reads = map_in_threads(lambda _: capture.read(), repeat(None), 1, PREFETCH)
            with closing(reads) as frames:
                for success, frame in frames:
                    if not success or stopped():
                        return
                    frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                    yield frame, predict(frame)

        pixels, count = np.zeros(256, np.int64), 0
        with (
            progress_counter(f"predict {source.shown}", claimed or None) as on_progress,
            atomic_write(path, suffix=path.suffix) as temporary,
        ):
            on_progress(0)
            with (
                _Writer(temporary, path, fps, labels) as writer,
                closing(predict_frames()) as predicted,
            ):
                for frame_pixels in map_in_threads(writer.add, predicted, 1, PREFETCH):
                    pixels += frame_pixels
                    count += 1
                    on_progress(count)
            if stopped() and source.camera is None:
                raise VideoInterrupted
            if not count:
                raise UnreadableVideo("no frame can be read.", path=source.shown)
            writer.check(count)
    return VideoResult(count, claimed, pixels)


@contextmanager
def _capture(source: Source) -> Iterator[cv2.VideoCapture]:
    if source.camera is None and not source.path.is_file():
        raise UnreadableVideo("no such file.", path=source.shown)
    capture = cv2.VideoCapture(str(source.path) if source.camera is None else source.camera)
    try:
        if not capture.isOpened():
            message = "can't be read as a video."
            if source.camera is not None:
                message = f"there is no camera {source.camera}, or it is in use."
            raise UnreadableVideo(message, path=source.shown)
        yield capture
    finally:
        capture.release()


class _Writer:
    """Writes a video of overlays, all of the size of the first; `path` is the final one."""

    def __init__(self, temporary: Path, path: Path, fps: float, labels: LabelSet) -> None:
        self.temporary, self.path, self.fps, self.labels = temporary, path, fps, labels
        self.file: cv2.VideoWriter | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.release()

    def add(self, frame_and_classes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Write a frame; returns its (256,) pixel counts by class."""
        frame, classes = frame_and_classes
        if self.file is None:
            self._open(*classes.shape)
        picture = np.concatenate([blend(frame, classes, self.labels), self.legend])
        height, width = picture.shape[:2]
        # Codecs with chroma subsampling need even sizes.
        picture = cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self.file.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return histogram(classes)

    def _open(self, height: int, width: int) -> None:
        font_size = max(11, width // 45)
        self.legend = legend(self.labels, range(len(self.labels)), width, font_size)
        height += len(self.legend)
        size = (width + width % 2, height + height % 2)
        fourcc = cv2.VideoWriter_fourcc(*CODEC)
        self.file = cv2.VideoWriter(str(self.temporary), fourcc, self.fps, size)
        if not self.file.isOpened():
            raise UserError(f"{self.path}: OpenCV can't write a video of {size[0]}x{size[1]}")

    def check(self, count: int) -> None:
        """Raises UserError if frames are missing, which OpenCV's writer does not report."""
        capture = cv2.VideoCapture(str(self.temporary))
        written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if written < count:
            raise UserError(
                f"{self.path}: only {written} of {count} frames were written; check the free space"
            )
