"""The configuration in docs/serving.md fits the exported file, which computes batches."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from helpers import ROOT

import segcoord
from segcoord.deploy.verify import synthetic

TYPES = {"TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)"}  # Triton -> ONNX Runtime


@pytest.fixture
def session(exported: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        str(exported / "image_to_mask.onnx"), providers=["CPUExecutionProvider"]
    )


def test_triton_configuration_matches_the_file(session) -> None:
    text = (ROOT / "docs" / "serving.md").read_text()
    for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
        (entry,) = re.findall(rf"^{kind} \[ {{ (.*) }} \]$", text, re.M)
        name, dtype, dims = re.fullmatch(
            r'name: "(\w+)", data_type: (\w+), dims: \[ (.*) \]', entry
        ).groups()
        (tensor,) = tensors
        assert (tensor.name, tensor.type) == (name, TYPES[dtype])
        shape = [-1 if isinstance(length, str) else length for length in tensor.shape]
        assert shape == [-1, *map(int, dims.split(", "))]  # Triton's dims exclude the batch


def test_batch_equals_single_images(session, tiny_run: Path) -> None:
    """Dynamic batching of a server relies on it."""
    images = np.stack(synthetic(3, (70, 101)))
    (masks,) = session.run(None, {"image": images})
    model = segcoord.load(tiny_run / "best.ckpt")
    for image, mask in zip(images, masks):
        (single,) = session.run(None, {"image": image[None]})
        assert (single[0] == mask).mean() > 0.9999
        assert (segcoord.predict(model, image) == mask).mean() > 0.9999
