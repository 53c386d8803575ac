"""TensorBoard event files.

SummaryWriter writes in a thread that the first failed write ends for good. Here events are written
at once, and those that a full disk rejects are written with the next ones.
"""

import os
import socket
import time
from io import BytesIO
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from segcoord.utils.files import AppendOnlyFile


class EventFile:
    """A new event file in a log directory.

    Args:
        folder: the log directory, created if missing.
        purge_step: TensorBoard hides events of earlier files from this step on.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = AppendOnlyFile(folder / name)
        start = Event(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        self.header = [Event(step=purge_step, file_version="brain.Event:2"), start]

    def add_scalars(self, step: int, values: dict[str, float]) -> None:
        """Add scalars by tag; an OSError means that they are written with the next event."""
        self._add(step, [Summary.Value(tag=tag, simple_value=v) for tag, v in values.items()])

    def add_image(self, step: int, tag: str, encoded: bytes, size: tuple[int, int]) -> None:
        """Add a PNG or JPEG file of (height, width) RGB pixels; OSError as in `add_scalars`."""
        image = Summary.Image(
            height=size[0], width=size[1], colorspace=3, encoded_image_string=encoded
        )
        self._add(step, [Summary.Value(tag=tag, image=image)])

    def _add(self, step: int, values: list[Summary.Value]) -> None:
        records = BytesIO()
        writer = RecordWriter(records)
        for event in (*self.header, Event(step=step, summary=Summary(value=values))):
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
        self.header = []
        self.file.add(records.getvalue())
