"""Write the sample dataset: synthetic street scenes in the tree of VOC 2012 or of Cityscapes.

It needs no download and no license, and its masks are exact. It serves for a first training and for
the tests. `segcoord.data.synthetic.scenes` draws the scenes.
"""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from segcoord.data.process_map import process_map
from segcoord.data.synthetic.scenes import draw_scene, render
from segcoord.data.synthetic.scenes.canvas import EGO, STATIC
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_folder

CLASSES: tuple[tuple[str, tuple[int, int, int], int], ...] = (
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("building", (70, 70, 70), 11),
    ("vegetation", (107, 142, 35), 21),
    ("sky", (70, 130, 180), 23),
    ("person", (220, 20, 60), 24),
    ("car", (0, 0, 142), 26),
    ("traffic sign", (220, 220, 0), 20),
)
"""(name, RGB color, Cityscapes label id) of each class, in the order of the ids in VOC's layout."""

VOID = 255
VOID_COLOR = (224, 224, 192)
TEST_IMAGES = 8
"""Number of images in the test split of the Cityscapes layout, which has no masks."""

CITIES = {"train": ("brickford", "glasshaven"), "val": ("elmbridge",), "test": ("fernmouth",)}
MIN_WIDTH, MIN_HEIGHT = 128, 96
_VAL_START = 500_000
"""VOC has one folder for all splits: stems from this number on are validation images."""


class _Scene(NamedTuple):
    """Arguments to draw and write one scene in any process."""

    folder: Path
    seed: int
    split: str
    index: int
    width: int
    height: int


def write_sample(
    out: Path,
    layout: str,
    train: int = 240,
    val: int = 60,
    seed: int = 0,
    width: int = 256,
    height: int = 192,
) -> None:
    """Draw the sample dataset into a new folder.

    The bytes depend only on the arguments and the versions of NumPy, OpenCV and Pillow. Scene i of
    a split doesn't depend on the number of scenes, nor on the layout. Many scenes are drawn in
    several processes: a script must call this under `if __name__ == "__main__"`.

    Args:
        out: root of the dataset; must be empty or not exist. It appears complete or not at all.
        layout: "voc" for VOCdevkit/VOC2012 with ids 0..7 and 255 at the boundaries; "cityscapes"
            for leftImg8bit and gtFine with label ids, and `TEST_IMAGES` test images without masks.
        train: number of training scenes, 1 or more.
        val: number of validation scenes, 1 or more.
        seed: 0 or more.
        width: of the images in pixels, 128 or more.
        height: of the images in pixels, 96 or more.

    Raises:
        UserError: a value is out of range; `out` is not empty or can't be written.
    """
    if layout not in _WRITERS:
        raise UserError(f"layout: found {layout!r}, expected one of {', '.join(_WRITERS)}")
    for name, value, least, most in (
        ("train", train, 1, _VAL_START),
        ("val", val, 1, _VAL_START),
        ("seed", seed, 0, 2**63),
        ("width", width, MIN_WIDTH, 8192),
        ("height", height, MIN_HEIGHT, 8192),
    ):
        if not least <= value <= most:
            raise UserError(f"{name}: found {value}, expected {least} to {most}")
    counts = {"train": train, "val": val}
    if layout == "cityscapes":
        counts["test"] = TEST_IMAGES
    with atomic_folder(Path(out).expanduser().resolve()) as folder:
        scenes = [
            _Scene(folder, seed, split, index, width, height)
            for split, count in counts.items()
            for index in range(count)
        ]
        _run(_WRITERS[layout], scenes)
        if layout == "voc":
            _write_voc_lists(folder, counts)


def _run(write: Callable[[_Scene], None], scenes: list[_Scene]) -> None:
    """Write all scenes, in several processes if there are enough of them."""
    console = Console()
    bar = {"description": "drawing", "total": len(scenes), "console": console}
    bar |= {"transient": True, "disable": not console.is_terminal}
    workers = min(available_cores(), len(scenes) // 24, 16)
    with closing(process_map(write, scenes, workers)) as written:
        for _ in track(written, **bar):
            pass


def void_border(ids: np.ndarray) -> np.ndarray:
    """Mark the boundaries between classes as void, as in VOC's masks.

    Args:
        ids: (H, W) uint8; values of 8 and more belong to no class.

    Returns:
        (H, W) uint8: 0..7 or 255. The band has the same width relative to the image as in VOC,
        which has 5 pixels at an image width of 500: 3 pixels at 256.
    """
    size = max(2, round(ids.shape[1] / 100)) + 1
    kernel = np.ones((size, size), np.uint8)
    band = cv2.dilate(ids, kernel) != cv2.erode(ids, kernel)
    return np.where(band | (ids >= len(CLASSES)), VOID, ids).astype(np.uint8)


def _palette() -> list[int]:
    """768 numbers: RGB of the classes, then of void."""
    colors = np.full((256, 3), VOID_COLOR)
    colors[: len(CLASSES)] = [color for _, color, _ in CLASSES]
    return colors.ravel().tolist()


def _voc_stem(split: str, index: int) -> str:
    return f"2026_{index + 1 + (_VAL_START if split == 'val' else 0):06d}"


def _write_voc(scene: _Scene) -> None:
    """Write the JPEG image and the palette PNG mask of one scene."""
    image, ids = draw_scene(*scene[1:])
    root, stem = scene.folder / "VOCdevkit" / "VOC2012", _voc_stem(scene.split, scene.index)
    _save(Image.fromarray(image), root / "JPEGImages" / f"{stem}.jpg", quality=95)
    mask = Image.fromarray(void_border(ids))
    mask.putpalette(_palette())
    _save(mask, root / "SegmentationClass" / f"{stem}.png")


def _write_voc_lists(folder: Path, counts: dict[str, int]) -> None:
    lists = folder / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    stems = {split: [_voc_stem(split, i) for i in range(n)] for split, n in counts.items()}
    stems["trainval"] = stems["train"] + stems["val"]
    for name, lines in stems.items():
        (lists / f"{name}.txt").write_bytes("".join(f"{stem}\n" for stem in lines).encode())


def _write_cityscapes(scene: _Scene) -> None:
    """Write the PNG image of one scene and its label ids, which the test split lacks."""
    image, ids = render(*scene[1:])
    cities = CITIES[scene.split]
    city, number = cities[scene.index % len(cities)], scene.index // len(cities)
    stem = f"{city}_{number:06d}_000019"
    path = scene.folder / "leftImg8bit" / scene.split / city / f"{stem}_leftImg8bit.png"
    _save(Image.fromarray(image), path)
    if scene.split != "test":
        table = np.zeros(256, np.uint8)
        table[: len(CLASSES)] = [label for _, _, label in CLASSES]
        table[[STATIC, EGO]] = 4, 1  # Cityscapes' "static" and "ego vehicle", both void
        path = scene.folder / "gtFine" / scene.split / city / f"{stem}_gtFine_labelIds.png"
        _save(Image.fromarray(table[ids]), path)


def _save(image: Image.Image, path: Path, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


_WRITERS = {"voc": _write_voc, "cityscapes": _write_cityscapes}
