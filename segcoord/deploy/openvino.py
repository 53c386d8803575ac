"""Writes OpenVINO files: the graph as .xml, the weights as .bin; int8 with NNCF."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from segcoord.deploy.graph import Graph
from segcoord.inference.sessions import openvino_core

if TYPE_CHECKING:
    import openvino

MAX_SIDE = 32768
"""The most rows or columns of a feature; an image has at least twice as many."""


def write(graph: Graph, path: Path, metadata: dict, half: bool = False) -> None:
    """Writes both files, with the metadata as JSON under `segcoord` of rt_info.

    Args:
        graph: in float32.
        path: the .xml file.
        metadata: JSON-serializable.
        half: store weights as float16; the device chooses the precision of the arithmetic.
    """
    _save(_convert(graph.module, graph.example), graph, path, metadata, half)


def write_image_to_mask(
    network: Path, graph: Graph, path: Path, metadata: dict, half: bool
) -> None:
    """Adds preprocessing and postprocessing to an exported network.

    Args:
        network: the .xml of `graph`'s network, in any precision.
        graph: images to masks.
        path, metadata, half: as for `write`.
    """
    import openvino

    inner, module = openvino_core().read_model(network), graph.module
    with torch.no_grad():
        logits = module.network(module.preprocess(graph.example))
    before = _convert(module.preprocess, graph.example)
    after = _convert(module.postprocess, (logits, graph.example))
    image = before.get_parameters()[0]
    logits_input, image_input = after.get_parameters()
    inner.get_parameters()[0].output(0).replace(before.get_results()[0].input_value(0))
    logits_input.output(0).replace(inner.get_results()[0].input_value(0))
    image_input.output(0).replace(image.output(0))
    _save(openvino.Model(after.get_results(), [image]), graph, path, metadata, half)


def quantize(graph: Graph, path: Path, metadata: dict, inputs: Sequence[np.ndarray]) -> None:
    """Writes both files with int8 weights (per channel) and activations, quantized with NNCF.

    Args:
        graph: in float32.
        path, metadata: as for `write`.
        inputs: calibration inputs of the graph, read several times.
    """
    # NNCF imports this module, which warns of a missing GPU where CUDA is installed.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    import nncf

    openvino_core()  # must exist before NNCF creates and destroys its own
    nncf.set_log_level(logging.ERROR)
    # Attention gates stay in float32: they cost next to no time and scale all other activations.
    model = nncf.quantize(
        _convert(graph.module, graph.example),
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(inputs),
        ignored_scope=nncf.IgnoredScope(patterns=[r".*\.(se|att)[./].*"], validate=False),
    )
    _save(model, graph, path, metadata, half=False)


def _convert(module: nn.Module, example: Tensor | tuple) -> openvino.Model:
    import openvino

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # traces with TorchScript, deprecated
        return openvino.convert_model(module, example_input=example)


def _save(model: openvino.Model, graph: Graph, path: Path, metadata: dict, half: bool) -> None:
    import openvino

    _means_to_average_pools(model)
    model.inputs[0].set_names({graph.input})
    model.outputs[0].set_names({graph.output})
    model.set_rt_info(json.dumps(metadata), "segcoord")
    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # what save_model raises on a full disk
        raise OSError(str(error).splitlines()[0]) from error


def _means_to_average_pools(model: openvino.Model) -> None:
    """Replaces every mean over rows or columns by an average pool.

    OpenVINO's ReduceMean over one spatial axis took a quarter of the network's time; the pool takes
    next to none. The pool's window exceeds any feature and pads beyond it without counting the
    padding, so it fits any size. A still larger feature fails at the gates' product instead of
    giving a wrong result.
    """
    from openvino import opset13

    for node in model.get_ops():
        axes = node.input_value(1).get_node() if node.get_type_name() == "ReduceMean" else None
        if axes is None or axes.get_type_name() != "Constant" or not node.get_keep_dims():
            continue
        axes = np.atleast_1d(axes.get_data()).tolist()
        if len(axes) != 1 or axes[0] not in (2, 3):
            continue
        window = [MAX_SIDE if axis == axes[0] else 1 for axis in (2, 3)]
        pool = opset13.avg_pool(
            node.input_value(0),
            strides=window,
            pads_begin=[0, 0],
            pads_end=[side - 1 for side in window],
            kernel_shape=window,
            exclude_pad=True,
        )
        pool.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(pool.output(0))
    model.validate_nodes_and_infer_types()
