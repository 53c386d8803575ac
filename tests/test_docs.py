"""What the documents show is run: Python as it stands, commands as far as their options."""

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
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for name in DOCUMENTS:
        for text in re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), re.S):
            found.append((name, text))
    return found


@pytest.mark.parametrize(("name", "code"), blocks("python"))
def test_python_runs(
    name: str, code: str, tmp_path, monkeypatch, tiny_run, sample_voc, request
) -> None:
    if "exported/" in code:
        shutil.copytree(request.getfixturevalue("exported"), tmp_path / "exported")
    (tmp_path / "demo" / "run").mkdir(parents=True)
    shutil.copy(tiny_run / "best.ckpt", tmp_path / "demo" / "run")
    photo = next((sample_voc / "VOCdevkit" / "VOC2012" / "JPEGImages").iterdir())
    shutil.copy(photo, tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name, "exec"), {})


def commands() -> list[tuple[str, list[str]]]:
    """Every line of a document that calls one of our commands: (its verb, its words)."""
    found = []
    for _, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["python"] and words[1] in ("train.py", "evaluate.py"):
                found.append((words[1].removesuffix(".py"), words[2:]))
            elif words[:1] == ["segcoord"]:
                verb = " ".join(words[1:3]) if words[1] == "data" else words[1]
                found.append((verb, words[2:]))
    return found


@cache
def options_of(verb: str) -> set[str]:
    with redirect_stdout(StringIO()) as printed, pytest.raises(SystemExit):
        COMMANDS[verb](f"segcoord {verb}", ["--help"])
    return set(re.findall(r"--[\w.-]+", printed.getvalue()))


@pytest.mark.parametrize(("verb", "words"), commands())
def test_commands_exist_with_these_options(verb: str, words: list[str]) -> None:
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert options <= options_of(verb)
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file()


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    used = {m for _, text in blocks("bash") for m in re.findall(r"^make (\w+)", text, re.M)}
    assert used <= targets
    assert used >= {"demo", "test"}


def test_links_lead_somewhere() -> None:
    for name in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
            if not target.startswith("http"):
                assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_no_unknown_file_is_named() -> None:
    for path in re.findall(r"segcoord/[\w/]+\.py", (ROOT / "README.md").read_text()):
        assert (ROOT / Path(path)).is_file(), path
