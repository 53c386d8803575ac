"""CVAT for images 1.1: shapes and their order, where images are, and bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from export_files import annotation, by_name, put_text, refusal, refused_annotation, rings
from helpers import FORMATS
from layout_trees import put_image

from segcoord.data.annotations.formats.cvat_images import FORMAT
from segcoord.data.annotations.records import ClassName

SAMPLES = FORMATS / "cvat_images" / "for_images"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no samples at {SAMPLES}")
LABELS = """<labels>
  <label><name>car</name><color>#fa3203</color><type>any</type>
    <attributes><attribute><name>new</name></attribute></attributes></label>
  <label><name>road &amp; path</name><color></color></label>
  <label><name>pose</name><color>#000000</color><type>skeleton</type></label>
  <label><name>knee</name><type>any</type><parent>pose</parent></label>
</labels>"""
A = '<image id="0" name="a.jpg" width="6" height="4">{}</image>'
POLYGON = '<polygon label="car" points="1,1;3,1;3,3.5"/>'


def put_xml(
    root: Path, *images: str, meta: str = f"<task>{LABELS}</task>", start: str = ""
) -> Path:
    start = start or '<?xml version="1.0" encoding="utf-8"?>'
    text = f"{start}\n<annotations>\n<version>1.1</version>\n<meta>{meta}</meta>\n"
    return put_text(root / "annotations.xml", text + "\n".join(images) + "\n</annotations>\n")


def put_shape(root: Path, shape: str) -> None:
    put_xml(root, A.format(shape))
    put_image(root / "images" / "a.jpg")


def test_shapes_by_hand(tmp_path: Path) -> None:
    shapes = """
    <polygon label="car" source="manual" occluded="0" points="1.00,1.00;3.00,1.00;3.00,3.50"
      z_order="1"><attribute name="new">true</attribute></polygon>
    <box label="road &amp; path" xtl="0.00" ytl="1.00" xbr="4.00" ybr="3.00" group_id="3"
      z_order="0"/>
    <box label="car" xtl="1" ytl="0" xbr="5" ybr="2" rotation="90.00" z_order="0"/>
    <polyline label="car" points="0.5,0.5;5.5,3.5"/>
    <points label="car" points="1,1"/>
    <skeleton label="pose"><points label="knee" points="1,1" outside="0"/></skeleton>
    <mask label="car" rle="1, 2, 1, 2" left="2" top="1" width="3" height="2" z_order="-1"/>
    <tag label="car"/>"""
    put_shape(tmp_path, shapes)
    export = FORMAT.read(tmp_path)
    assert export.classes == [ClassName("car", (250, 50, 3)), ClassName("road & path")]
    assert export.skipped == {"points": 1, "skeletons": 1, "image tags": 1}
    *drawn, mask = annotation(export, "a")
    assert rings(drawn) == [
        ("car", [[[1, 1], [3, 1], [3, 3.5]]]),
        ("road & path", [[[0, 1], [4, 1], [4, 3], [0, 3]]]),
        ("car", [[[4, -1], [4, 3], [2, 3], [2, -1]]]),  # clockwise around (3, 1)
        ("car", [[[0.5, 0.5], [5.5, 3.5]]]),
    ]
    assert [shape.stroke for shape in drawn] == [0, 0, 0, 1]
    assert mask.mask.tolist() == [[False, True, True]] * 2
    assert (mask.label, mask.offset) == ("car", (2, 1))
    # By z_order, then as in the file.
    assert [shape.order for shape in [*drawn, mask]] == [4, 1, 2, 3, 0]


@pytest.mark.parametrize(
    ("rotation", "ends"),
    [
        ("", [[5, 2], [3, 3], [1, 2], [3, 1]]),
        ('rotation="90"', [[3, 4], [2, 2], [3, 0], [4, 2]]),
    ],
)
def test_ellipse(tmp_path: Path, rotation: str, ends: list[list[float]]) -> None:
    put_shape(tmp_path, f'<ellipse label="car" cx="3" cy="2" rx="2" ry="1" {rotation}/>')
    (shape,) = annotation(FORMAT.read(tmp_path), "a")
    (ring,) = shape.rings
    assert ring[:: len(ring) // 4].round(6).tolist() == ends
    x, y = (ring - [3, 2]).T if not rotation else (ring - [3, 2]).T[::-1]
    np.testing.assert_allclose((x / 2) ** 2 + y**2, 1)
    middle = (ring + np.roll(ring, 1, axis=0)) / 2 - [3, 2]
    x, y = middle.T if not rotation else middle.T[::-1]
    assert (1 - np.hypot(x / 2, y)).max() * 2 < 0.05  # pixels, of the longer radius


def test_images_of_a_task(tmp_path: Path) -> None:
    """Names in folders, frames without suffix, a missing image, and one without shapes."""
    image = '<image id="1" name="{}" width="6" height="4">{}</image>'
    names = ["day/a.jpg", "frame_000001", "caf\u00e9.png", "gone.jpg"]
    meta = f"<task><subset>Train</subset>{LABELS}</task>"
    empty = '<image id="9" name="empty.jpg" width="6" height="4"/>'
    put_xml(tmp_path, *(image.format(name, POLYGON) for name in names), empty, meta=meta)
    for name in ("day/a.JPG", "frame_000001.PNG", "cafe\u0301.png", "empty.jpg"):
        put_image(tmp_path / "images" / name)
    records = by_name(FORMAT.read(tmp_path))
    assert [*records] == ["day/a", "frame_000001", "caf\u00e9", "gone", "empty"]
    found = [r.image.relative_to(tmp_path / "images").as_posix() for r in records.values()]
    assert found == ["day/a.JPG", "frame_000001.PNG", "cafe\u0301.png", "gone.jpg", "empty.jpg"]
    assert [r.image.exists() for r in records.values()] == [True, True, True, False, True]
    assert [r.content is None for r in records.values()] == [False] * 4 + [True]
    assert {r.size for r in records.values()} == {(4, 6)}
    assert {r.split for r in records.values()} == {"Train"}
    assert records["gone"].where == f"{tmp_path / 'annotations.xml'}: line 14, image 'gone.jpg'"


def test_images_of_a_project(tmp_path: Path) -> None:
    """The same name in two subsets, and a task without a subset."""
    image = '<image id="0" name="a.jpg" subset="{}" task_id="1" width="6" height="4">{}</image>'
    images = [image.format(subset, POLYGON) for subset in ("Train", "Test", "default")]
    meta = f"<project><subsets>Train\nTest\ndefault</subsets>{LABELS}</project>"
    put_xml(tmp_path, *images, meta=meta)
    for subset in ("Train", "default"):
        put_image(tmp_path / "images" / subset / "a.jpg")
    records = by_name(FORMAT.read(tmp_path))
    assert {name: record.split for name, record in records.items()} == {
        "Train/a": "Train",
        "Test/a": "Test",
        "default/a": None,
    }
    assert [r.image.exists() for r in records.values()] == [True, False, True]
    assert records["Test/a"].image == tmp_path / "images/Test/a.jpg"


def test_without_meta(tmp_path: Path) -> None:
    """The classes are those that occur, and a shape may lack one."""
    put_xml(tmp_path, A.format(f'{POLYGON}<box label="" xtl="0"/>'), meta="")
    put_image(tmp_path / "a.jpg")  # beside the file
    export = FORMAT.read(tmp_path)
    assert export.classes == [ClassName("car")]
    assert export.skipped == {"shapes without a label": 1}
    assert export.records[0].image == tmp_path / "a.jpg"
    assert len(annotation(export, "a")) == 1


def test_recognize(tmp_path: Path) -> None:
    put_text(tmp_path / "voc.xml", "<annotation><filename>a.jpg</filename></annotation>")
    put_text(tmp_path / "other.xml", "<annotations>")
    put_text(tmp_path / "broken.xml", "\0")
    (tmp_path / "folder.xml").mkdir()
    assert FORMAT.recognize(tmp_path) is None
    put_xml(tmp_path, "<image")
    assert FORMAT.recognize(tmp_path) == "annotations.xml with <annotations>"


def test_no_file(tmp_path: Path) -> None:
    assert (
        refusal(FORMAT, tmp_path)
        == f"{tmp_path}: found no .xml file of CVAT, expected annotations.xml."
    )


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            A.format('<box label="cat"/>'),
            "line 11: found the label 'cat', expected one of <meta>: car",
        ),
        (
            '<image name="../a.jpg"/>',
            "image '../a.jpg': found the name '../a.jpg', expected a path",
        ),
        ('<image name="/a.jpg"/>', "expected a path below the image folder"),
        ("<image/>", "line 11, image '': found the name ''"),
        ('<image name="a.jpg" width="6" height="0"/>', "found width '6' and height '0'"),
        ('<track id="0" label="car"/>', "line 11: found a track, expected images."),
        ('<image name="a.jpg">', "not valid XML at line 12"),
        ("<image name=&b;/>", "not valid XML at line 11, column 13"),
    ],
)
def test_bad_file(tmp_path: Path, image: str, message: str) -> None:
    path = put_xml(tmp_path, image)
    found = refusal(FORMAT, tmp_path)
    assert found.startswith(f"{path}: ")
    assert message in found


def test_truncated_file(tmp_path: Path) -> None:
    path = put_xml(tmp_path, A.format(POLYGON))
    for length in (path.stat().st_size - 5, 330):
        path.write_bytes(path.read_bytes()[:length])
        assert "it may be cut short. Export it again." in refusal(FORMAT, tmp_path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ('<!DOCTYPE annotations [<!ENTITY a "bbbb">]>', "found a DOCTYPE"),
        (
            '<?xml version="1.0" encoding="iso-8859-1"?>',
            "found the encoding iso-8859-1, expected utf-8",
        ),
    ],
)
def test_doctype_and_encoding(tmp_path: Path, start: str, message: str) -> None:
    put_xml(tmp_path, A.format(POLYGON), start=start)
    assert message in refusal(FORMAT, tmp_path)


MASK = '<mask label="car" rle="{}" left="0" top="0" width="{}" height="2"/>'


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<polygon label="car" points="1,2;3"/>', "<polygon> 1 (car), points: found '1,2;3'"),
        ('<polygon label="car" points="1,2;a,3"/>', "points: found '1,2;a,3', expected x,y;x,y"),
        ('<polyline label="car"/>', "<polyline> 1 (car), points: found ''"),
        ('<box label="car" xtl="0" ytl="0" xbr="1"/>', "<box> 1 (car), ybr: found None"),
        (
            '<ellipse label="car" cx="0" cy="0" rx="nan" ry="1"/>',
            "rx: found 'nan', expected a number",
        ),
        ('<box label="car" z_order="top"/>', "z_order: found 'top', expected an integer"),
        (MASK.format("1, 2", 3), "rle: found 3 pixels, expected 3x2 = 6"),
        (MASK.format("7, -1", 3), "rle: found '7, -1', expected lengths"),
        (MASK.format("", 3), "rle: found '', expected lengths"),
        (MASK.format("14", 7), "found a mask of 7x2 pixels, expected one within the image of 6x4"),
        (MASK.format("0", 0), "found a mask of 0x2 pixels"),
    ],
)
def test_bad_shape(tmp_path: Path, shape: str, message: str) -> None:
    put_shape(tmp_path, shape)
    found = refused_annotation(FORMAT.read(tmp_path), "a")
    assert found.startswith(f"{tmp_path / 'annotations.xml'}: line 11, image 'a.jpg'")
    assert message in found


def test_changed_file(tmp_path: Path) -> None:
    put_shape(tmp_path, POLYGON)
    export = FORMAT.read(tmp_path)
    put_text(tmp_path / "annotations.xml", "<annotations/>")
    assert "line 11, <image>: can't be read again; the file changed." in refused_annotation(
        export, "a"
    )


@needs_samples
def test_sample_of_a_project() -> None:
    export = FORMAT.read(SAMPLES / "export_project")
    records = by_name(export)
    assert [*records] == [f"{s}/img{i}" for s in ("Test", "Train", "Validation") for i in (0, 1)]
    assert all(record.image.is_file() for record in records.values())
    assert [records[f"Train/img{i}"].size for i in (0, 1)] == [(8, 8), (10, 10)]
    assert [c.name for c in export.classes] == ["label1", "label2"]
    assert export.skipped == {"points": 3}
    box, line = annotation(export, "Test/img0", (8, 8))
    assert rings([box, line]) == [
        ("label1", [[[0, 2], [4, 2], [4, 4], [0, 4]]]),
        ("label2", [[[1, 2], [3, 4], [5, 6], [7, 8]]]),
    ]
    assert (box.order, line.order, line.stroke) == (1, 0, 1)
    assert rings(annotation(export, "Validation/img1", (10, 10))) == [
        ("label1", [[[1, 2], [3, 4], [6, 5]]])
    ]


@needs_samples
def test_sample_of_a_task() -> None:
    """Its file is not named annotations.xml, and two shapes have an empty label."""
    assert FORMAT.recognize(SAMPLES / "export_task") == "train.xml with <annotations>"
    export = FORMAT.read(SAMPLES / "export_task")
    assert {n: r.content is None for n, r in by_name(export).items()} == {
        "img0": False,
        "img1": True,
    }
    assert export.skipped == {"shapes without a label": 2, "points": 1}
