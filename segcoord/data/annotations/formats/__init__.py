"""One file per export format: what recognizes it, lists its images and reads their annotations."""

from segcoord.data.annotations.formats import (
    ade20k,
    binary_masks,
    cityscapes,
    coco,
    color_masks,
    cvat_images,
    cvat_masks,
    darwin,
    datumaro,
    label_studio,
    labelme,
    mapillary,
    roboflow_masks,
    supervisely,
    voc,
    yolo,
)
from segcoord.data.annotations.records import Format

FORMATS: tuple[Format, ...] = (
    *(labelme.FORMAT, coco.FORMAT),
    *(cvat_images.FORMAT, cvat_masks.FORMAT, roboflow_masks.FORMAT, label_studio.FORMAT),
    *(yolo.FORMAT, supervisely.FORMAT, datumaro.FORMAT, darwin.FORMAT),
    *(ade20k.FORMAT, mapillary.FORMAT, color_masks.FORMAT, binary_masks.FORMAT),
    *(voc.FORMAT, cityscapes.FORMAT),
)
"""All formats that `segcoord data import` reads."""
