"""Round trip of predictions through polygons: `segcoord predict --to coco`, read and filled again.

    python benchmarks/polygons.py IMAGE... --checkpoint FILE [--tolerance 0 1 2] [--min-area 0 50]

Predicts the images for each pair of options, reads the JSON, fills its shapes, and compares them
with the predicted masks: the IoU of each class over all images, its mean and the lowest; the share
of pixels with another class or none. Shapes are filled by pixel centers (even-odd rule), and by
pycocotools, whose polygons differ at slanted edges. The tables also have the regions, the vertices
of polygons and the size of the JSON for each image, and the time to find the polygons of a mask.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import date
from io import StringIO
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

import segcoord
from segcoord.cli.main import main as segcoord_main
from segcoord.data.labels import VOID, LabelSet
from segcoord.inference.polygons import find_regions, run_lengths

Fill = Callable[[dict | list, tuple[int, int]], np.ndarray]
"""(segmentation of an annotation, (H, W)) -> (H, W) bool."""


def fill_by_centers(segmentation: dict | list, size: tuple[int, int]) -> np.ndarray:
    counts = (
        segmentation["counts"]
        if isinstance(segmentation, dict)
        else run_lengths((np.reshape(segmentation[0], (-1, 2)),), size)
    )
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T


def fill_by_pycocotools(segmentation: dict | list, size: tuple[int, int]) -> np.ndarray:
    runs = coco_mask.frPyObjects(segmentation, *size)
    return coco_mask.decode(runs[0] if isinstance(runs, list) else runs).astype(bool)


def read(content: dict, fill: Fill) -> dict[str, np.ndarray]:
    """(H, W) uint8 class indices of each image, 255 where no shape is."""
    images = {image["id"]: image for image in content["images"]}
    found = {
        key: np.full((image["height"], image["width"]), VOID, np.uint8)
        for key, image in images.items()
    }
    for annotation in content["annotations"]:
        mask = found[annotation["image_id"]]
        mask[fill(annotation["segmentation"], mask.shape)] = annotation["category_id"] - 1
    return {images[key]["file_name"]: mask for key, mask in found.items()}


def compare(pairs: list[tuple[np.ndarray, np.ndarray]], labels: LabelSet) -> str:
    both = np.zeros((256, 256), np.int64)
    for mask, back in pairs:
        np.add.at(both, (mask.ravel(), back.ravel()), 1)
    hits = np.diag(both)[: len(labels)]
    union = (both.sum(0) + both.sum(1))[: len(labels)] - hits
    iou = hits[union > 0] / union[union > 0]
    lowest = np.array(labels.names)[union > 0][iou.argmin()]
    wrong = 1 - np.trace(both) / both.sum()
    return f"{iou.mean():.4f} | {iou.min():.4f} ({lowest}) | {wrong:.3%}"


def run(args: argparse.Namespace, labels: LabelSet, tolerance: float, min_area: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        options = ["--no-overlays", f"--tolerance={tolerance}", f"--min-area={min_area}"]
        inputs = [*map(str, args.images), f"--checkpoint={args.checkpoint}", "--device=cpu"]
        with redirect_stdout(StringIO()):
            code = segcoord_main(["predict", *inputs, f"--out={out}", "--to=coco", *options])
        assert code == 0
        text = (out / "polygons" / "coco" / "instances.json").read_text()
        content = json.loads(text)
        masks = {
            image["file_name"]: labels.indices(
                np.array(Image.open((out / "masks" / image["file_name"]).with_suffix(".png")))
            )
            for image in content["images"]
        }
    polygons = [a["segmentation"] for a in content["annotations"]]
    vertices = sum(len(s[0]) // 2 for s in polygons if isinstance(s, list))
    start = time.perf_counter()
    for mask in masks.values():
        find_regions(mask, tolerance, min_area)
    seconds = (time.perf_counter() - start) / len(masks)
    n = len(masks)
    print(
        f"| {tolerance:g} | {min_area} | {len(polygons) / n:.0f} | "
        f"{sum(isinstance(s, dict) for s in polygons) / n:.1f} | {vertices / n:.0f} | "
        f"{len(text) / n / 1000:.0f} kB | {1000 * seconds:.0f} ms |"
    )
    for name, fill in (("centers", fill_by_centers), ("pycocotools", fill_by_pycocotools)):
        back = read(content, fill)
        print(
            f"  {name}: {compare([(masks[key], back[key]) for key in masks], labels)}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tolerance", nargs="+", type=float, default=[0.0, 1.0, 2.0])
    parser.add_argument("--min-area", nargs="+", type=int, default=[0, 50])
    args = parser.parse_args()
    labels = segcoord.load(args.checkpoint).labels
    print("tolerance, min. area, regions, of them with holes, vertices, JSON, time; by image")
    print("  filled by: mean IoU, lowest IoU (class), pixels of another class or none")
    for min_area in args.min_area:
        for tolerance in args.tolerance:
            run(args, labels, tolerance, min_area)
    print(date.today())


if __name__ == "__main__":
    main()
