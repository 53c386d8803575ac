"""What the tests of reading a pack and of writing one share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from segcoord.config import ClassConfig, DataConfig
from segcoord.data.layouts import Split, find_split
from segcoord.data.pack import (
    with_pack,
)
from segcoord.data.packing import write_pack
from segcoord.errors import UserError

CLASSES = [ClassConfig(str(n), [n, n, n]) for n in range(8)]
MEAN = (0.485, 0.456, 0.406)


def config(root: Path, **settings) -> DataConfig:
    return DataConfig(
        "voc", str(root), **{"classes": CLASSES, "crop_size": (48, 48), "workers": 0, **settings}
    )


def packed(root: Path, name: str = "train") -> tuple[Split, Path]:
    """A split and its pack, written in this process."""
    split, folder = find_split(config(root), name), root / ".segcoord" / name
    write_pack(split, folder, workers=1)
    return split, folder


def refusal(root: Path, **settings) -> str:
    """What training would say."""
    data = config(root, **settings)
    with pytest.raises(UserError) as caught:
        with_pack(find_split(data, "train"), data)
    return str(caught.value)


def same(a: Split, b: Split) -> bool:
    for index in range(len(a)):
        for x, y in zip(a.read(index), b.read(index)):
            if not (x is y is None or (x.dtype == y.dtype == np.uint8 and np.array_equal(x, y))):
                return False
    return len(a) == len(b)


def images_of(root: Path) -> Path:
    return root / "VOCdevkit" / "VOC2012" / "JPEGImages"


def cut(path: Path, length: int = 1) -> None:
    os.truncate(path, path.stat().st_size - length)


def flip_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
