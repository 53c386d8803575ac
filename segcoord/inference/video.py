"""Videos and cameras: frames in, a video of overlays out, by OpenCV."""

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

CODEC = "mp4v"  # MPEG-4 part 2: every build of OpenCV writes it; players know it, browsers don't
USUAL_RATE = 25.0  # frames per second, where a camera or a file doesn't say
FASTEST = 1000.0  # what claims to be faster doesn't know
PREFETCH = 2  # frames


class UnreadableVideo(UserError):
    """A source of which no frame can be read."""


class VideoInterrupted(Exception):
    """A video was left before its end, as was asked for."""


class VideoResult(NamedTuple):
    """What became of a video.

    Args:
        frames: how many were predicted.
        claimed: how many its file says it has; 0 where it doesn't.
        pixels: (256,) int64 by class index, of all frames together.
    """

    frames: int
    claimed: int
    pixels: np.ndarray

    def __str__(self) -> str:
        short = f" of the {self.claimed} that it claims" if self.frames < self.claimed else ""
        return f"{self.frames} frames{short}"


def predict_video(
    source: Source,
    path: Path,
    predict: Callable[[np.ndarray], np.ndarray],
    labels: LabelSet,
    stopped: Callable[[], bool],
) -> VideoResult:
    """Writes a video's frames with their classes laid over, and a legend of all classes below.

    Frames are read and written in threads while others are predicted. Sound is not kept. A camera
    goes on until it is stopped.

    Args:
        source: a file or camera.
        path: of the .mp4, which appears when it is finished.
        predict: (H, W, 3) uint8 RGB -> (H, W) uint8 class indices.
        labels: for the colours.
        stopped: whether to stop, which ends a camera's video and leaves a file's away.

    Raises:
        NoVideo: no frame of it can be read.
        Stopped: a file was not seen to its end.
        UserError: the video can't be written.
    """
    with _capture(source) as capture:
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate <= FASTEST else USUAL_RATE
        claimed = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        claimed = 0 if source.camera is not None else claimed

        def predicted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            with closing(
                map_in_threads(lambda _: capture.read(), repeat(None), 1, PREFETCH)
            ) as frames:
                for there, frame in frames:
                    if not there or stopped():
                        return
                    frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                    yield frame, predict(frame)

        pixels, count = np.zeros(256, np.int64), 0
        with (
            progress_counter(f"predict {source.shown}", claimed or None) as tell,
            atomic_write(path, suffix=path.suffix) as temporary,
        ):
            tell(0)
            with _Writer(temporary, path, rate, labels) as writer, closing(predicted()) as both:
                for of_frame in map_in_threads(writer.add, both, 1, PREFETCH):
                    pixels += of_frame
                    count += 1
                    tell(count)
            if stopped() and source.camera is None:
                raise VideoInterrupted
            if not count:
                raise UnreadableVideo("no frame of it could be read.", path=source.shown)
            writer.check(count)
    return VideoResult(count, claimed, pixels)


@contextmanager
def _capture(source: Source) -> Iterator[cv2.VideoCapture]:
    if source.camera is None and not source.path.is_file():
        raise UnreadableVideo("no such file.", path=source.shown)
    what = str(source.path) if source.camera is None else source.camera
    capture = cv2.VideoCapture(what)
    try:
        if not capture.isOpened():
            told = "can't be read as a video."
            if source.camera is not None:
                told = f"there is no camera {source.camera}, or it is in use."
            raise UnreadableVideo(told, path=source.shown)
        yield capture
    finally:
        capture.release()


class _Writer:
    """A video of overlays, all of the first one's size.

    Args:
        temporary: the file to write.
        path: what it will be called.
        rate: frames per second.
        labels: for colours and legend.
    """

    def __init__(self, temporary: Path, path: Path, rate: float, labels: LabelSet) -> None:
        self.temporary, self.path, self.rate, self.labels = temporary, path, rate, labels
        self.file: cv2.VideoWriter | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.release()

    def add(self, frame_and_classes: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Writes one; returns its (256,) pixels by class."""
        frame, classes = frame_and_classes
        if self.file is None:
            self._begin(*classes.shape)
        picture = np.concatenate([blend(frame, classes, self.labels), self.legend])
        height, width = picture.shape[:2]
        # Codecs that halve the colours' resolution want even sizes.
        more = (0, height % 2, 0, width % 2)
        picture = cv2.copyMakeBorder(picture, *more, cv2.BORDER_REPLICATE)
        self.file.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return histogram(classes)

    def _begin(self, height: int, width: int) -> None:
        text = max(11, width // 45)
        self.legend = legend(self.labels, range(len(self.labels)), width, text)
        height += len(self.legend)
        size = (width + width % 2, height + height % 2)
        code = cv2.VideoWriter_fourcc(*CODEC)
        self.file = cv2.VideoWriter(str(self.temporary), code, self.rate, size)
        if not self.file.isOpened():
            raise UserError(f"{self.path}: OpenCV can't write a video of {size[0]}x{size[1]}")

    def check(self, count: int) -> None:
        """Raises UserError where frames are missing, of which OpenCV's writer says nothing."""
        capture = cv2.VideoCapture(str(self.temporary))
        written = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if written < count:
            raise UserError(
                f"{self.path}: {written} of {count} frames were written; check the free space"
            )
