"""Small exports of annotation tools for the tests of `segcoord data import`."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from segcoord.cli.main import main


def photo(path: Path, size: tuple[int, int] = (40, 60), orientation: int = 1) -> Path:
    """A JPEG, or a PNG by its suffix, of (H, W) stored pixels, with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    pixels = np.kron(rng.integers(0, 255, (size[0] // 4, size[1] // 4, 3)), np.ones((4, 4, 1)))
    image = Image.fromarray(pixels.astype(np.uint8))
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def box(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def shape(label: str, points: list, kind: str = "polygon", **more: object) -> dict:
    return {"label": label, "points": points, "shape_type": kind, **more}


def labelme(
    path: Path,
    *shapes: dict,
    image: str | None = None,
    size: tuple[int, int] | None = (40, 60),
    data: bytes | None = None,
) -> Path:
    """A JSON file of labelme; `image` is its imagePath, by default the JPEG of the same name."""
    height, width = size or (None, None)
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": image or f"{path.stem}.jpg",
        "imageData": None if data is None else base64.b64encode(data).decode(),
        "imageHeight": height,
        "imageWidth": width,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def png_text(mask: np.ndarray) -> str:
    """A mask as a PNG in base64, as in labelme's shapes."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def import_to(out: Path, source: Path, *options: str) -> int:
    """Run `segcoord data import` in this process; returns the exit code."""
    return main(["data", "import", str(source), f"--out={out}", "--workers=1", *options])


def mask_of(out: Path, name: str) -> np.ndarray:
    """The values of an imported mask."""
    return np.array(Image.open(out / "SegmentationClass" / f"{name}.png"))


def names_in(out: Path, split: str) -> list[str]:
    return (out / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split("\n")[:-1]
