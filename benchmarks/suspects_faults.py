"""Faults of five kinds for benchmarks/suspects.py, planted in the masks of a copy of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from segcoord.data.labels import VOID
from segcoord.data.mask_writer import write_mask
from segcoord.data.split import Split

LEAST = 0.003  # share of the image's pixels that a fault changes
FAR = 30  # positions in the list from an image to the one whose mask it gets

Plant = Callable[[np.random.Generator, np.ndarray, int, np.ndarray], np.ndarray]
"""(random numbers, (H, W) labels, K, labels of another frame) -> (H, W) faulty labels."""


def segment(rng: np.random.Generator, labels: np.ndarray, most: float) -> np.ndarray:
    """A random connected segment with `LEAST` to `most` of the pixels, as a bool mask; or none."""
    found = []
    for index in np.unique(labels[labels != VOID]):
        mask = (labels == index).astype(np.uint8)
        _, components, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        share = stats[:, cv2.CC_STAT_AREA] / labels.size
        inside = np.flatnonzero((share >= LEAST) & (share <= most))
        found += [components == i for i in inside if i > 0]
    return found[rng.integers(len(found))] if found else np.zeros(labels.shape, bool)


def swap_class(
    rng: np.random.Generator, labels: np.ndarray, k: int, other: np.ndarray
) -> np.ndarray:
    chosen = segment(rng, labels, 0.15)
    given = int(labels[chosen][0]) if chosen.any() else 0
    return np.where(chosen, (given + rng.integers(1, k)) % k, labels)


def drop_region(
    rng: np.random.Generator, labels: np.ndarray, k: int, other: np.ndarray
) -> np.ndarray:
    """A segment takes the most frequent class around it."""
    chosen = segment(rng, labels, 0.10)
    ring = cv2.dilate(chosen.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & ~chosen
    around = labels[ring & (labels != VOID)]
    return np.where(chosen, np.bincount(around).argmax(), labels) if around.size else labels


def shift_mask(
    rng: np.random.Generator, labels: np.ndarray, k: int, other: np.ndarray
) -> np.ndarray:
    """By 3 to 6 % of the width and of the height; void enters."""
    size = np.array(labels.shape[::-1])
    x, y = rng.uniform(0.03, 0.06, 2) * size * rng.choice([-1, 1], 2)
    matrix = np.array([[1, 0, round(x)], [0, 1, round(y)]], float)
    options = {"flags": cv2.INTER_NEAREST, "borderMode": cv2.BORDER_CONSTANT, "borderValue": VOID}
    return cv2.warpAffine(labels, matrix, size.tolist(), **options)


def spill_polygon(
    rng: np.random.Generator, labels: np.ndarray, k: int, other: np.ndarray
) -> np.ndarray:
    """A polygon around a point on the outline of a segment takes its class."""
    chosen = segment(rng, labels, 0.40)
    if not chosen.any():
        return labels
    outlines, _ = cv2.findContours(
        chosen.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    points = outlines[0][:, 0]
    radius = rng.uniform(0.08, 0.15) * labels.shape[0] * rng.uniform(0.5, 1, 8)
    angle = np.arange(8) * np.pi / 4
    corners = np.stack([np.cos(angle), np.sin(angle)], 1) * radius[:, None]
    polygon = (corners + points[rng.integers(len(points))]).round().astype(np.int32)
    spilled = cv2.fillPoly(labels.copy(), [polygon], int(labels[chosen][0]))
    return np.where(labels == VOID, VOID, spilled)


def take_other_mask(
    rng: np.random.Generator, labels: np.ndarray, k: int, other: np.ndarray
) -> np.ndarray:
    return other


KINDS: dict[str, Plant] = {
    "class swapped": swap_class,
    "region missing": drop_region,
    "mask shifted": shift_mask,
    "polygon spilled": spill_polygon,
    "mask of another frame": take_other_mask,
}


def plant(split: Split, masks: Path, per_kind: int, seed: int) -> dict[int, tuple[str, np.ndarray]]:
    """Writes the masks of a split with faults; returns kind and changed pixels by sample."""
    rng, faults = np.random.default_rng(seed), {}
    labels = [split.read(i)[1] for i in range(len(split))]
    order = rng.permutation(len(split)).tolist()
    for kind, change in KINDS.items():
        planted = 0
        while planted < per_kind:
            index = order.pop(0)
            far = [i for i in range(len(split)) if abs(i - index) >= FAR]
            given, other = labels[index], labels[far[rng.integers(len(far))]]
            new = change(rng, given, len(split.labels), other)
            changed = (new != given) & (given != VOID) & (new != VOID)
            if changed.mean() < LEAST:
                order.append(index)  # for another kind
                continue
            faults[index] = kind, changed
            path = masks / f"{split.samples[index].stem}.png"  # replaces the link
            write_mask(path, new.astype(np.uint8), split.labels, palette=True)
            planted += 1
    return faults


def write_faulty(
    split: Split, folder: Path, per_kind: int, seed: int
) -> dict[int, tuple[str, np.ndarray]]:
    """Writes a dataset of links to a dataset's files, except for the faulty masks; see `plant`."""
    source, base = split.samples[0].image.parents[1].resolve(), folder / "VOCdevkit" / "VOC2012"
    masks = base / "SegmentationClass"
    masks.mkdir(parents=True)
    for name in ("JPEGImages", "ImageSets"):
        (base / name).symlink_to(source / name)
    for path in (source / masks.name).iterdir():
        (masks / path.name).symlink_to(path)
    return plant(split, masks, per_kind, seed)
