"""Files of the three dataset layouts, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.split import Split

SIZE = (6, 4)  # width, height


CLASSES = [ClassConfig("rock", [90, 90, 90]), ClassConfig("moss", [0, 99, 0])]


def put_image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Pillow can't infer the format from suffixes such as .JPG or .Jpeg in every test.
    Image.new("RGB", size, (9, 99, 200)).save(
        path, "JPEG" if path.suffix.lower() in {".jpg", ".jpeg"} else "PNG"
    )
    return path


def put_mask(path: Path, values: object = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array(values, np.uint8)
    array = np.full(SIZE[::-1], array) if array.ndim == 0 else array
    Image.fromarray(array).save(path, "PNG")
    return path


def folder_tree(root: Path, stems: tuple[str, ...] = ("a", "b"), split: str = "train") -> Path:
    for stem in stems:
        put_image(root / "images" / split / f"{stem}.png")
        put_mask(root / "masks" / split / f"{stem}.png")
    return root


def folder(root: Path, **settings: object) -> DataConfig:
    return DataConfig(layout="folder", root=str(root), **{"classes": CLASSES, **settings})


def stems(split: Split) -> list[str]:
    return [s.stem for s in split.samples]
