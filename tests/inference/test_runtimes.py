"""Whatever computes the network, the masks and the scores are the same, and it is named."""

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
from segcoord.inference.runtimes import openvino_core
from segcoord.inference.views import Views
from segcoord.models.checkpoint import read_segmentation
from segcoord.utils.errors import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> dict[str, Path]:
    """The run's best model in two formats."""
    made = {}
    for fmt in ("openvino", "torchscript"):
        made[fmt] = tmp_path_factory.mktemp("exported") / fmt
        options = [f"--checkpoint={tiny_run / 'best.ckpt'}", f"--format={fmt}"]
        assert main(["export", *options, f"--out={made[fmt]}"]) == 0
    return made


def score(checkpoint: Path, folder: Path, *options: str) -> dict:
    path = folder / "score.json"
    arguments = [f"--checkpoint={checkpoint}", f"--json={path}", "--data.workers=0", *options]
    assert run(evaluate, "evaluate.py", arguments) == 0
    return json.loads(path.read_text())


def test_the_score_is_the_same_and_the_runtime_named(folders, exported, tiny_run, tmp_path) -> None:
    expected = score(tiny_run / "best.ckpt", tmp_path)
    assert (expected["protocol"]["runtime"], expected["protocol"]["precision"]) == ("torch", "fp32")
    cases = [
        (folders["openvino"], [], "openvino"),
        (folders["torchscript"], [], "torch"),
        (exported, [], "onnxruntime"),
        (exported, ["--runtime=openvino"], "openvino"),
    ]
    for folder, options, name in cases:
        found = score(folder, tmp_path, *options)
        assert found["miou"] == pytest.approx(expected["miou"], abs=1e-4)
        told = found["protocol"]
        assert (told["runtime"], told["precision"], told["device"]) == (name, "fp32", "cpu")
        assert told["checkpoint"] == str(folder)
        assert told["step"] == expected["protocol"]["step"]
        assert name == "torch" or name in told["versions"]


def test_an_exported_model_is_compared_as_a_checkpoint_is(folders, tiny_run, tmp_path) -> None:
    path = tmp_path / "difference.json"
    options = [f"--json={path}", "--data.workers=0", "--resamples=50"]
    assert main(["compare", str(tiny_run), str(folders["openvino"]), *options]) == 0
    assert abs(json.loads(path.read_text())["difference"]["value"]) < 1e-4


def test_masks_of_batches_and_views(folders, tiny_run) -> None:
    """Several images at once, odd sizes, scales and tiles: the code around the network is ours."""
    plain, model = segcoord.load(tiny_run / "best.ckpt"), segcoord.load(folders["openvino"])
    images = torch.from_numpy(np.stack(synthetic(3, (75, 93))))
    with torch.inference_mode():
        logits = [m(m.normalize(images)) for m in (plain, model)]
    assert logits[1].shape == (3, 8, 75, 93)
    torch.testing.assert_close(*logits, rtol=0, atol=1e-4 * logits[0].abs().max().item())
    views = Views((0.5, 1.25), True, (64, 80), 16)
    masks = [segcoord.predict(m, images[0].numpy(), views) for m in (plain, model)]
    assert (masks[0] == masks[1]).mean() > 0.999


def test_only_an_exported_model_is_bound_to_the_cpu(folders, tiny_run, tmp_path) -> None:
    shared = tmp_path / "shared"
    segcoord.load(tiny_run / "best.ckpt", fold=False).save_pretrained(shared)
    assert accelerator_for(folders["openvino"], "auto") == "cpu"
    assert accelerator_for(folders["openvino"], "cuda") == "cuda"  # which loading it refuses
    assert [accelerator_for(p, "auto") for p in (shared, tiny_run / "best.ckpt")] == ["auto"] * 2


SIGNALS_LATER = """
import signal, subprocess, sys
import segcoord
signal.signal(signal.SIGCHLD, lambda *_: None)  # as a loader with workers does
models = [segcoord.load(sys.argv[1]) for _ in range(2)]
del models[0]
del models
subprocess.run(["true"], check=True)
"""


