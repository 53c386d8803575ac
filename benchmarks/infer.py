"""Latency of the network and of a mask for one image: our model in each runtime, and peers.

    python benchmarks/infer.py [--checkpoint C] [--rounds 9] [--quick] [--only WORD...]
                               [--json FILE]

Batch 1, 512x512 and 1024x2048, 21 classes: DeepLabV3 at output strides 16 and 8 and the decoder
light at 32, or the checkpoint's decoder, classes and strides. Each variant runs in its own process
with the allocator setting of its name; variants alternate within a round, and ratios are medians
over rounds.

Peers are unmodified: smp's DeepLabV3 on mobilenet_v2 (stride 8, a standard ASPP, no attention), and
torchvision's two models on mobilenet_v3_large (stride 16). "logits" is their forward pass at full
size; for ours it is the logits at the stride, which `segcoord.predict` upsamples only where classes
compete. "mask" is from a uint8 image to the uint8 class of every pixel, for both.

With --checkpoint, int8 is calibrated on images of its train split, and the fraction of pixels with
the same class as in float32 is measured on images of its val split.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import segcoord
from segcoord.config.decoders import STRIDES
from segcoord.config.schema import ClassConfig, DataConfig
from segcoord.data.layouts import find_split
from segcoord.deploy import onnx, openvino
from segcoord.deploy.graph import network_graph
from segcoord.deploy.quantize import CalibrationImages, GraphInputs
from segcoord.deploy.verify import synthetic
from segcoord.inference.fast_argmax import predict_classes
from segcoord.inference.load import read_metadata
from segcoord.inference.runtimes import open_net
from segcoord.models.fold_batch_norm import fold_batch_norm
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.allocator import keep_freed_memory

DECODERS = {16: "deeplabv3", 8: "deeplabv3", 32: "light"}  # by output stride
EAGER, PEER = "ours, eager NCHW", "smp.DeepLabV3, defaults"
BASELINES = {"eager": EAGER, "smp": PEER}
VARIANTS = {  # name: whether freed memory is kept as in our commands, and the precision
    PEER: (False, "fp32"),
    "torchvision lraspp_mobilenet_v3_large, defaults": (False, "fp32"),
    "torchvision deeplabv3_mobilenet_v3_large, defaults": (False, "fp32"),
    "ours, eager NCHW, default allocator": (False, "fp32"),
    EAGER: (True, "fp32"),
    "ours, segcoord.load": (True, "fp32"),
    "ours, ONNX Runtime": (True, "fp32"),
    "ours, ONNX Runtime int8": (True, "int8"),
    "ours, OpenVINO": (True, "fp32"),
    "ours, OpenVINO bf16": (True, "bf16"),
    "ours, OpenVINO int8": (True, "int8"),
    "ours, OpenVINO int8, the rest bf16": (True, "int8"),
}
SLICE = 0.4  # seconds per variant and round; at least one pass
CALIBRATION, COMPARED = 100, 16  # images


def our_model(checkpoint: str | None, stride: int) -> SegmentationModel:
    """A model with the checkpoint's weights, or random ones, without fused batch norms."""
    if checkpoint is None:
        torch.manual_seed(0)
        decoder = DECODERS[stride]
        return segcoord.create_model("mobilenetv2_ca_100", 21, stride, decoder=decoder).eval()
    trained = segcoord.load(checkpoint, fold=False)
    spec = trained.spec | {"output_stride": stride, "atrous_rates": None}
    mean, std = trained.mean.flatten().tolist(), trained.std.flatten().tolist()
    model = segcoord.create_model(**spec, labels=trained.labels, mean=mean, std=std)
    model.load_state_dict(trained.state_dict())
    return model.eval()


def images_of(checkpoint: str | None, name: str, count: int):
    """(H, W, 3) uint8 images: from a split of the checkpoint's data, or synthetic."""
    if checkpoint is None:
        return synthetic(4)
    settings = dict(read_metadata(checkpoint)["config"]["data"])
    classes = settings.pop("classes")
    data = DataConfig(**settings, classes=classes and [ClassConfig(**c) for c in classes])
    split = find_split(data, getattr(data, name))
    return CalibrationImages(split, min(count, len(split)))


