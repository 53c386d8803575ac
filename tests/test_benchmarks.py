"""benchmarks/gpu.py on a CPU, and the weights of the rivals in benchmarks/rivals.py."""

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


def test_rivals_get_the_same_encoder_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm's mobilenetv2_100 and smp's mobilenet_v2 are one network under two names."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import rivals_smp
    import timm
    import torch

    torch.manual_seed(0)
    source = timm.create_model("mobilenetv2_100").eval()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    net = rivals_smp.create("Unet", 11, str(tmp_path / "weights.pth")).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected, features = source.forward_features(image), net.encoder(image)[-1]
    torch.testing.assert_close(features, expected)
