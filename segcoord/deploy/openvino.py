"""OpenVINO files: an .xml with the graph, a .bin beside it with the weights; int8 by NNCF."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from segcoord.deploy.graph import Graph
from segcoord.runtimes import openvino_core

if TYPE_CHECKING:
    import openvino


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


def quantize(graph: Graph, path: Path, metadata: dict, inputs: Iterator[np.ndarray]) -> None:
    """Writes both files with int8 weights (per channel) and activations, by NNCF.

    Args:
        graph: in float32.
        path: of the .xml.
        metadata: plain types.
        inputs: what the graph takes, of images to calibrate with.
    """
    import nncf

    openvino_core()  # before NNCF's own, which come and go
    nncf.set_log_level(logging.ERROR)
    given = list(inputs)
    # The attention's gates are a few short strips: next to no time, and what all the rest is
    # multiplied by, so they stay in float32.
    model = nncf.quantize(
        _convert(graph.module, graph.example),
        nncf.Dataset(given),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(given),
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

    model.inputs[0].set_names({graph.input})
    model.outputs[0].set_names({graph.output})
    model.set_rt_info(json.dumps(metadata), "segcoord")
    openvino.save_model(model, path, compress_to_fp16=half)
