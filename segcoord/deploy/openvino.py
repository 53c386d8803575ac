"""OpenVINO files: an .xml with the graph, a .bin beside it with the weights; int8 by NNCF."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from segcoord.deploy.graph import Graph

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
    _save(_convert(graph), path, metadata, half)


def quantize(graph: Graph, path: Path, metadata: dict, inputs: Iterator[np.ndarray]) -> None:
    """Writes both files with int8 weights (per channel) and activations, by NNCF.

    Args:
        graph: in float32.
        path: of the .xml.
        metadata: plain types.
        inputs: what the graph takes, of images to calibrate with.
    """
    import nncf

    given = list(inputs)
    model = nncf.quantize(
        _convert(graph),
        nncf.Dataset(given),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(given),
    )
    _save(model, path, metadata, half=False)


def _convert(graph: Graph) -> openvino.Model:
    import openvino

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # it reads a TorchScript of the module
        model = openvino.convert_model(graph.module, example_input=graph.example)
    model.inputs[0].set_names({graph.input})
    model.outputs[0].set_names({graph.output})
    return model


def _save(model: openvino.Model, path: Path, metadata: dict, half: bool) -> None:
    import openvino

    model.set_rt_info(json.dumps(metadata), "segcoord")
    openvino.save_model(model, path, compress_to_fp16=half)
