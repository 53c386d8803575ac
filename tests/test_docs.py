"""The documentation's snippets: Python is run, commands are checked for their options and files."""

from __future__ import annotations

import re
import shlex
import shutil
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
from helpers import ROOT

from segcoord.cli.main import COMMANDS

DOCUMENTS = [
    "README.md",
    "data/README.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]


def blocks(language: str, document: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the snippets read, under the names that they have there."""
    folder, fixtures = tmp_path_factory.mktemp("docs"), ROOT / "tests" / "fixtures" / "v0"
    shutil.copytree(fixtures / "run", folder / "demo" / "run")
    shutil.copytree(fixtures / "exported" / "onnx", folder / "exported")
    shutil.copytree(fixtures / "data" / ".segcoord", folder / "data" / "camvid" / ".segcoord")
    photo = next((fixtures / "data" / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir())
    shutil.copy(photo, folder / "photo.jpg")
    return folder


@pytest.mark.parametrize(
    ("document", "code"),
    [
        pytest.param(document, code, id=f"{document}-{n}")
        for document in DOCUMENTS
        for n, code in enumerate(blocks("python", document))
    ],
)
def test_python_runs(
    document: str, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    exec(compile(code, document, "exec"), {})


def commands(document: str) -> list[tuple[str, list[str]]]:
    """(command, its arguments) of every line that calls segcoord."""
    lines = "\n".join(blocks("bash", document)).replace("\\\n", " ").splitlines()
    found = []
    for words in (shlex.split(line, comments=True) for line in lines):
        if words[:1] == ["python"] and words[1] in ("train.py", "evaluate.py"):
            found.append((words[1].removesuffix(".py"), words[2:]))
        elif words[:1] == ["segcoord"]:
            n = 3 if words[1] == "data" else 2
            found.append((" ".join(words[1:n]), words[n:]))
    return found


@cache
def options_of(command: str) -> set[str]:
    with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
        COMMANDS[command](f"segcoord {command}", ["--help"])
    return set(re.findall(r"--[\w.-]+", printed.getvalue()))


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if commands(d)])
def test_commands_have_these_options(document: str) -> None:
    for command, arguments in commands(document):
        options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert options <= options_of(command), (command, arguments)
        for word in arguments:
            assert not word.startswith("configs/") or (ROOT / word).is_file(), word


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    shell = "\n".join(text for document in DOCUMENTS for text in blocks("bash", document))
    used = set(re.findall(r"^make (\w+)", shell, re.M))
    assert {"demo", "test"} <= used <= targets


def test_links_and_paths_exist() -> None:
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            exists = target.startswith("http") or ((ROOT / document).parent / target).exists()
            assert exists, f"{document}: {target}"
        for path in re.findall(r"segcoord/[\w/]+\.py", text):
            assert (ROOT / path).is_file(), f"{document}: {path}"
