"""ONNX files, by torch.onnx (the exporter on torch.export); int8 by ONNX Runtime's quantisation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from segcoord.deploy.graph import Graph

OPSET = 18  # of 2022: what the exporter writes by itself, and older runtimes still read


def write(graph: Graph, path: Path, metadata: dict) -> None:
    """Writes one file, with the metadata as JSON under the key `segcoord` of metadata_props."""
    exported = torch.export.export(
        graph.module, (graph.example,), dynamic_shapes=(graph.dynamic,), strict=False
    )
    program = torch.onnx.export(
        exported,
        (graph.example,),
        input_names=[graph.input],
        output_names=[graph.output],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    _save(program.model_proto, path, metadata)


def quantize(graph: Graph, path: Path, metadata: dict, inputs: Iterator[np.ndarray]) -> None:
    """Writes one file with int8 weights (per channel) and activations, as QDQ nodes.

    Args:
        graph: in float32.
        path: of the file.
        metadata: as of `write`.
        inputs: what the graph takes, of images to calibrate with.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            given = next(inputs, None)
            return None if given is None else {graph.input: given}

    with tempfile.TemporaryDirectory() as folder:
        before, ready = Path(folder) / "float.onnx", Path(folder) / "ready.onnx"
        write(graph, before, {})
        quant_pre_process(before, ready, skip_symbolic_shape=True)
        quantize_static(
            ready,
            path,
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    _save(onnx.load(path), path, metadata)


def _save(proto: object, path: Path, metadata: dict) -> None:
    import onnx

    onnx.helper.set_model_props(proto, {"segcoord": json.dumps(metadata)})
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
