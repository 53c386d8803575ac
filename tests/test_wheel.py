"""The wheel holds the whole package and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from helpers import ROOT


def test_wheel_holds_every_file_and_the_command(tmp_path: Path) -> None:
    source = tmp_path / "source"  # the build leaves folders behind
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "segcoord", source / "segcoord", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    files = {str(p.relative_to(source)) for p in source.glob("segcoord/**/*") if p.is_file()}
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path]
    subprocess.run([*command, source], check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert sorted(names) == sorted(files)
        (entry,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "segcoord = segcoord.cli.main:main" in archive.read(entry).decode()
