"""Cityscapes' folders, which train as they are."""

from pathlib import Path

from segcoord.data.annotations.records import Export, Format
from segcoord.utils.errors import UserError


def recognize(root: Path) -> str | None:
    """The two folders of the fine annotations."""
    if is_cityscapes(root):
        return "leftImg8bit and gtFine"
    return None


def is_cityscapes(root: Path) -> bool:
    """Whether a folder has the two folders of Cityscapes' fine annotations."""
    return (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir()


def read(root: Path) -> Export:
    """Say how the folder trains without import."""
    raise UserError(
        f"{root}: Cityscapes' folders train as they are, without import:\n"
        f"segcoord train --config configs/cityscapes_os16.yaml --data.root {root}\n"
        "Or write a YAML file:\n"
        f"data:\n  layout: cityscapes\n  root: {root}\n  crop_size: [769, 769]\n"
        "train:\n  max_steps: 90000\n  batch_size: 16\n"
        "It needs gtFine/SPLIT/CITY/*_gtFine_labelIds.png; data/README.md has more."
    )


FORMAT = Format("cityscapes", "Cityscapes", recognize, read)