def write_files(checkpoint: str | None, stride: int, folder: Path) -> dict:
    """Export the model; returns the fraction of equal pixels by variant for a trained model."""
    graph = network_graph(our_model(checkpoint, stride))
    images = images_of(checkpoint, "train_split", CALIBRATION)
    onnx.write(graph, folder / "fp32.onnx", {})
    openvino.write(graph, folder / "fp32.xml", {})
    onnx.quantize(graph, folder / "int8.onnx", {}, GraphInputs(graph, images))
    openvino.quantize(graph, folder / "int8.xml", {}, GraphInputs(graph, images))
    if checkpoint is None:
        return {}
    model = our_model(checkpoint, stride)
    nets = {
        "ours, OpenVINO int8": open_net(folder / "int8.xml", "openvino", "openvino"),
        "ours, OpenVINO int8, the rest bf16": open_net(
            folder / "int8.xml", "openvino", "openvino-bf16"
        ),
        "ours, OpenVINO bf16": open_net(folder / "fp32.xml", "openvino", "openvino-bf16"),
        "ours, ONNX Runtime int8": open_net(folder / "int8.onnx", "onnx", "onnxruntime"),
    }
    same = dict.fromkeys(nets, 0)
    pixels = 0
    for image in images_of(checkpoint, "val_split", COMPARED):
        expected = segcoord.predict(model, image)
        pixels += expected.size
        for name, net in nets.items():
            other = with_net(model, net)
            same[name] += int((segcoord.predict(other, image) == expected).sum())
    return {name: count / pixels for name, count in same.items()}


def with_net(model: SegmentationModel, net: torch.nn.Module) -> SegmentationModel:
    mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
    return SegmentationModel(net, model.spec, model.labels, mean, std).eval()


def peer(name: str) -> torch.nn.Module:
    if name == PEER:
        import segmentation_models_pytorch as smp

        return smp.DeepLabV3("mobilenet_v2", encoder_weights=None, classes=21).eval()
    from torchvision.models import segmentation

    make = getattr(segmentation, name.split()[1].rstrip(","))
    return make(weights=None, weights_backbone=None, num_classes=21).eval()


