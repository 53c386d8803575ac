"""Opening exports and recognizing their formats."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from segcoord.data.annotations.image_lookup import ImageFinder
from segcoord.data.annotations.names import record_names
from segcoord.data.annotations.records import Format
from segcoord.data.annotations.source import opened_source, recognize
from segcoord.utils.errors import UserError


def make(name: str, file: str) -> Format:
    def see(root: Path) -> str | None:
        return f"a file {file}" if (root / file).exists() else None

    return Format(name, name.upper(), see, lambda root: None)


A, B = make("a", "a.json"), make("b", "b.xml")


def test_one_format_must_recognize_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    assert recognize(tmp_path, None, [A, B]) == (tmp_path, A, "a file a.json")
    (tmp_path / "b.xml").touch()
    with pytest.raises(
        UserError, match=r"A \(a file a.json\); B \(a file b.xml\). Choose one with"
    ):
        recognize(tmp_path, None, [A, B])
    assert recognize(tmp_path, "b", [A, B])[1] is B
    with pytest.raises(UserError, match="--format: found 'c'; expected one of a, b"):
        recognize(tmp_path, "c", [A, B])


def test_an_unknown_export_is_described(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for name in ("x.tfrecord", "y.tfrecord", "labels/z.bin"):
        (tmp_path / name).touch()
    with pytest.raises(UserError) as caught:
        recognize(tmp_path, None, [A, B])
    message = str(caught.value)
    assert "Found 2 .tfrecord, 1 .bin, 1 folder; the first files: labels/z.bin, x" in message
    assert "Expected one of: A (a), B (b)" in message


def test_a_folder_with_nothing_but_a_folder_stands_for_that(tmp_path: Path) -> None:
    inner = tmp_path / "export" / "data"
    inner.mkdir(parents=True)
    (inner / "a.json").touch()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / ".DS_Store").touch()
    assert recognize(tmp_path, None, [A, B])[0] == inner
    assert recognize(tmp_path, "a", [A, B])[0] == inner


def pack(path: Path, *names: str, mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, "content")
    return path


def test_zip_files_are_unpacked_and_removed(tmp_path: Path) -> None:
    names = "data/ä.json", "__MACOSX/data/._ä.json", "data/._b.json", "data/.DS_Store"
    source, folder = pack(tmp_path / "x.zip", *names), tmp_path / "unpacked"
    with opened_source(source, folder) as root:
        assert {p.relative_to(root).as_posix() for p in root.rglob("*.json")} == {"data/ä.json"}
    assert not folder.exists()


@pytest.mark.parametrize("name", ["../a.json", "/a.json", "b/../../a.json", "..\\a.json", "C:\\a"])
def test_names_in_a_zip_file_stay_in_its_folder(name: str, tmp_path: Path) -> None:
    source = pack(tmp_path / "x.zip", "good.json", name)
    with (
        pytest.raises(UserError, match="would leave the folder"),
        opened_source(source, tmp_path / "unpacked"),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["x.zip"]


def test_zip_files_that_can_not_be_unpacked(tmp_path: Path) -> None:
    def refused(source: Path, message: str) -> None:
        with pytest.raises(UserError, match=message), opened_source(source, tmp_path / "u"):
            pass

    refused(pack(tmp_path / "link.zip", "a", mode=0o120777), "a link or special file")
    whole = pack(tmp_path / "x.zip", "a.json").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:30])
    refused(tmp_path / "cut.zip", "cut short or damaged")
    (tmp_path / "wrong.zip").write_bytes(whole.replace(b"content", b"c0ntent"))
    refused(tmp_path / "wrong.zip", "a damaged ZIP file")
    (tmp_path / "x.json").write_text("{}")
    refused(tmp_path / "x.json", "found a .json file, expected the folder")
    refused(tmp_path / "nothing", "no such file or folder")


def test_images_are_found_by_the_names_that_tools_write(tmp_path: Path) -> None:
    finder = ImageFinder(tmp_path, ["train/1.jpg", "val/1.jpg", "photos/Ä.JPG", "notes.txt"])
    assert finder.find("C:\\Users\\me\\ä.jpg") == tmp_path / "photos" / "Ä.JPG"
    assert finder.find("../photos/Ä.jpg") == tmp_path / "photos" / "Ä.JPG"
    assert finder.find("images/val/1.jpg") == tmp_path / "val" / "1.jpg"
    assert finder.find("1.jpg", "train") == tmp_path / "train" / "1.jpg"
    assert finder.find("1.jpg", "annotations", ["val"]) == tmp_path / "val" / "1.jpg"
    assert finder.find("2.jpg") is None and finder.find("") is None
    with pytest.raises(UserError, match=r"may be train/1.jpg or val/1.jpg"):
        finder.find("1.jpg")


def test_names_are_paths_below_the_folder_of_all_images() -> None:
    assert record_names(["images/a.b.jpg", "images/c/d.png"]) == ["a.b", "c/d"]
    assert record_names(["x/a.jpg", "y/a.jpg"]) == ["x/a", "y/a"]
    assert record_names(["x/a.jpg"]) == ["a"]
    assert record_names([]) == []
