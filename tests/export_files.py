"""Small exports of annotation tools, and reading them as an import does, for tests.

The images of the trees are 6 pixels wide and 4 high.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from layout_trees import SIZE, put_image, put_mask
from PIL import Image

from segcoord.cli.main import main
from segcoord.data.annotations.records import Export, Format, MaskFile, Record, Shape
from segcoord.utils.errors import UserError

SQUARE = [1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]  # x and y


def by_name(export: Export) -> dict[str, Record]:
    records = {record.name: record for record in export.records}
    assert len(records) == len(export.records)
    return records


def annotation(
    export: Export, name: str, size: tuple[int, int] = SIZE[::-1]
) -> list[Shape] | MaskFile:
    """The annotation of an image of `size` (height, width), as another process reads it."""
    read, record = pickle.loads(pickle.dumps((export.annotation, by_name(export)[name])))
    return read(record, size)


def rings(shapes: list[Shape]) -> list[tuple[str, list]]:
    """The label of each shape, and its rings as lists of [x, y]."""
    assert all(shape.mask is None for shape in shapes)
    return [(s.label, [ring.round(6).tolist() for ring in s.rings]) for s in shapes]


def refusal(chosen: Format, folder: Path) -> str:
    """The error of reading a folder."""
    with pytest.raises(UserError) as caught:
        chosen.read(folder)
    return str(caught.value)


def refused_annotation(export: Export, name: str, size: tuple[int, int] = SIZE[::-1]) -> str:
    """The error of reading the annotation of an image."""
    with pytest.raises(UserError) as caught:
        annotation(export, name, size)
    return str(caught.value)


def import_to(out: Path, source: Path, *options: str) -> int:
    """Run `segcoord data import` in this process; returns the exit code."""
    return main(["data", "import", str(source), f"--out={out}", "--workers=1", *options])


def mask_of(out: Path, name: str) -> np.ndarray:
    """The values of an imported mask."""
    return np.array(Image.open(out / "SegmentationClass" / f"{name}.png"))


def names_in(out: Path, split: str) -> list[str]:
    return (out / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split("\n")[:-1]


def put_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def put_json(path: Path, content: object) -> Path:
    return put_text(path, json.dumps(content))


def put_colors(path: Path, *colors: tuple[int, int, int]) -> Path:
    """An RGB image of one row for each color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.repeat(np.array(colors, np.uint8)[:, None], SIZE[0], 1)
    Image.fromarray(rows).save(path, "PNG")
    return path


