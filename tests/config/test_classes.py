"""`data.classes`: names, colors, ids and text files."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_helpers import (
    MINIMAL,
    assert_plain,
    config_of,
    error_of,
    valid,
    write,
)

from segcoord.config.schema import (
    ClassConfig,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[{name: a, color: red}]",
            "class 'a': color: found 'red', expected [R, G, B] with values",
        ),
        ('[{name: a, color: "#12345g"}]', "color: found '#12345g', expected [R, G, B]"),
        ("[{name: a, color: [1, 2]}]", "class 'a': color: found [1, 2], expected [R, G, B]"),
        ("[{name: a, color: [1, 2, 256]}]", "color: found [1, 2, 256], expected [R, G, B]"),
        ("[{name: a, id: x}]", "class 'a': id: found 'x', expected an integer from 0 to 65535"),
        ("[{name: a, id: 65536}]", "class 'a': id: found 65536, expected an integer"),
        ("[{name: a, id: []}]", "class 'a': id: found [], expected an integer"),
        ("[{name: a, id: [1, true]}]", "class 'a': id: found [1, True], expected an integer"),
        (
            "[{name: a, value: 1}]",
            "unknown key 'value' in {name: a, value: 1}, expected name, color",
        ),
        ("[{color: [1, 2, 3]}]", "found {color: [1, 2, 3]} without a name, expected a list of"),
        ("[[a]]", "name: found ['a'], expected text"),
        ('[a, ""]', "found an empty name"),
        ("[a, ]", None),
        ("[a, b: 1]", "unknown key 'b'"),
        ("{a: 1}", "found {'a': 1}, expected a list of names"),
        ("[]", "found an empty list, expected a list of names, [road, car]"),
        ("none.txt", "found 'none.txt', but no file none.txt or here/none.txt"),
    ],
)
def test_wrong_classes_name_file_class_and_what_is_expected(
    tmp_path: Path, text: str, message: str | None
) -> None:
    path = write(tmp_path, MINIMAL.replace("root: here", f"root: here, classes: {text}"))
    if message is None:
        assert config_of("--config", path).data.classes == [ClassConfig("a")]
        return
    found = error_of("--config", path)
    assert found.startswith(f"{path}: data.classes: ")
    assert message in found
    assert_plain(found)
    found = error_of("--config", write(tmp_path, MINIMAL), f"--data.classes={text}")
    assert found.startswith("data.classes: ")


def test_classes_as_names_and_colors(tmp_path: Path) -> None:
    """Names keep their characters, whatever YAML makes of them elsewhere."""
    text = "[road, 7, 007, 1.50, no, 2026-11-22, {name: 08, color: '#ff8000', id: [1, 300]}]"
    path = write(tmp_path, MINIMAL.replace("root: here", f"root: here, classes: {text}"))
    classes = config_of("--config", path).data.classes
    assert [c.name for c in classes] == ["road", "7", "007", "1.50", "no", "2026-11-22", "08"]
    assert classes[-1] == ClassConfig("08", [255, 128, 0], [1, 300])
    again = config_of("--config", write(tmp_path, config_of("--config", path).to_yaml()))
    assert again.data.classes == classes
    own = write(tmp_path, MINIMAL)
    assert config_of("--config", own, "--data.classes=[a, 7]").data.classes == [
        ClassConfig("a"),
        ClassConfig("7"),
    ]


def test_classes_from_a_text_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the working directory or in the root; the configuration then holds the names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    path = write(tmp_path, MINIMAL.replace("root: here", "root: here, classes: names.txt"))
    (tmp_path / "here" / "names.txt").write_text("\ufeffroad\r\n\r\n car \n007\n", "utf-8")
    expected = [ClassConfig("road"), ClassConfig("car"), ClassConfig("007")]
    assert config_of("--config", path).data.classes == expected
    (tmp_path / "names.txt").write_text("tree\n")
    assert "both names.txt and here/names.txt exist and differ" in error_of("--config", path)
    (tmp_path / "here" / "names.txt").unlink()
    assert config_of("--config", path).data.classes == [ClassConfig("tree")]
    (tmp_path / "names.txt").write_text(" \n")
    assert "names.txt: empty, expected one class name per line" in error_of("--config", path)
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe")
    assert "names.txt: not a readable UTF-8 text file" in error_of("--config", path)


def test_color_that_yaml_takes_for_a_comment(tmp_path: Path) -> None:
    path = write(tmp_path, "data:\n  classes:\n    - name: a\n      color: #ff0000\n")
    assert 'found color without a value; write "#rrggbb" in quotes' in error_of("--config", path)


@pytest.mark.parametrize("symbol", ["\N{EVERGREEN TREE}", "\N{CJK UNIFIED IDEOGRAPH-20000}"])
def test_class_name_beyond_16_bits(tmp_path: Path, symbol: str) -> None:
    config = valid(data={"classes": [ClassConfig(symbol, [1, 2, 3])]})
    assert config_of("--config", write(tmp_path, config.to_yaml())) == config