def test_signals_find_their_stack_when_models_are_gone(folders) -> None:
    command = [sys.executable, "-c", SIGNALS_LATER, folders["openvino"]]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_bfloat16_is_asked_for_by_name(folders) -> None:
    if "BF16" not in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(UserError, match="no BF16; take --runtime openvino"):
            segcoord.load(folders["openvino"], runtime="openvino-bf16")
        return
    image = torch.from_numpy(synthetic(1)[0])[None]
    models = [segcoord.load(folders["openvino"], runtime=r) for r in ("openvino", "openvino-bf16")]
    exact, rounded = (m(m.normalize(image)) for m in models)
    error = ((exact - rounded).abs().max() / exact.abs().max()).item()
    assert 1e-4 < error < 0.1  # 8 bits of precision


def test_the_threads_are_pytorchs(exported: Path) -> None:
    net = segcoord.load(exported).net
    assert net.session.get_session_options().intra_op_num_threads == torch.get_num_threads()


@pytest.mark.parametrize(
    ("source", "runtime", "message"),
    [
        ("checkpoint", "onnxruntime", "segcoord export --checkpoint .* --format onnx --out DIR"),
        ("checkpoint", "openvino", "--format openvino --out DIR"),
        ("checkpoint", "tensorrt", "--runtime: found 'tensorrt', expected one of torch"),
        ("openvino", "onnxruntime", "exported as openvino, which openvino or openvino-bf16 reads"),
        ("torchscript", "openvino", "exported as torchscript, which torch reads"),
        ("openvino", "torch", "segcoord export --format torchscript or pt2"),
    ],
)
def test_what_cannot_be(source, runtime, message, folders, tiny_run) -> None:
    path = tiny_run / "best.ckpt" if source == "checkpoint" else folders[source]
    with pytest.raises(UserError, match=message):
        segcoord.load(path, runtime=runtime)


def test_an_exported_model_has_one_form_and_one_device(folders) -> None:
    with pytest.raises(UserError, match="runs on the CPU"):
        segcoord.load(folders["torchscript"], "meta")
    with pytest.raises(UserError, match="has no layers; give its checkpoint"):
        segcoord.load(folders["torchscript"], fold=False)
    with pytest.raises(UserError, match="it holds an exported model, which has no layers"):
        read_segmentation(folders["torchscript"])


def spoil_weights(folder: Path) -> None:
    content = bytearray((folder / "model.bin").read_bytes())
    content[1000] ^= 1
    (folder / "model.bin").write_bytes(content)


def spoil_format(folder: Path) -> None:
    told = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(told | {"format": "segcoord-export-9"}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_weights, "model.bin: damaged since it was written"),
        (lambda f: (f / "model.bin").unlink(), "model.bin: missing; export the model anew"),
        (lambda f: (f / DESCRIPTION).write_text('{"format": '), "segcoord.json: damaged"),
        (lambda f: (f / DESCRIPTION).write_text("[]"), "found format 'list'"),
        (spoil_format, "found format 'segcoord-export-9', expected 'segcoord-export-1'"),
        (lambda f: (f / DESCRIPTION).unlink(), "a folder, expected a checkpoint file"),
    ],
)
def test_a_damaged_folder(spoil, message: str, folders, tmp_path: Path) -> None:
    shutil.copytree(folders["openvino"], tmp_path / "copy")
    spoil(tmp_path / "copy")
    with pytest.raises(UserError, match=message):
        segcoord.load(tmp_path / "copy")


def test_the_card_may_be_edited(folders, tmp_path: Path) -> None:
    shutil.copytree(folders["openvino"], tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("mine")
    assert len(segcoord.load(tmp_path / "copy").labels) == 8


def test_a_missing_runtime_is_named(folders, monkeypatch) -> None:
    monkeypatch.setattr("segcoord.inference.runtimes.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'segcoord\[openvino\]'"):
        segcoord.load(folders["openvino"])


def test_loading_folds_and_says_so(tiny_run: Path) -> None:
    folded, whole = (segcoord.load(tiny_run / "best.ckpt", fold=f) for f in (True, False))
    assert (folded.folded, whole.folded) == (True, False)
    assert not any("bn" in name and "weight" in name for name in folded.state_dict())
    weight = folded.net.encoder.model.conv_stem.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    image = synthetic(1)[0]
    assert (segcoord.predict(folded, image) == segcoord.predict(whole, image)).mean() > 0.9999
