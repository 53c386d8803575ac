"""No two formats accept one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import export_files
import pytest
from helpers import FORMATS

from segcoord.data.annotations.formats import (
    ade20k,
    binary_masks,
    color_masks,
    darwin,
    datumaro,
    mapillary,
    yolo,
)

MODULES = (ade20k, binary_masks, color_masks, darwin, datumaro, mapillary, yolo)
TREES = {
    "yolo": export_files.yolo_tree,
    "datumaro": export_files.datumaro_tree,
    "darwin": export_files.darwin_tree,
    "ade20k": export_files.ade20k_tree,
    "mapillary": export_files.mapillary_tree,
    "color-masks": export_files.color_tree,
}


def recognized(root: Path) -> list[str]:
    return [m.FORMAT.name for m in MODULES if m.FORMAT.recognize(root)]


@pytest.mark.parametrize(
    ("name", "tree"),
    [
        *TREES.items(),
        ("binary-masks", export_files.binary_tree),
        ("binary-masks", export_files.alpha_tree),
    ],
)
def test_each_export_is_recognized_by_one(
    tmp_path: Path, name: str, tree: Callable[[Path], Path]
) -> None:
    assert recognized(tree(tmp_path)) == [name]


def test_other_folders_are_recognized_by_none(
    tmp_path: Path, sample_voc: Path, sample_cityscapes: Path
) -> None:
    export_files.put_text(tmp_path / "README.txt", "hello")
    for root in (tmp_path, sample_voc, sample_voc / "VOCdevkit" / "VOC2012", sample_cityscapes):
        assert recognized(root) == []


@pytest.mark.skipif(not FORMATS.is_dir(), reason=f"no samples at {FORMATS}")
def test_exports_of_other_tools_are_recognized_by_none() -> None:
    for name in (
        *("labelme/data_annotated", "coco/layouts/coco_instances", "coco/layouts/coco_panoptic"),
        *("coco", "cvat_segmentation_mask", "cvat_images/for_images/export_task"),
        *("roboflow_semantic_masks", "cvat_images/for_images/export_project"),
    ):
        assert recognized(FORMATS / name) == [], name
