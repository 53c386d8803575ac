"""Exported files: they compute what the checkpoint does at any size, and say what they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_folding import shaken

import segcoord
from segcoord.cli import main
from segcoord.deploy.folder import network_file, read_description
from segcoord.deploy.graph import TRACED
from segcoord.deploy.verify import SIZES, synthetic
from segcoord.labels import LabelClass, LabelSet
from segcoord.runtimes import FORMATS, open_net

LABELS = LabelSet([LabelClass(f"thing {i}", (40 * i, 255 - 40 * i, 7), i) for i in range(5)])


def small(decoder: str = "deeplabv3", stride: int = 16) -> segcoord.model.SegmentationModel:
    torch.manual_seed(0)
    model = segcoord.create_model(
        "mobilenetv2_ca_050", 5, stride, decoder=decoder, labels=LABELS, mean=[0.4, 0.5, 0.6]
    )
    return shaken(model).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "best.ckpt"
    segcoord.save(small(), path, progress={"best": 0.375, "step": 12})
    return path


def export(checkpoint: Path, out: Path, *options: str) -> int:
    return main(["export", f"--checkpoint={checkpoint}", f"--out={out}", *options])


def inside(path: Path, fmt: str) -> dict:
    """The metadata that a file itself carries."""
    if fmt == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return json.loads(session.get_modelmeta().custom_metadata_map["segcoord"])
    if fmt == "openvino":
        import openvino as ov

        return json.loads(ov.Core().read_model(path).get_rt_info("segcoord").value)
    extra = {"segcoord.json": ""}
    load = torch.jit.load if fmt == "torchscript" else torch.export.load
    name = "_extra_files" if fmt == "torchscript" else "extra_files"
    load(path, **{name: extra})
    return json.loads(extra["segcoord.json"])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format(fmt: str, precision: str, checkpoint: Path, tmp_path, capsys) -> None:
    options = [f"--format={fmt}", f"--precision={precision}", "--image-to-mask"]
    out = tmp_path / "model"
    assert export(checkpoint, out, *options) == 0
    printed = capsys.readouterr().out
    assert printed.count("100.000 %") >= (2 * len(SIZES) - 4 if precision == "fp32" else 1)
    model, plain = segcoord.load(out), segcoord.load(checkpoint)
    assert model.labels == LABELS
    assert (model.precision, plain.precision, plain.runtime) == (precision, "fp32", "torch")
    masks = open_net(network_file(out, fmt, "image_to_mask"), fmt, model.runtime)
    for image in synthetic(2, (61, 83)):
        expected = segcoord.predict(plain, image)
        for found in (segcoord.predict(model, image), masks(torch.from_numpy(image)[None])[0]):
            assert (np.asarray(found) == expected).mean() >= (
                0.9999 if precision == "fp32" else 0.98
            )
    told = read_description(out)
    assert told["checkpoint"]["miou"] == 0.375
    assert [c["file"] for c in told["checks"]] == [
        path.name
        for path in (network_file(out, fmt), network_file(out, fmt, "image_to_mask"))
        for _ in SIZES
    ]
    for stem in ("model", "image_to_mask"):
        within = inside(network_file(out, fmt, stem), fmt)
        assert within["model"] == plain.to_plain()
        assert within["export"]["precision"] == precision
        assert within["checkpoint"]["miou"] == 0.375
        assert str(checkpoint.parent) not in json.dumps(within)
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: segcoord\n") or "library_name: segcoord" in card
    assert "| 3 | thing 3 | #788707 |" in card
    assert "37.50 %" in card


def test_the_sizes_are_not_the_traced_one() -> None:
    assert not {TRACED} & {*SIZES}
    assert {n for n, _, _ in SIZES} == {1, 2}
    assert any(h % 2 and w % 2 for _, h, w in SIZES)
