"""Folders of small images and masks, and their data settings, for tests of pairing."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.split import Split

CLASSES = [ClassConfig("bg", [0, 0, 0]), ClassConfig("fg", [255, 0, 0])]


def write(root: Path, *files: str, size: tuple[int, int] = (8, 6)) -> Path:
    """Write files named by `{a,b}.jpg` patterns; those with "mask" in their path become masks."""
    for text in files:
        start, _, rest = text.partition("{")
        names, _, end = rest.partition("}")
        for number, name in enumerate(names.split(",") if rest else [""]):
            path = root / f"{start}{name}{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            is_mask = any(word in str(path.relative_to(root)) for word in ("mask", "Segm", "label"))
            value = number % 2 if is_mask else 9 * len(str(path)) % 200 + number
            image = Image.new("L" if is_mask else "RGB", size, value if is_mask else (value, 0, 9))
            image.save(path)
    return root


def folder(root: Path, **settings: object) -> DataConfig:
    data = DataConfig("folder", str(root), **{"classes": CLASSES, **settings})
    data.check()
    return data


def pairs(split: Split, root: Path) -> dict[str, tuple[str, str | None]]:
    """Paths of images and masks below the root, by sample."""

    def below(path: Path | None) -> str | None:
        return path and path.relative_to(root).as_posix()

    return {s.stem: (below(s.image), below(s.mask)) for s in split.samples}
