from __future__ import annotations

from pathlib import Path

import pytest
from export_files import put_text
from layout_trees import put_image

from segcoord.data.annotations.image_lookup import ImageFiles
from segcoord.data.annotations.source_files import peek, peek_json, read_head, read_json, read_text
from segcoord.utils.errors import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_of_any_unicode_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"é": [1]}', encoding=encoding)
    assert read_json(path) == peek_json(path) == {"é": [1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": "b', "JSON that is cut short after 8 characters."),
        ('{"a": [1]\n', "JSON that is cut short after 10 characters."),
        ("", "JSON that is cut short after 0 characters."),
        ("{'a': 1}", "not valid JSON at line 1, column 2 ("),
        ("[" * 200_000, "not a JSON text ("),
        ("[\udce9]", "not a JSON text ('utf-8' codec can't decode byte 0xe9"),
    ],
)
def test_damaged_json(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert peek_json(path) is None
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert read_head(tmp_path) == peek(tmp_path) == ""
    assert peek_json(tmp_path / "gone.json") is None
    for read in (read_text, read_json):
        with pytest.raises(UserError, match=r"gone\.json: no such file\."):
            read(tmp_path / "gone.json")
        with pytest.raises(UserError, match=r"can't be read: Is a directory\."):
            read(tmp_path)


def test_start_and_end_of_a_file(tmp_path: Path) -> None:
    path = put_text(tmp_path / "a.txt", "a" + "-" * (1 << 18) + "z")
    assert read_head(path) == "a" + "-" * (2**16 - 1)
    assert peek(path) == read_head(path) + "-" * (2**16 - 1) + "z"
    assert peek(put_text(path, "short")) == read_head(path) == "short"


def test_images_by_their_paths(tmp_path: Path) -> None:
    for name in ("x/a.JPG", "x/a.jpg", "x/b.PNG", "e\u0301.png"):
        put_image(tmp_path / name)
    images = ImageFiles(tmp_path)
    assert images.find("x/a.jpg") == tmp_path / "x/a.jpg"
    assert images.find("x/b.png") == images.find("x/b") == tmp_path / "x/b.PNG"
    assert images.find_file("./x//b.png") == tmp_path / "x/b.PNG"
    assert images.find_file("x/b") is images.find("b.png") is images.find("X/b.png") is None
    assert images.find_first(["b.png"], ["x/c", "\u00e9"]) == tmp_path / "e\u0301.png"
    assert not ImageFiles(tmp_path / "gone").paths
