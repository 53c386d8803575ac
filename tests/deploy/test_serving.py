"""What docs/serving.md tells a server of the files is what the files say themselves."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnxruntime
from helpers import ROOT

import segcoord
from segcoord.deploy.verify import synthetic

TYPES = {"TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)"}  # Triton's, ONNX Runtime's


def test_tritons_configuration_fits_the_file(exported: Path) -> None:
    text = (ROOT / "docs" / "serving.md").read_text()
    session = onnxruntime.InferenceSession(
        str(exported / "image_to_mask.onnx"), providers=["CPUExecutionProvider"]
    )
    for kind, found in (("input", session.get_inputs()), ("output", session.get_outputs())):
        (entry,) = re.findall(rf"^{kind} \[ {{ (.*) }} \]$", text, re.M)
        name, dtype, dims = re.fullmatch(
            r'name: "(\w+)", data_type: (\w+), dims: \[ (.*) \]', entry
        ).groups()
        (tensor,) = found
        assert (tensor.name, tensor.type) == (name, TYPES[dtype])
        told = [-1 if isinstance(length, str) else length for length in tensor.shape]
        assert told == [-1, *map(int, dims.split(", "))]  # the batch is not among Triton's


def test_a_batch_gives_what_its_images_give(exported: Path, tiny_run: Path) -> None:
    """Which is what a server's dynamic batching relies on."""
    session = onnxruntime.InferenceSession(
        str(exported / "image_to_mask.onnx"), providers=["CPUExecutionProvider"]
    )
    images = np.stack(synthetic(3, (70, 101)))
    (together,) = session.run(None, {"image": images})
    model = segcoord.load(tiny_run / "best.ckpt")
    for image, mask in zip(images, together):
        (alone,) = session.run(None, {"image": image[None]})
        assert (alone[0] == mask).mean() > 0.9999
        assert (segcoord.predict(model, image) == mask).mean() > 0.9999