def put_palette(path: Path, values: object, *colors: tuple[int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(values, np.uint8))
    image.putpalette([channel for color in colors for channel in color])
    image.save(path, "PNG")
    return path


def put_alpha(path: Path, alpha: object) -> Path:
    """A PNG of different colors, with this alpha channel, (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    alpha = np.array(alpha, np.uint8)
    rgb = np.arange(alpha.size * 3, dtype=np.uint8).reshape(*alpha.shape, 3)
    Image.fromarray(np.dstack([rgb, alpha])).save(path, "PNG")
    return path


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


def yolo_tree(root: Path) -> Path:
    """As Roboflow exports it, with a triangle and a box."""
    names = "names: ['cat', 'no']\nnc: 2\n"
    put_text(
        root / "data.yaml",
        f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n{names}",
    )
    put_image(root / "train/images/a.jpg")
    put_text(root / "train/labels/a.txt", "1 0.5 0.25 1 0.25 0.5 1\n\n0 0.1 0.1 0.2 0.2\n")
    put_image(root / "valid/images/a.jpg")
    put_text(root / "valid/labels/a.txt", "")
    return root


def datumaro_tree(root: Path, *annotations: dict) -> Path:
    """One image with the given annotations, by default a square."""
    polygon = {"type": "polygon", "label_id": 1, "points": SQUARE, "z_order": 0}
    data = {
        "dm_format_version": "1.0",
        "categories": {
            "label": {"labels": [{"name": "background"}, {"name": "car"}]},
            "mask": {"colormap": [{"label_id": 1, "r": 9, "g": 8, "b": 7}]},
        },
        "items": [
            {
                "id": "a",
                "annotations": list(annotations or [polygon]),
                "image": {"path": "a.jpg", "size": [4, 6]},
            }
        ],
    }
    put_json(root / "annotations" / "train.json", data)
    put_image(root / "images" / "train" / "a.jpg")
    return root


def darwin_points(*values: float) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in zip(values[::2], values[1::2])]


def darwin_tree(root: Path, *annotations: dict) -> Path:
    """A release with one image with the given annotations, by default a square."""
    polygon = {"name": "car", "polygon": {"paths": [darwin_points(*SQUARE)]}}
    slot = {"type": "image", "slot_name": "0", "width": 6, "height": 4}
    data = {
        "version": "2.0",
        "item": {"name": "a.jpg", "path": "/street", "slots": [slot]},
        "annotations": list(annotations or [polygon]),
    }
    put_json(root / "releases/latest/annotations/street/a.json", data)
    put_image(root / "images/street/a.jpg")
    return root


def ade20k_tree(root: Path) -> Path:
    base = root / "ADEChallengeData2016"
    lines = [
        "Idx\tRatio\tTrain\tVal\tStuff\tName",
        "1 \t0.2\t9\t1\t1\twall",
        "2\t0.1\t9\t1\t0\tbed ",
    ]
    lines += ["3\t0.1\t9\t1\t0\tscreen, projection screen", "4\t0.1\t9\t1\t0\tscreen, crt"]
    put_text(base / "objectInfo150.txt", "\n".join(lines))
    for split, name in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        put_image(base / "images" / split / f"{name}.jpg")
        put_mask(base / "annotations" / split / f"{name}.png", np.arange(24).reshape(4, 6) % 5)
    return root


VISTAS_LABELS = [
    {"name": "object--car", "readable": "Car", "color": [0, 0, 142], "evaluate": True},
    {"name": "void--dynamic", "readable": "Dynamic", "color": [111, 74, 0], "evaluate": False},
    {"name": "nature--sky", "readable": "Sky", "color": [70, 130, 180], "evaluate": True},
]


def mapillary_tree(
    root: Path, config: str = "config_v2.0.json", labels: str = "v2.0/labels"
) -> Path:
    put_json(root / config, {"labels": VISTAS_LABELS, "version": "2.0"})
    colors = [tuple(label["color"]) for label in VISTAS_LABELS]
    for split in ("training", "validation"):
        put_image(root / split / "images" / "a.jpg")
        put_palette(root / split / labels / "a.png", [[0, 1, 2, 2, 2, 2]] * 4, *colors)
    put_image(root / "testing" / "images" / "b.jpg")
    return root


def binary_tree(root: Path) -> Path:
    for name, value in (("a", 255), ("b", 0)):
        put_image(root / "images" / f"{name}.jpg")
        put_mask(root / "masks" / f"{name}.png", [[0, 0, 0, value, value, value]] * 4)
    return root


def alpha_tree(root: Path) -> Path:
    put_alpha(root / "train" / "a.png", [[0, 127, 128, 255]] * 4)
    put_alpha(root / "val" / "a.png", [[0, 0, 0, 255]] * 4)
    return root


def color_tree(root: Path) -> Path:
    """As CVAT exports CamVid's format."""
    put_text(
        root / "label_colors.txt", "# colors\n0 0 0 Void\n64 0 128 Car\n128 128 128 Road Sky\n"
    )
    for split in ("train", "val"):
        put_image(root / split / "a.png")
        put_colors(root / f"{split}annot" / "a.png", (0, 0, 0), (64, 0, 128), *[(128,) * 3] * 2)
        put_text(root / f"{split}.txt", f"/{split}/a.png /{split}annot/a.png\n")
    return root
