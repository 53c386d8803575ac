"""The sample dataset: street scenes of our own, written in the tree of VOC 2012 or of Cityscapes.

It needs no download and no licence, and its masks are exact, which makes it the first thing to
train on and what the tests read. The scenes themselves are drawn in `segcoord.data.scenes`.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from segcoord.data.synthetic.scenes import draw_scene, render
from segcoord.data.synthetic.scenes.canvas import EGO, STATIC
from segcoord.utils.cpu import available_cores
from segcoord.utils.errors import UserError

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
"""(name, RGB colour, Cityscapes label id) of each class; its place is its id in the VOC layout."""

VOID = 255
VOID_COLOUR = (224, 224, 192)
TEST_IMAGES = 8
"""Cityscapes' tree also has a test split, without masks."""

CITIES = {"train": ("brickford", "glasshaven"), "val": ("elmbridge",), "test": ("fernmouth",)}
MIN_WIDTH, MIN_HEIGHT = 128, 96
_VAL_START = 500_000
"""VOC has one folder for all splits: numbers from here on are validation images."""


class _Scene(NamedTuple):
    """All that it takes to draw and write one scene, in whichever process."""

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
    """Draws the sample dataset into a new folder.

    The bytes depend on the arguments and the versions of numpy, OpenCV and Pillow alone; scene i of
    a split also stays the same when more are drawn, or in the other layout. Many scenes are drawn
    in several processes: a script must call this under `if __name__ == "__main__"`.

    Args:
        out: the dataset's root; it must be empty or not exist. It appears complete or not at all.
        layout: "voc" for VOCdevkit/VOC2012 with ids 0..7 and 255 at the boundaries, "cityscapes"
            for leftImg8bit and gtFine with label ids, and `TEST_IMAGES` test images without masks.
        train: number of training scenes, 1 or more.
        val: number of validation scenes, 1 or more.
        seed: 0 or more.
        width: of the images in pixels, 128 or more.
        height: of the images in pixels, 96 or more.

    Raises:
        UserError: a value is out of range, `out` is not empty or can't be written.
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
    with _new_folder(Path(out)) as folder:
        scenes = [
            _Scene(folder, seed, split, index, width, height)
            for split, count in counts.items()
            for index in range(count)
        ]
        _run(_WRITERS[layout], scenes)
        if layout == "voc":
            _write_voc_lists(folder, counts)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yields a hidden folder beside `out`, and renames it to `out` when all went well."""
    out = out.expanduser().resolve()
    try:
        found = next(iter(sorted(out.iterdir())), None) if out.exists() else None
        if found is not None:
            raise UserError(
                f"{out}: not empty, it holds {found.name!r}; nothing was written. "
                "Name another folder, or remove this one first."
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        # A folder inside the temporary one, since mkdtemp's own is closed to other users.
        with tempfile.TemporaryDirectory(
            prefix=f".{out.name}.", suffix=".part", dir=out.parent
        ) as temporary:
            folder = Path(temporary) / "tree"
            folder.mkdir()
            yield folder
            if out.exists():
                out.rmdir()
            folder.rename(out)
    except OSError as error:
        raise UserError(
            f"{out}: could not be written ({error.strerror or error}). "
            "Check the folder's permissions and the free space, or choose another place."
        ) from error


def _run(write: Callable[[_Scene], None], scenes: list[_Scene]) -> None:
    """Writes all scenes, in several processes if there are enough of them to be worth it."""
    console = Console()
    shown = {"description": "drawing", "total": len(scenes), "console": console}
    shown |= {"transient": True, "disable": not console.is_terminal}
    workers = min(available_cores(), len(scenes) // 24, 16)
    if workers < 2:
        for _ in track(map(write, scenes), **shown):
            pass
        return
    # "spawn" is the one start method that is safe beside threads and the same on all systems.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_use_one_thread)
    try:
        for _ in track(pool.map(write, scenes, chunksize=4), **shown):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _use_one_thread() -> None:
    """One process for each core is enough; OpenCV would start as many threads in each."""
    cv2.setNumThreads(1)


def void_border(ids: np.ndarray) -> np.ndarray:
    """Marks the boundaries between classes as void, as VOC's masks do.

    Args:
        ids: (H, W) uint8; values of 8 and more belong to no class.

    Returns:
        (H, W) uint8: 0..7 or 255. The band takes the same part of the image's width as VOC's, which
        is 5 pixels wide at 500: 3 pixels at 256.
    """
    size = max(2, round(ids.shape[1] / 100)) + 1
    kernel = np.ones((size, size), np.uint8)
    band = cv2.dilate(ids, kernel) != cv2.erode(ids, kernel)
    return np.where(band | (ids >= len(CLASSES)), VOID, ids).astype(np.uint8)


def _palette() -> list[int]:
    """768 numbers: the classes' colours, then the void's."""
    colours = np.full((256, 3), VOID_COLOUR)
    colours[: len(CLASSES)] = [colour for _, colour, _ in CLASSES]
    return colours.ravel().tolist()


def _voc_stem(split: str, index: int) -> str:
    return f"2026_{index + 1 + (_VAL_START if split == 'val' else 0):06d}"


def _write_voc(scene: _Scene) -> None:
    """Writes the JPEG and the palette PNG of one scene."""
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
    """Writes the PNG image of one scene and, but for the test split, its label ids."""
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
