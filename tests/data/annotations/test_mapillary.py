"""Mapillary Vistas: versions, palette and RGB masks, and labels that are not scored."""

from __future__ import annotations

from pathlib import Path

import pytest
from export_files import VISTAS_LABELS, annotation, by_name, mapillary_tree, put_colors, put_json

from segcoord.data.annotations.formats.mapillary import FORMAT
from segcoord.utils.errors import UserError


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ("config_v2.0.json", "v2.0/labels"),
        ("config_v1.2.json", "v1.2/labels"),
        ("config.json", "labels"),
    ],
)
def test_versions(tmp_path: Path, config: str, labels: str) -> None:
    root = mapillary_tree(tmp_path, config, labels)
    assert config in FORMAT.recognize(root)
    export = FORMAT.read(root)
    assert [(n, r.split) for n, r in by_name(export).items()] == [
        ("training/a", "training"),
        ("validation/a", "validation"),
    ]
    found = annotation(export, "training/a")
    assert found.path == root / "training" / labels / "a.png"
    assert found.names == {0: "object--car", 1: None, 2: "nature--sky"}
    assert [(c.id, c.name, c.color) for c in export.classes] == [
        (0, "object--car", (0, 0, 142)),
        (2, "nature--sky", (70, 130, 180)),
    ]
    assert export.skipped == {
        "images of testing, which has no masks": 1,
        "labels with evaluate: false, whose pixels are unlabelled": 1,
    }


def test_rgb_masks_are_read_by_color(tmp_path: Path) -> None:
    root = mapillary_tree(tmp_path)
    put_colors(root / "training/v2.0/labels/a.png", *[(0, 0, 142)] * 4)
    found = annotation(FORMAT.read(root), "training/a")
    assert found.names == {
        (0, 0, 142): "object--car",
        (111, 74, 0): None,
        (70, 130, 180): "nature--sky",
    }
    shared = [VISTAS_LABELS[0], VISTAS_LABELS[2] | {"color": [0, 0, 142]}]
    put_json(root / "config_v2.0.json", {"labels": shared})
    with pytest.raises(UserError, match="0,0,142 is the color of two labels"):
        annotation(FORMAT.read(root), "training/a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": [0, 0]}, "labels[0]: color: found [0, 0], expected [R, G, B]"),
        ({"name": 3}, "labels[0]: name: found 3, expected text"),
        ({"evaluate": "yes"}, "labels[0]: evaluate: found 'yes'"),
        ({"name": "nature--sky"}, "labels[2]: name: a second label"),
    ],
)
def test_bad_labels(tmp_path: Path, change: dict, message: str) -> None:
    root = mapillary_tree(tmp_path)
    put_json(root / "config_v2.0.json", {"labels": [VISTAS_LABELS[0] | change, *VISTAS_LABELS[1:]]})
    with pytest.raises(UserError, match=r"config_v2\.0\.json: ") as caught:
        FORMAT.read(root)
    assert message in str(caught.value)


def test_masks_of_another_version(tmp_path: Path) -> None:
    root = mapillary_tree(tmp_path, labels="v1.2/labels")
    with pytest.raises(UserError, match=r"found no masks in training/v2\.0/labels"):
        FORMAT.read(root)
