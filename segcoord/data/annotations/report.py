"""What an import wrote and left out, as numbers and as text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Column, Table

from segcoord.data.annotations.classes import ClassMap
from segcoord.data.annotations.rasterize import OVERLAP_IMAGES, OVERLAP_PIXELS, UNLABELLED
from segcoord.data.labels import VOID
from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.text import first_lines, join_first

_SHOWN = 5  # errors of a kind
_SMALL = 0.05  # share of unlabelled pixels that are rather gaps than a background


class Statistics:
    """The pixels of each class and image.

    Args:
        images: number of images.
        classes: number of classes.
        unlabelled: class index of unlabelled pixels, or 255.

    Attributes:
        done: (N,) bool, whether an image is finished.
        presence: (N, K) bool, the classes of each image.
        sizes: (N, 2) int32, height and width.
        digests: (N, 20) uint8, SHA-1 of the image files.
        pixels: (256,) int64, by class index, 255 for void.
        unlabelled_pixels: number of pixels without a label.
        counts: what was left out, cut or decided, by its description.
        unlabelled: class index of unlabelled pixels, or 255.
    """

    def __init__(self, images: int, classes: int, unlabelled: int) -> None:
        self.done = np.zeros(images, bool)
        self.presence = np.zeros((images, classes), bool)
        self.sizes = np.zeros((images, 2), np.int32)
        self.digests = np.zeros((images, 20), np.uint8)
        self.pixels = np.zeros(256, np.int64)
        self.unlabelled_pixels = 0
        self.counts: Counter[str] = Counter()
        self.unlabelled = unlabelled

    def add(
        self,
        index: int,
        size: Sequence[int],
        pixels: Mapping[int, int],
        counts: Mapping[str, int],
        digest: str,
    ) -> None:
        """Add an image; `pixels` is by mask value, with `UNLABELLED` for unlabelled ones."""
        if self.done[index]:
            return
        self.done[index] = True
        self.sizes[index] = size
        self.digests[index] = np.frombuffer(bytes.fromhex(digest), np.uint8)
        for value, n in pixels.items():
            if value == UNLABELLED:
                self.unlabelled_pixels += n
                value = self.unlabelled
            self.pixels[value] += n
            if value != VOID:
                self.presence[index, value] = True
        self.counts.update(counts)

    @property
    def total(self) -> int:
        return int(self.pixels.sum())


def print_report(
    out: Path,
    classes: ClassMap,
    statistics: Statistics,
    splits: Mapping[str, Sequence[str]],
    how: str,
    skipped: Mapping[str, int],
) -> None:
    """Print images, classes, what was left out and why, unlabelled pixels."""
    images = int(statistics.done.sum())
    parts = ", ".join(f"{name} {len(names)}" for name, names in splits.items())
    console.print(f"\n{out}: {images} images: {parts} (splits: {how})\n")
    columns = (Column(head, justify="right") for head in ("pixels %", "images %", "images"))
    table = Table("id", "class", *columns, box=None, pad_edge=False)
    labelled = max(1, int(statistics.pixels[:VOID].sum()))
    for index, name in enumerate(classes.names):
        present = int(statistics.presence[:, index].sum())
        share = 100 * statistics.pixels[index] / labelled
        table.add_row(
            str(index), name, f"{share:.2f}", f"{100 * present / images:.1f}", str(present)
        )
    console.print(table)
    console.print()
    _print_pixels(classes, statistics)
    absent = [n for i, n in enumerate(classes.names) if not statistics.presence[:, i].any()]
    if absent:
        console.print(f"classes without a pixel, kept: {join_first(absent, 12)}")
    if classes.kept:
        console.print(
            f"classes of the dataset before, which the export lacks: {join_first(classes.kept, 12)}"
        )
    if classes.left_out:
        console.print(
            f"classes that --classes leaves out, now unlabelled: {join_first(classes.left_out, 12)}"
        )
    for reason, n in (Counter(skipped) + statistics.counts).items():
        if reason not in (OVERLAP_IMAGES, OVERLAP_PIXELS):
            console.print(f"{reason}: {n}")


def _print_pixels(classes: ClassMap, statistics: Statistics) -> None:
    """Print the shares of unlabelled and void pixels, and what overlaps."""
    total, unlabelled = statistics.total, statistics.unlabelled_pixels
    share = unlabelled / max(1, total)
    index = statistics.unlabelled
    became = "void" if index == VOID else f"class {classes.names[index]!r}"
    console.print(f"unlabelled pixels: {100 * share:.2f} %, now {became}")
    if index != VOID and 0 < share < _SMALL:
        console.print(
            "  so few are rather gaps between shapes than a background: --unlabelled void "
            "ignores them"
        )
    void = int(statistics.pixels[VOID]) - (unlabelled if index == VOID else 0)
    if void:
        console.print(f"void pixels in the export: {100 * void / total:.2f} %")
    if images := statistics.counts[OVERLAP_IMAGES]:
        pixels = statistics.counts[OVERLAP_PIXELS]
        console.print(
            f"shapes of different classes overlap in {images} images, "
            f"{100 * pixels / total:.2f} % of all pixels"
        )


def print_findings(errors: Sequence[UserError]) -> None:
    """Print what is wrong with images that can't be imported, by kind."""
    kinds: dict[str, list[UserError]] = {}
    for error in errors:
        kinds.setdefault(error.kind or "other problems", []).append(error)
    for kind, group in kinds.items():
        console.print(f"\n{kind}: {len(group)}", style="red")
        console.print(first_lines(group, _SHOWN))
