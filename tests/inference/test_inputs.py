"""How inputs are resolved, and where outputs are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from segcoord.inference.inputs import OUTPUTS, Source, check_outputs, find_sources
from segcoord.utils.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(root: Path, *inputs: str, out: str = "out") -> list[str]:
    found = find_sources([str(root / text) for text in inputs], root / out)
    return [str(source.name) for source in found.images]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    touch(tmp_path / "photos", "b.JPG", "a.jpeg", "day 1/c.Png", "day 1/x/d.tiff", "day 2/c.png")
    touch(tmp_path / "photos", "notes.txt", "day 1/e.pdf", "more.TXT", "Makefile", "clip.MP4")
    touch(tmp_path / "photos", ".hidden.jpg", "._b.JPG", ".thumbnails/b.jpg")
    return tmp_path


def test_folders_are_searched_recursively(photos: Path) -> None:
    found = find_sources([str(photos / "photos")], photos / "out")
    assert [str(s.name) for s in found.images] == ["a", "b", "day 1/c", "day 1/x/d", "day 2/c"]
    assert [s.path for s in found.images][1] == photos / "photos" / "b.JPG"
    assert [(str(s.name), s.is_video) for s in found.videos] == [("clip", True)]
    assert found.skipped == {".txt": 2, ".pdf": 1, "without suffix": 1}


def test_outputs_below_an_input_folder_are_not_inputs(photos: Path) -> None:
    touch(photos, "photos/out/masks/a.png")
    assert "out/masks/a" in names(photos, "photos")
    assert "out/masks/a" not in names(photos, "photos", out="photos/out")
    assert names(photos, "photos/*/*/*.png", "photos/a.jpeg", out="photos/out") == ["a"]


@pytest.mark.parametrize("text", ["photos", "photos/*", "photos/*.*", "photos/**/*.*"])
def test_the_output_folder_may_contain_inputs(photos: Path, text: str) -> None:
    before = names(photos, text, out="photos")
    touch(photos, *(f"photos/{kind}/day 1/c.png" for kind in OUTPUTS))
    assert names(photos, text, out="photos") == before
    assert {"a", "b"} <= {*before}


def test_links_to_folders_are_not_followed(photos: Path) -> None:
    (photos / "photos" / "loop").symlink_to(photos / "photos")
    (photos / "photos" / "link.jpg").symlink_to(photos / "photos" / "b.JPG")
    assert names(photos, "photos") == ["a", "b", "day 1/c", "day 1/x/d", "day 2/c", "link"]


def test_a_folder_named_like_an_image_is_an_image_only_if_empty(photos: Path) -> None:
    (photos / "photos" / "empty.png").mkdir()
    touch(photos, "photos/frames.png/1.jpg")
    found = names(photos, "photos")
    assert "empty" in found and "frames.png/1" in found and "frames" not in found


def test_globs_keep_subfolders_and_ignore_the_case_of_suffixes(photos: Path) -> None:
    assert names(photos, "photos/**/*.png") == ["day 1/c", "day 2/c"]
    assert names(photos, "photos/*.jpg") == ["b"]
    assert names(photos, "photos/day*") == ["day 1/c", "day 1/x/d", "day 2/c"]
    assert names(photos, "photos/[ab].jp*") == ["a", "b"]


def test_a_file_given_by_name_may_have_any_suffix(photos: Path) -> None:
    assert names(photos, "photos/Makefile", "photos/day 1/e.pdf") == ["Makefile", "e"]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_paths_in_a_list_are_relative_to_it(photos: Path, start: bytes, end: bytes) -> None:
    elsewhere = str(photos / "photos" / "day 2" / "c.png").encode()
    lines = [b"day 1/c.Png", b"", b"a.jpeg", elsewhere, b"gone.jpg", b""]
    (photos / "photos" / "list.txt").write_bytes(start + end.join(lines))
    assert names(photos, "photos/list.txt") == ["day 1/c", "a", "day 2/c", "gone"]
    (photos / "empty.txt").write_bytes(start + end)
    with pytest.raises(UserError, match=r"empty\.txt: is empty"):
        names(photos, "empty.txt")


def test_a_number_is_a_camera_unless_a_file_has_that_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (source,) = find_sources(["3"], tmp_path / "out").videos
    assert (source.camera, str(source.name)) == (3, "camera3")
    touch(tmp_path, "3")
    assert find_sources(["3"], tmp_path / "out").images == [Source(Path("3"), Path("3"))]


def test_duplicate_inputs_are_predicted_once(photos: Path) -> None:
    assert names(photos, "photos/a.jpeg", "photos/a.jpeg", "photos/*.jpeg") == ["a"]


def test_finding_nothing_is_an_error_that_lists_other_suffixes(photos: Path) -> None:
    touch(photos / "texts", "a.txt", "b.TXT", "sub/c.pdf")
    with pytest.raises(
        UserError, match=r"texts: no image or video, only 2 \.txt, 1 \.pdf\. .*\.jpg"
    ):
        names(photos, "texts")
    with pytest.raises(UserError, match=r"photos/\*\.tga: no image or video, no file"):
        names(photos, "photos/*.tga")
    with pytest.raises(UserError, match=r"nowhere\.jpg: no such file or folder"):
        names(photos, "photos", "nowhere.jpg")


def check(root: Path, *inputs: str, out: str = "out") -> None:
    found = find_sources([str(root / text) for text in inputs], root / out)
    written = [(s, [root / out / f"{s.name}.png"]) for s in found.images]
    check_outputs(written, root / out / "areas.csv")


def test_two_inputs_with_the_same_output_are_an_error(photos: Path) -> None:
    check(photos, "photos")
    with pytest.raises(
        UserError, match=r"day 2/c\.png and .*day 1/c\.Png would both be written to .*out/c"
    ):
        check(photos, "photos/day 1/c.Png", "photos/day 2/c.png")
    touch(photos, "photos/a.png")
    with pytest.raises(UserError, match=r"a\.png and .*a\.jpeg would both be written to"):
        check(photos, "photos")


def test_an_output_never_overwrites_an_input(photos: Path) -> None:
    with pytest.raises(UserError, match=r"day 2/c\.png: is an input and would be overwritten"):
        check(photos, "photos/day 2/c.png", out="photos/day 2")
    (photos / "linked").symlink_to(photos / "photos" / "day 2")
    with pytest.raises(UserError, match="is an input"):
        check(photos, "photos/day 2/c.png", out="linked")


def test_an_output_cannot_also_be_a_folder(photos: Path) -> None:
    touch(photos, "photos/frames.png/1.jpg", "photos/frames.jpg")
    with pytest.raises(
        UserError, match=r"1\.jpg would be written to .* inside a folder with the name"
    ):
        check(photos, "photos")


def test_paths_may_contain_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    touch(tmp_path, name)
    (source,) = find_sources([str(tmp_path)], tmp_path / "out").images
    source.shown.encode()  # as a terminal does
    assert source.path.name == name
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.jpg\n")
    (listed,) = find_sources([str(tmp_path / "list.txt")], tmp_path / "out").images
    assert listed == source
