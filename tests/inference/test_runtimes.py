"""Masks and scores are the same with every runtime, and the runtime is recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import segcoord
from segcoord.cli.evaluate import evaluate
from segcoord.cli.main import main, run
from segcoord.deploy.verify import synthetic
from segcoord.inference.exported import DESCRIPTION
from segcoord.inference.load import accelerator_for
from segcoord.inference.scales_and_tiles import Views
from segcoord.inference.sessions import openvino_core
from segcoord.utils.errors import UserError


def score(checkpoint: Path, folder: Path, *options: str) -> dict:
    path = folder / "score.json"
    arguments = [f"--checkpoint={checkpoint}", f"--json={path}", "--data.workers=0", *options]
    assert run(evaluate, "evaluate.py", arguments) == 0
    return json.loads(path.read_text())


def test_scores_are_equal_and_record_the_runtime(exported, tiny_run, tmp_path) -> None:
    expected = score(tiny_run / "best.ckpt", tmp_path)
    assert (expected["protocol"]["runtime"], expected["protocol"]["precision"]) == ("torch", "fp32")
    for options, name in (([], "onnxruntime"), (["--runtime=openvino"], "openvino")):
        result = score(exported, tmp_path, *options)
        assert result["miou"] == pytest.approx(expected["miou"], abs=1e-4)
        protocol = result["protocol"]
        keys = ("runtime", "precision", "device")
        assert [protocol[key] for key in keys] == [name, "fp32", "cpu"]
        assert protocol["checkpoint"] == str(exported)
        assert protocol["step"] == expected["protocol"]["step"]
        assert name in protocol["versions"]


def test_compare_accepts_an_exported_model(exported, tiny_run, tmp_path) -> None:
    path = tmp_path / "difference.json"
    options = [f"--json={path}", "--data.workers=0", "--resamples=50"]
    assert main(["compare", str(tiny_run), str(exported), *options]) == 0
    assert abs(json.loads(path.read_text())["difference"]["value"]) < 1e-4


def test_batches_and_views_equal_those_of_pytorch(exported, tiny_run) -> None:
    """Batches, odd sizes, scales and tiles."""
    torch_model = segcoord.load(tiny_run / "best.ckpt")
    model = segcoord.load(exported, runtime="openvino")
    images = torch.from_numpy(np.stack(synthetic(3, (75, 93))))
    with torch.inference_mode():
        logits = [m(m.normalize(images)) for m in (torch_model, model)]
    assert logits[1].shape == (3, 8, 75, 93)
    torch.testing.assert_close(*logits, rtol=0, atol=1e-4 * logits[0].abs().max().item())
    views = Views((0.5, 1.25), True, (64, 80), 16)
    masks = [segcoord.predict(m, images[0].numpy(), views) for m in (torch_model, model)]
    assert (masks[0] == masks[1]).mean() > 0.999


def test_only_exported_models_require_the_cpu(exported, tiny_run, tmp_path) -> None:
    shared = tmp_path / "shared"
    segcoord.load(tiny_run / "best.ckpt", fold=False).save_pretrained(shared)
    assert accelerator_for(exported, "auto") == "cpu"
    assert accelerator_for(exported, "cuda") == "cuda"  # which loading rejects
    assert [accelerator_for(p, "auto") for p in (shared, tiny_run / "best.ckpt")] == ["auto"] * 2


SIGNAL_AFTER_DELETION = """
import signal, subprocess, sys
import segcoord
import segcoord.evaluation.run, segcoord.inference.run
segcoord.load(sys.argv[2])
slow = {"torch._dynamo", "torchmetrics", "lightning_fabric", "matplotlib", "scipy"}
assert not slow & sys.modules.keys(), slow & sys.modules.keys()
signal.signal(signal.SIGCHLD, lambda *_: None)  # as a data loader with workers does
models = [segcoord.load(sys.argv[1], runtime="openvino") for _ in range(2)]
del models[0]
del models
subprocess.run(["true"], check=True)
"""


def test_a_process_imports_nothing_slow_and_survives_signals_after_deleting_models(
    exported, tiny_run
):
    command = [sys.executable, "-c", SIGNAL_AFTER_DELETION, exported, tiny_run / "best.ckpt"]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_bfloat16_is_a_runtime_of_its_own(exported) -> None:
    if "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(UserError, match="no BF16; use --runtime openvino"):
            segcoord.load(exported, runtime="openvino-bf16")
        return
    image = torch.from_numpy(synthetic(1)[0])[None]
    models = [segcoord.load(exported, runtime=r) for r in ("openvino", "openvino-bf16")]
    exact, rounded = (m(m.normalize(image)) for m in models)
    error = ((exact - rounded).abs().max() / exact.abs().max()).item()
    assert 1e-4 < error < 0.1  # 8 bits of precision


def test_runtime_uses_the_thread_count_of_pytorch(exported: Path) -> None:
    net = segcoord.load(exported).net
    assert net.session.session.get_session_options().intra_op_num_threads == torch.get_num_threads()


@pytest.mark.parametrize(
    ("source", "runtime", "message"),
    [
        ("checkpoint", "onnxruntime", "segcoord export --checkpoint .* --format onnx --out DIR"),
        ("checkpoint", "openvino", "--format openvino --out DIR"),
        ("checkpoint", "tensorrt", "--runtime: found 'tensorrt', expected one of torch"),
        (
            "exported",
            "torch",
            "exported as onnx, which onnxruntime or openvino or openvino-bf16 reads",
        ),
        ("exported", "torch", "segcoord export --format torchscript or pt2"),
    ],
)
def test_runtime_that_cannot_read_the_model_is_an_error(
    source, runtime, message, exported, tiny_run
) -> None:
    path = tiny_run / "best.ckpt" if source == "checkpoint" else exported
    with pytest.raises(UserError, match=message):
        segcoord.load(path, runtime=runtime)


def test_exported_models_support_neither_other_devices_nor_unfused_layers(exported: Path) -> None:
    with pytest.raises(UserError, match="runs on the CPU"):
        segcoord.load(exported, "meta")
    with pytest.raises(UserError, match="has no layers; give its checkpoint"):
        segcoord.load(exported, fold=False)


def corrupt_weights(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[1000] ^= 1
    (folder / "model.onnx").write_bytes(content)


def corrupt_format(folder: Path) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(description | {"format": "segcoord-export-9"}))


@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (corrupt_weights, "model.onnx: damaged, its checksum differs"),
        (lambda f: (f / "model.onnx").unlink(), "model.onnx: missing; export the model again"),
        (lambda f: (f / DESCRIPTION).write_text('{"format": '), "segcoord.json: damaged"),
        (lambda f: (f / DESCRIPTION).write_text("[]"), "found format 'list'"),
        (corrupt_format, "found format 'segcoord-export-9', expected 'segcoord-export-1'"),
        (lambda f: (f / DESCRIPTION).unlink(), "a folder, expected a checkpoint file"),
    ],
)
def test_damaged_folders_are_errors(corrupt, message: str, exported, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    corrupt(tmp_path / "copy")
    with pytest.raises(UserError, match=message):
        segcoord.load(tmp_path / "copy")


def test_the_model_card_may_be_edited(exported, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("mine")
    assert len(segcoord.load(tmp_path / "copy").labels) == 8


def test_a_missing_runtime_names_the_package_to_install(exported, monkeypatch) -> None:
    monkeypatch.setattr("segcoord.inference.sessions.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'segcoord\[openvino\]'"):
        segcoord.load(exported, runtime="openvino")


def test_loading_fuses_batch_norms_unless_disabled(tiny_run: Path) -> None:
    folded, whole = (segcoord.load(tiny_run / "best.ckpt", fold=f) for f in (True, False))
    assert (folded.folded, whole.folded) == (True, False)
    assert not any("bn" in name and "weight" in name for name in folded.state_dict())
    weight = folded.net.encoder.model.conv_stem.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    image = synthetic(1)[0]
    assert (segcoord.predict(folded, image) == segcoord.predict(whole, image)).mean() > 0.9999
