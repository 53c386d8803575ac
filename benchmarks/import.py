"""Images per second of one core: labelme and COCO exports become a dataset.

    python benchmarks/import.py [--images N] [--rounds N] [--json FILE]

It makes JPEGs of 640x480 with 10 polygons of 12 to 40 points each. In each round it runs, one after
the other: a plain loop over COCO JSON with pycocotools, as most scripts do (annToMask, larger
polygons first, Pillow for the PNG, a copy of the image), and `segcoord data import --workers 1` of
the same annotations as COCO JSON and as labelme JSON. Ratios are to the loop, medians over the
rounds. Import also checks the files, counts the classes and makes the splits.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from segcoord.data.annotations.importing import ImportOptions, import_dataset
from segcoord.data.labels import voc_colors
from segcoord.utils.console import console

WIDTH, HEIGHT, POLYGONS, CLASSES = 640, 480, 10, 8


def make_exports(folder: Path, images: int) -> None:
    """Write the same images and polygons as COCO JSON and as labelme JSON."""
    rng = np.random.default_rng(0)
    coco, labelme = folder / "coco", folder / "labelme"
    (coco / "images").mkdir(parents=True)
    labelme.mkdir()
    content = {"images": [], "annotations": []}
    content["categories"] = [{"id": i + 1, "name": f"class {i}"} for i in range(CLASSES)]
    for number in range(images):
        name = f"{number:06d}.jpg"
        coarse = rng.integers(0, 256, (HEIGHT // 32, WIDTH // 32, 3), dtype=np.uint8)
        pixels = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(coco / "images" / name), pixels)
        shutil.copy(coco / "images" / name, labelme / name)
        size = {"height": HEIGHT, "width": WIDTH}
        content["images"].append({"id": number, "file_name": name, **size})
        shapes = []
        for ring, label in ((polygon(rng), int(rng.integers(CLASSES))) for _ in range(POLYGONS)):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "segmentation": [ring.ravel().tolist()],
                    "area": float(cv2.contourArea(ring.astype(np.float32))),
                    "iscrowd": 0,
                }
            )
            shape = {"label": f"class {label}", "points": ring.tolist(), "shape_type": "polygon"}
            shapes.append(shape)
        sizes = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        text = {"shapes": shapes, "imagePath": name, "imageData": None, **sizes}
        (labelme / name).with_suffix(".json").write_text(json.dumps(text))
    (coco / "annotations.json").write_text(json.dumps(content))


def polygon(rng: np.random.Generator) -> np.ndarray:
    """(N, 2) points around a center, of 30 to 150 pixels in radius."""
    count = int(rng.integers(12, 41))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radii = rng.uniform(30, 150) * rng.uniform(0.7, 1, count)
    center = rng.uniform((0, 0), (WIDTH, HEIGHT))
    ring = center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return ring.clip((0, 0), (WIDTH, HEIGHT)).round(2)


def plain_loop(source: Path, out: Path) -> None:
    """COCO JSON to palette PNGs, as scripts do it."""
    coco = COCO(str(source / "annotations.json"))
    (out / "JPEGImages").mkdir(parents=True)
    (out / "SegmentationClass").mkdir()
    palette = [v for color in voc_colors(256) for v in color]
    for image_id in coco.getImgIds():
        image = coco.loadImgs(image_id)[0]
        label = np.zeros((image["height"], image["width"]), np.uint8)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        for annotation in sorted(annotations, key=lambda a: -a["area"]):
            label[coco.annToMask(annotation) > 0] = annotation["category_id"]
        mask = Image.fromarray(label)
        mask.putpalette(palette)
        name = Path(image["file_name"])
        mask.save(out / "SegmentationClass" / f"{name.stem}.png")
        shutil.copy(source / "images" / name, out / "JPEGImages" / name)


def imported(source: Path, out: Path) -> None:
    if import_dataset(ImportOptions(source, out, workers=1)):
        raise SystemExit(f"{source}: not imported")


def measure(run: Callable[[Path, Path], None], source: Path, out: Path) -> float:
    """Seconds of processor time."""
    began = time.process_time()
    run(source, out)
    seconds = time.process_time() - began
    shutil.rmtree(out)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    console.quiet = True
    loop = "plain pycocotools loop, COCO"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_exports(folder, args.images)
        runs = {
            loop: (plain_loop, folder / "coco"),
            "segcoord data import, COCO": (imported, folder / "coco"),
            "segcoord data import, labelme": (imported, folder / "labelme"),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.rounds):
            for name, (run, source) in runs.items():
                seconds[name].append(measure(run, source, folder / "out"))
    rows = []
    for name, values in seconds.items():
        ratio = statistics.median(b / v for b, v in zip(seconds[loop], values))
        rate = args.images / statistics.median(values)
        case = f"{WIDTH}x{HEIGHT}, {POLYGONS} polygons, one core"
        row = {"case": case, "variant": name, "value": rate, "unit": "images/s", "ratio": ratio}
        rows.append(row)
        print(f"{name:32} {rate:8.0f} images/s {ratio:6.2f}x")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"largest memory of the process: {memory:.0f} MB")
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "date": date.today().isoformat(),
        "opencv": cv2.__version__,
    }
    print(machine)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
