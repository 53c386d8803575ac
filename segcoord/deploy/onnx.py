"""ONNX files, by torch.onnx (the exporter on torch.export); int8 by ONNX Runtime's quantisation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.export import Dim

from segcoord.deploy.graph import Graph

OPSET = 18  # of 2022: what the exporter writes by itself, and older runtimes still read


def write(graph: Graph, path: Path, metadata: dict) -> None:
    """Writes one file, with the metadata as JSON under the key `segcoord` of metadata_props."""
    names = [graph.input], [graph.output]
    _save(_export(graph.module, (graph.example,), (graph.dynamic,), *names), path, metadata)


def write_around(network: Path, graph: Graph, path: Path, metadata: dict) -> None:
    """Writes a file of images to masks around the network that another file holds.

    Args:
        network: the file of `graph`'s network, in any precision.
        graph: of images to masks.
        path: of the file.
        metadata: as of `write`.
    """
    import onnx
    from onnx import compose

    module, image = graph.module, graph.example
    auto = dict.fromkeys(range(4), Dim.AUTO)
    sizes = {0: Dim.AUTO, 1: Dim.AUTO, 2: Dim.AUTO}
    with torch.no_grad():
        x = module.prepare(image)
        logits = module.network(x)
    before = _export(module.prepare, (image,), (sizes,), ["given"], ["prepared"])
    after = _export(
        module.finish,
        (logits, image),
        (auto | {1: Dim.STATIC}, sizes),
        ["coarse", "again"],
        [graph.output],
    )
    inner = onnx.load(network)
    for part in (before, after):
        part.ir_version = inner.ir_version
    before, after = (compose.add_prefix(m, f"{n}/") for n, m in (("in", before), ("out", after)))
    joined = compose.merge_models(before, inner, [("in/prepared", "image")])
    joined = compose.merge_models(joined, after, [("logits", "out/coarse")])
    new = {"in/given": graph.input, "out/again": graph.input, f"out/{graph.output}": graph.output}
    for node in joined.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [new.get(name, name) for name in ends]
    again = next(i for i in joined.graph.input if i.name == "out/again")
    joined.graph.input.remove(again)
    for value in (*joined.graph.input, *joined.graph.output):
        value.name = new[value.name]
    _save(joined, path, metadata)


def _export(module, examples: tuple, dynamic: tuple, inputs: list[str], outputs: list[str]):
    """The ModelProto of a module; `dynamic` as torch.export has its dynamic_shapes."""
    exported = torch.export.export(module, examples, dynamic_shapes=dynamic, strict=False)
    program = torch.onnx.export(
        exported,
        examples,
        input_names=inputs,
        output_names=outputs,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    return program.model_proto


def quantize(graph: Graph, path: Path, metadata: dict, inputs: Iterator[np.ndarray]) -> None:
    """Writes one file with int8 weights (per channel) and activations, as QDQ nodes.

    Args:
        graph: in float32.
        path: of the file.
        metadata: as of `write`.
        inputs: what the graph takes, of images to calibrate with.
    """
    with tempfile.TemporaryDirectory() as folder:
        floats = Path(folder) / "float.onnx"
        write(graph, floats, {})
        quantize_file(floats, path, metadata, inputs)


def quantize_file(floats: Path, path: Path, metadata: dict, inputs: Iterator[np.ndarray]) -> None:
    """As `quantize`, of a file in float32."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            given = next(inputs, None)
            return None if given is None else {"image": given}

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(floats, ready, skip_symbolic_shape=True)
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