def functions(
    name: str, size: tuple[int, int], stride: int, checkpoint: str | None, folder: Path
) -> dict[str, Callable[[], object]]:
    """The functions of a variant to time: "logits" and "mask"."""
    image = torch.from_numpy(np.ascontiguousarray(synthetic(1, size)[0]))[None]  # (1, H, W, 3)
    model = our_model(checkpoint, stride)
    if not name.startswith("ours"):
        net, x = peer(name), model.prepare(image)

        def run(x: Tensor) -> Tensor:
            output = net(x)
            return output["out"] if isinstance(output, dict) else output

        def mask() -> Tensor:
            return run(model.prepare(image)).argmax(1).to(torch.uint8)

        return {"logits": lambda: run(x), "mask": mask}
    x = model.prepare(image)
    match name.removeprefix("ours, "):
        case "segcoord.load":
            model = fold_batch_norm(model).to(memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
        case "ONNX Runtime":
            model = with_net(model, open_net(folder / "fp32.onnx", "onnx", "onnxruntime"))
        case "ONNX Runtime int8":
            model = with_net(model, open_net(folder / "int8.onnx", "onnx", "onnxruntime"))
        case "OpenVINO":
            model = with_net(model, open_net(folder / "fp32.xml", "openvino", "openvino"))
        case "OpenVINO bf16":
            model = with_net(model, open_net(folder / "fp32.xml", "openvino", "openvino-bf16"))
        case "OpenVINO int8":
            model = with_net(model, open_net(folder / "int8.xml", "openvino", "openvino"))
        case "OpenVINO int8, the rest bf16":
            model = with_net(model, open_net(folder / "int8.xml", "openvino", "openvino-bf16"))
    eager = "eager" in name

    def mask() -> Tensor:
        if eager:  # the usual implementation
            return model(model.normalize(image).contiguous()).argmax(1).to(torch.uint8)
        logits = model.logits_at_stride(model.normalize(image))
        return predict_classes(logits, model.padded_size(*size), size)

    return {"logits": lambda: model.net(x), "mask": mask}


@torch.inference_mode()
def serve(name: str, case: tuple, checkpoint: str | None, folder: Path, pipe: Connection) -> None:
    """Answer each request, "logits" or "mask", with the seconds of one pass."""
    if VARIANTS[name][0]:
        keep_freed_memory()
    timed = functions(name, *case, checkpoint, folder)
    repeats = {}
    for what, run in timed.items():  # warm up
        run()
        start = time.perf_counter()
        run()
        repeats[what] = max(1, min(20, int(SLICE / (time.perf_counter() - start))))
    pipe.send(True)
    while what := pipe.recv():
        start = time.perf_counter()
        for _ in range(repeats[what]):
            timed[what]()
        pipe.send((time.perf_counter() - start) / repeats[what])


def measure(names: list[str], case: tuple, args: argparse.Namespace, folder: Path) -> dict:
    """Seconds by variant and by "logits" or "mask", one value per round."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in names:
        pipes[name], remote = context.Pipe()
        process = context.Process(target=serve, args=(name, case, args.checkpoint, folder, remote))
        process.start()
        processes.append(process)
        pipes[name].recv()
    seconds: dict = {name: {"logits": [], "mask": []} for name in names}
    for number in range(args.rounds):
        for what in ("logits", "mask"):
            for name, pipe in pipes.items():
                pipe.send(what)
                seconds[name][what].append(pipe.recv())
        print(f"round {number + 1} of {args.rounds}", flush=True)
    for pipe in pipes.values():
        pipe.send("")
    for process in processes:
        process.join()
    return seconds


@torch.inference_mode()
def peaks() -> dict[str, float]:
    """Peak GFLOP/s in PyTorch: of a convolution in float32, of a matrix product in bfloat16."""
    x = torch.randn(1, 512, 64, 64).contiguous(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(512, 512, 3, padding=1).to(memory_format=torch.channels_last)
    a = torch.randn(2048, 2048, dtype=torch.bfloat16)
    flops = {"fp32": 2 * 9 * 512 * 512 * 64 * 64, "bf16": 2 * 2048**3}
    best = {}
    for kind, run in (("fp32", lambda: conv(x)), ("bf16", lambda: a @ a)):
        times = []
        for _ in range(15):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        best[kind] = flops[kind] / min(times) / 1e9
    return best


@cache
def operations(name: str, case: tuple) -> float:
    """GFLOP of a forward pass to the logits, counting a multiply-add as two."""
    run = functions(name, *case, None, Path())["logits"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops() / 1e9


def line(row: dict) -> str:
    """Format a row of the printed table."""

    def column(value: float | None, spec: str) -> str:
        return format("" if value is None else format(value, spec), ">9")

    columns = [column(row[key], ".1f") for key in ("ms", "best_ms", "mask_ms")]
    columns += [column(row["share_of_peak"], ".0%")]
    columns += [column(row[f"times_as_fast_as_{key}"], ".2f") for key in BASELINES]
    return f"{row['variant']:52}{''.join(columns)}{column(row['equal_pixels'], '.2%')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="a trained model, for the weights and int8")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="only 512x512, not stride 8")
    parser.add_argument(
        "--only", nargs="+", help="only variants whose name contains one of these words"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = [n for n in VARIANTS if any(w in n for w in args.only or [""])]
    peak = peaks()
    print(f"measured peaks: {', '.join(f'{k} {v:.0f} GFLOP/s' for k, v in peak.items())}")
    strides = DECODERS
    if args.checkpoint:
        strides = STRIDES[segcoord.load(args.checkpoint).spec["decoder"]]
    cases = [(size, stride) for size in ((512, 512), (1024, 2048)) for stride in strides]
    if args.quick:
        cases = [(size, stride) for size, stride in cases if size[0] == 512 and stride != 8]
    rows, equal, folders = [], {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for size, stride in cases:
            if stride not in folders:
                folders[stride] = Path(scratch) / str(stride)
                folders[stride].mkdir()
                equal[stride] = write_files(args.checkpoint, stride, folders[stride])
            seconds = measure(names, (size, stride), args, folders[stride])
            print(f"\n{size[0]}x{size[1]}, stride {stride}")
            headers = ("logits ms", "best", "mask ms", "of peak", "x eager", "x smp", "equal")
            print(" " * 52 + "".join(f"{header:>9}" for header in headers))
            for name in names:
                times = seconds[name]["logits"]
                median = statistics.median(times)
                ratios = {
                    f"times_as_fast_as_{key}": statistics.median(
                        a / b for a, b in zip(seconds[base]["logits"], times)
                    )
                    if base in names
                    else None
                    for key, base in BASELINES.items()
                }
                peak_gflops = peak.get(VARIANTS[name][1])
                counted = EAGER if name.startswith("ours") else name
                gflop = operations(counted, (size, stride))
                share = peak_gflops and gflop / median / peak_gflops
                row = {
                    "case": f"{size[0]}x{size[1]}, stride {stride}",
                    "variant": name,
                    "ms": 1e3 * median,
                    "best_ms": 1e3 * min(times),
                    "mask_ms": 1e3 * statistics.median(seconds[name]["mask"]),
                    "share_of_peak": share,
                    "equal_pixels": equal[stride].get(name),
                    **ratios,
                }
                rows.append(row)
                print(line(row))
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
               "threads": torch.get_num_threads(), "torch": torch.__version__,
               "peak_gflops": peak, "date": date.today().isoformat()}  # fmt: skip
    print(f"\n{machine}")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "machine": machine}, indent=2) + "\n")


if __name__ == "__main__":
    main()
