"""TensorBoard's event file, written by the process that trains.

TensorBoard's own writer hands its records to a thread, which a full disk ends for good; here they
wait until there is space again.
"""

from __future__ import annotations

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
    """A new file in a folder that TensorBoard reads.

    Args:
        folder: made where it is missing.
        purge_step: events of earlier files from this step on are no longer shown.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.file = AppendOnlyFile(folder / name)
        start = Event(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        self.first = [Event(step=purge_step, file_version="brain.Event:2"), start]

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds numbers under their names; OSError where the disk refuses, which is made up for."""
        each = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step, Summary(value=each))

    def picture(self, step: int, name: str, encoded: bytes, size: tuple[int, int]) -> None:
        """Adds a PNG or JPEG of (height, width) pixels in RGB; OSError as above."""
        picture = Summary.Image(
            height=size[0], width=size[1], colorspace=3, encoded_image_string=encoded
        )
        self._add(step, Summary(value=[Summary.Value(tag=name, image=picture)]))

    def _add(self, step: int, summary: Summary) -> None:
        records = BytesIO()
        writer = RecordWriter(records)
        for event in (*self.first, Event(step=step, summary=summary)):
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
        self.first = []
        self.file.add(records.getvalue())
