"""Writes ONNX files with torch.onnx's dynamo exporter; int8 with ONNX Runtime's quantization."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from segcoord.deploy.graph import Graph
from segcoord.utils.console import progress_bar

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18  # the exporter's own opset, of 2022; older runtimes read it


def write(graph: Graph, path: Path, metadata: dict) -> None:
    """Writes one file, with the metadata as JSON under the key `segcoord` of metadata_props."""
    names = [graph.input], [graph.output]
    _save(_export(graph.module, (graph.example,), (graph.dynamic_shape,), *names), path, metadata)


def write_image_to_mask(network: Path, graph: Graph, path: Path, metadata: dict) -> None:
    """Adds preprocessing and postprocessing to an exported network.

    Args:
        network: the file of `graph`'s network, in any precision.
        graph: images to masks.
        path: the file to write.
        metadata: as for `write`.
    """
    import onnx
    from onnx import compose

    module, image = graph.module, graph.example
    image_shape = dict.fromkeys(range(3), Dim.AUTO)
    logits_shape = {0: Dim.AUTO, 1: Dim.STATIC, 2: Dim.AUTO, 3: Dim.AUTO}
    with torch.no_grad():
        logits = module.network(module.preprocess(image))
    before = _export(module.preprocess, (image,), (image_shape,), ["image"], ["normalized"])
    shapes = (logits_shape, image_shape)
    after = _export(module.postprocess, (logits, image), shapes, ["logits", "image"], ["mask"])
    inner = onnx.load(network)
    for part in (before, after):
        part.ir_version = inner.ir_version
    before, after = (compose.add_prefix(m, f"{p}/") for p, m in (("pre", before), ("post", after)))
    merged = compose.merge_models(before, inner, [("pre/normalized", "image")])
    merged = compose.merge_models(merged, after, [("logits", "post/logits")])
    # Preprocessing and postprocessing share the image as one input.
    merged.graph.input.remove(next(i for i in merged.graph.input if i.name == "post/image"))
    names = {"pre/image": graph.input, "post/image": graph.input, "post/mask": graph.output}
    for node in merged.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    for value in (*merged.graph.input, *merged.graph.output):
        value.name = names[value.name]
    _save(merged, path, metadata)


def _export(
    module: nn.Module, examples: tuple, dynamic_shapes: tuple, inputs: list, outputs: list
) -> ModelProto:
    exported = torch.export.export(module, examples, dynamic_shapes=dynamic_shapes, strict=False)
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


def quantize(graph: Graph, path: Path, metadata: dict, inputs: Sequence[np.ndarray]) -> None:
    """Writes one file with int8 weights (per channel) and uint8 activations, as QDQ nodes.

    Args:
        graph: in float32.
        path, metadata: as for `write`.
        inputs: calibration inputs of the graph.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(images, None)
            return None if image is None else {graph.input: image}

    with tempfile.TemporaryDirectory() as folder:
        float_file, preprocessed = (Path(folder) / name for name in ("float.onnx", "pre.onnx"))
        write(graph, float_file, {})
        quant_pre_process(float_file, preprocessed, skip_symbolic_shape=True)
        with progress_bar() as bar:
            images = iter(bar.track(inputs, description="calibrate"))
            quantize_static(
                preprocessed,
                path,
                Reader(),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    _save(onnx.load(path), path, metadata)


def _save(proto: ModelProto, path: Path, metadata: dict) -> None:
    import onnx

    onnx.helper.set_model_props(proto, {"segcoord": json.dumps(metadata)})
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
