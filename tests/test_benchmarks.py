"""benchmarks/gpu.py on a CPU: every kind of measurement, and that a second run goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from segcoord.utils.console import console


def test_the_gpu_benchmark_runs_on_a_cpu_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(console, "quiet", False)
    import gpu

    command = ["gpu.py", "--device=cpu", "--quick", f"--out={tmp_path}", "--only"]
    training = [f"65, batch 2, stride 16, {name}" for name in ("smp", "ours, files")]
    monkeypatch.setattr(sys, "argv", [*command, *training])
    assert gpu.main() == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {row["case"].split(",")[0] for row in rows} == {"training"}
    assert all(row["value"] > 0 for row in rows)
    waiting = {row["variant"]: row["waiting"] for row in rows}
    assert 0 < waiting["ours, files"] < 1
    assert any(row["ratio"] == 1 for row in rows)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*command, *training, "mask"])
    assert gpu.main() == 0
    output = capsys.readouterr().out
    assert "training" not in output.partition("| case |")[0]
    assert "mask | ours, segcoord.predict" in (tmp_path / "gpu.md").read_text()
