"""How much of each image every class takes, as a CSV that grows while images are predicted."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

import numpy as np

from segcoord.data.labels import LabelSet
from segcoord.utils.files import AppendOnlyFile, atomic_write

HEAD = ("file", "class", "id", "pixels", "share")


class AreaTable:
    """A row for each file and class: the class's pixels, and their share of the file's, 0 to 1.

    Rows of a file come together or not at all, so that the table is whole whenever one looks.

    Args:
        path: of the CSV, which begins anew.
        labels: the classes; id is what a mask has for one.

    Raises:
        UserError: it can't be written.
    """

    def __init__(self, path: Path, labels: LabelSet) -> None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(_lines([HEAD]))
        self._file = AppendOnlyFile(path)
        self._labels = labels

    def add(self, file: Path, pixels: np.ndarray) -> None:
        """Adds a file's rows; OSError where the disk refuses.

        Args:
            file: as it was given.
            pixels: (256,) by class index.
        """
        total = max(1, int(pixels.sum()))
        classes = zip(self._labels.classes, pixels.tolist())
        self._file.add(_lines([(file, c.name, c.id, n, f"{n / total:.6f}") for c, n in classes]))


def _lines(rows: list[tuple]) -> bytes:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")  # a path may have any bytes
