"""A CSV of the area that each class covers in each image, written during prediction."""

import csv
from io import StringIO
from pathlib import Path

import numpy as np

from segcoord.data.labels import LabelSet
from segcoord.utils.files import AppendOnlyFile, atomic_write

HEADER = ("file", "class", "id", "pixels", "share")


class AreaTable:
    """One row per file and class: the class's pixels, and their fraction of the file, 0 to 1.

    All rows of a file are appended at once, so the table is complete at any time.

    Args:
        path: of the CSV, which is overwritten.
        labels: the classes; the column id is a class's value in masks.

    Raises:
        UserError: the file can't be written.
    """

    def __init__(self, path: Path, labels: LabelSet) -> None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(_csv_lines([HEADER]))
        self._file = AppendOnlyFile(path)
        self._labels = labels

    def add(self, file: Path, pixels: np.ndarray) -> None:
        """Append the rows of a file.

        Args:
            file: its path as given by the user.
            pixels: (256,) pixel counts by class index.

        Raises:
            OSError: the disk is full or not writable.
        """
        total = max(1, int(pixels.sum()))
        classes = zip(self._labels.classes, pixels.tolist())
        self._file.add(
            _csv_lines([(file, c.name, c.id, n, f"{n / total:.6f}") for c, n in classes])
        )


def _csv_lines(rows: list[tuple]) -> bytes:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")  # paths may contain any bytes
