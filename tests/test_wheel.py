"""The wheel holds the whole package and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from helpers import ROOT


def test_the_wheel_holds_every_module_and_the_command(tmp_path: Path) -> None:
    source = tmp_path / "source"  # building leaves folders behind
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "segcoord", source / "segcoord", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path]
    subprocess.run([*command, source], check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(source)) for p in source.glob("segcoord/**/*.py")}
    assert modules == {name for name in names if name.endswith(".py")}
    report = {f"segcoord/report/page.{kind}" for kind in ("html.j2", "css", "js")}
    demo = {f"segcoord/ui/page.{kind}" for kind in ("html", "css", "js")}
    assert report | demo <= names
    (entry,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "segcoord = segcoord.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()
