"""OpenVINO files: an .xml with the graph, a .bin beside it with the weights; int8 by NNCF."""

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
from segcoord.inference.runtimes import openvino_core

if TYPE_CHECKING:
    import openvino

LONGEST = 32768
"""Rows or columns that a feature can have; an image has at least twice as many."""


def write(graph: Graph, path: Path, metadata: dict, half: bool = False) -> None:
    """Writes both files, with the metadata as JSON under `segcoord` of rt_info.

    Args:
        graph: in float32.
        path: of the .xml.
        metadata: plain types.
        half: keep the weights as float16; a device computes with what it has.
    """
    _save(_convert(graph.module, graph.example), graph, path, metadata, half)


def write_around(network: Path, graph: Graph, path: Path, metadata: dict, half: bool) -> None:
    """Writes both files of a model of images to masks around the network that another holds.

    Args:
        network: the .xml of `graph`'s network, in any precision.
        graph: of images to masks.
        path, metadata, half: as of `write`.
    """
    import openvino

    inner, module = openvino_core().read_model(network), graph.module
    with torch.no_grad():
        logits = module.network(module.prepare(graph.example))
    before = _convert(module.prepare, graph.example)
    after = _convert(module.finish, (logits, graph.example))
    image = before.get_parameters()[0]
    coarse, again = after.get_parameters()
    inner.get_parameters()[0].output(0).replace(before.get_results()[0].input_value(0))
    coarse.output(0).replace(inner.get_results()[0].input_value(0))
    again.output(0).replace(image.output(0))
    _save(openvino.Model(after.get_results(), [image]), graph, path, metadata, half)


def quantize(graph: Graph, path: Path, metadata: dict, inputs: Sequence[np.ndarray]) -> None:
    """Writes both files with int8 weights (per channel) and activations, by NNCF.

    Args:
        graph: in float32.
        path: of the .xml.
        metadata: plain types.
        inputs: what the graph takes, of images to calibrate with; gone through several times.
    """
    import nncf

    openvino_core()  # before NNCF's own, which come and go
    nncf.set_log_level(logging.ERROR)
    # The attention's gates are a few short strips: next to no time, and what all the rest is
    # multiplied by, so they stay in float32.
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
        warnings.simplefilter("ignore", FutureWarning)  # it reads a TorchScript of the module
        return openvino.convert_model(module, example_input=example)


def _save(model: openvino.Model, graph: Graph, path: Path, metadata: dict, half: bool) -> None:
    import openvino

    _average_by_pools(model)
    model.inputs[0].set_names({graph.input})
    model.outputs[0].set_names({graph.output})
    model.set_rt_info(json.dumps(metadata), "segcoord")
    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except RuntimeError as error:  # how its writer tells of a full disk
        raise OSError(str(error).splitlines()[0]) from error


def _average_by_pools(model: openvino.Model) -> None:
    """Puts an average pool in place of every mean over rows or columns.

    OpenVINO's ReduceMean over one spatial axis took a quarter of the whole network's time, the pool
    next to none. Its window is wider than any feature and ends outside of it, where nothing is
    counted, so that it is of any size; a feature that is larger still would not fit the gates'
    product, which is an error and no wrong result.
    """
    from openvino import opset13

    for node in model.get_ops():
        axes = node.input_value(1).get_node() if node.get_type_name() == "ReduceMean" else None
        if axes is None or axes.get_type_name() != "Constant" or not node.get_keep_dims():
            continue
        axes = np.atleast_1d(axes.get_data()).tolist()
        if len(axes) != 1 or axes[0] not in (2, 3):
            continue
        window = [LONGEST if axis == axes[0] else 1 for axis in (2, 3)]
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
