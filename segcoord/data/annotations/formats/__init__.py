"""One file per export format: what recognizes it, lists its images and reads their annotations."""

from segcoord.data.annotations.formats import cityscapes, coco, labelme, voc
from segcoord.data.annotations.records import Format

FORMATS: tuple[Format, ...] = (
    labelme.FORMAT,
    coco.FORMAT,
    voc.FORMAT,
    cityscapes.FORMAT,
)
"""All formats that `segcoord data import` reads."""
