"""Files and latencies of the networks of benchmarks/rivals.py in OpenVINO.

A network is measured from a float image to the logits that it computes, before their upsampling:
at a stride of 4 to 16, or at full size for U-Net.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from torch import nn

from segcoord.inference.sessions import openvino_core

SIZES = {"512x512": (512, 512), "1024x2048": (1024, 2048)}
PRECISIONS = {
    "fp32": ("fp32.xml", "f32"),
    "bf16": ("fp32.xml", "bf16"),
    "int8": ("int8.xml", "f32"),
}
SLICE = 0.4  # seconds of a measurement; at least one pass


def write_network(net: nn.Module | str, folder: Path, inputs: Sequence[np.ndarray]) -> None:
    """fp32.xml and int8.xml of another program's network, quantized like ours.

    Args:
        net: in eval mode, or the path of an ONNX file.
        folder: for the files.
        inputs: calibration images, (1, 3, H, W) float32.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    openvino_core()
    example = {} if isinstance(net, str) else {"example_input": inputs[0]}
    model = ov.convert_model(net, **example)
    model.reshape([-1, 3, -1, -1])
    model = to_logits(model)
    ov.save_model(model, folder / "fp32.xml", compress_to_fp16=False)
    mixed = nncf.QuantizationPreset.MIXED
    int8 = nncf.quantize(model, nncf.Dataset(inputs), preset=mixed, subset_size=len(inputs))
    ov.save_model(int8, folder / "int8.xml", compress_to_fp16=False)


def to_logits(model: ov.Model) -> ov.Model:
    """The part of a network before an upsampling and argmax at its end."""
    for node in model.get_ops():
        upsampling = node.input_value(0).get_node() if node.get_type_name() == "TopK" else None
        if upsampling is not None and upsampling.get_type_name() == "Interpolate":
            return ov.Model([upsampling.input_value(0)], model.get_parameters())
    return model


def read(folder: Path, file: str, size: tuple[int, int]) -> ov.Model:
    model = openvino_core().read_model(folder / file)
    model.reshape([1, 3, *size])
    return model


def multiply_adds(model: ov.Model) -> float:
    """Of the convolutions and matrix products, in G."""
    total = 0
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        weight, output = node.input(1).get_shape(), node.output(0).get_shape()
        per_output = {"Convolution": weight[1:], "GroupConvolution": weight[2:]}
        if kind == "MatMul":
            axis = -2 if node.get_attributes()["transpose_a"] else -1
            per_output[kind] = [node.input(0).get_shape()[axis]]
        inner = per_output[kind]
        total += int(np.prod(output, dtype=np.int64)) * int(np.prod(inner, dtype=np.int64))
    return total / 1e9


def parameters(model: ov.Model) -> float:
    """Of the network with fused batch norms, in M."""
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    shapes = [c.get_output_shape(0) for c in constants if c.get_element_type() == ov.Type.f32]
    return sum(int(np.prod(shape)) for shape in shapes) / 1e6


def measure(folders: dict[str, Path], threads: int, rounds: int) -> dict:
    """GMACs, parameters, and the median milliseconds over rounds in which all take turns."""
    result: dict = {name: {} for name in folders}
    for label, size in SIZES.items():
        requests = {}
        for name, folder in folders.items():
            model = read(folder, "fp32.xml", size)
            result[name]["parameters"] = parameters(model)
            result[name][f"gmacs {label}"] = multiply_adds(model)
            for precision, (file, hint) in PRECISIONS.items():
                settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads,
                            "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}  # fmt: skip
                compiled = openvino_core().compile_model(read(folder, file, size), "CPU", settings)
                requests[name, precision] = compiled.create_infer_request()
        x = np.random.default_rng(0).standard_normal((1, 3, *size), np.float32)
        seconds: dict = {key: [] for key in requests}
        for number in range(rounds + 1):  # the first is a warm-up
            for key, request in requests.items():
                passes, begin = 0, time.perf_counter()
                while passes == 0 or time.perf_counter() - begin < SLICE:
                    request.infer([x], share_inputs=True)
                    passes += 1
                seconds[key].append((time.perf_counter() - begin) / passes)
            print(f"{label}: round {number} of {rounds}", flush=True)
        for (name, precision), values in seconds.items():
            result[name][f"ms {label} {precision}"] = 1e3 * statistics.median(values[1:])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("request", type=Path)
    request = json.loads(parser.parse_args().request.read_text())
    folders = {name: Path(folder) for name, folder in request["folders"].items()}
    measured = measure(folders, request["threads"], request["rounds"])
    args = {key: request[key] for key in ("threads", "rounds")}
    Path(request["out"]).write_text(json.dumps({"rows": measured, **args}, indent=2))


if __name__ == "__main__":
    main()
