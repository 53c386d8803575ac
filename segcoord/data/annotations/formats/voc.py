"""Pascal VOC's folders, which train as they are."""

from pathlib import Path

from segcoord.data.annotations.records import Export, Format
from segcoord.utils.errors import UserError

_MASKS = ("SegmentationClass", "SegmentationClassAug")
_CONFIG = "config.yaml"


def recognize(root: Path) -> str | None:
    """JPEGImages and PNG masks, without the labelmap.txt of CVAT's export."""
    base = _base(root)
    if base is None or (base / "labelmap.txt").exists() or (root / "labelmap.txt").exists():
        return None
    return "JPEGImages and SegmentationClass with PNG masks"


def read(root: Path) -> Export:
    """Say how the folder trains without import."""
    base = _base(root)
    if base is None:
        raise UserError(
            f"{root}: found no JPEGImages beside SegmentationClass with PNG masks, expected Pascal "
            "VOC's folders"
        )
    if (base / _CONFIG).is_file():
        raise UserError(
            f"{base}: is a dataset that trains as it is: segcoord train --config {base / _CONFIG}"
        )
    splits = ""
    if not (base / "ImageSets" / "Segmentation" / "train.txt").is_file():
        splits = "  val_fraction: 0.2  # no ImageSets/Segmentation/train.txt\n"
    raise UserError(
        f"{base}: Pascal VOC's folders train as they are, without import. Write this to a YAML "
        "file, and give it to segcoord train --config FILE:\n"
        f"data:\n  layout: voc\n  root: {base}\n  crop_size: [320, 320]\n{splits}"
        "  # classes: [background, car]  # for other classes than VOC's 20, in the order of ids\n"
        "train:\n  max_steps: 2000\n  batch_size: 8\n"
        "segcoord data check --config FILE finds masks that don't fit. data/README.md has more."
    )


def _base(root: Path) -> Path | None:
    """The folder that contains JPEGImages."""
    for base in (root, root / "VOCdevkit" / "VOC2012", root / "VOC2012"):
        if (base / "JPEGImages").is_dir() and any(_has_png(base / name) for name in _MASKS):
            return base
    return None


def _has_png(folder: Path) -> bool:
    return folder.is_dir() and any(p.suffix.lower() == ".png" for p in folder.iterdir())


FORMAT = Format("voc", "Pascal VOC", recognize, read)
