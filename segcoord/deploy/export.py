"""segcoord export: writes a checkpoint for another runtime, verifies it, and describes it."""

from __future__ import annotations

from pathlib import Path

import torch
from jsonargparse import Namespace
from rich.filesize import decimal

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import find_split
from segcoord.data.pack.reader import with_pack
from segcoord.data.split import Split
from segcoord.deploy import onnx, openvino, pt2, torchscript
from segcoord.deploy.description import describe
from segcoord.deploy.graph import Graph, image_to_mask_graph, network_graph
from segcoord.deploy.model_card import export_card
from segcoord.deploy.quantize import CalibrationImages, Inputs, score_network, track_calibration
from segcoord.deploy.verify import Check, assert_within_tolerance, synthetic, verify
from segcoord.evaluation.evaluate import check_labels
from segcoord.inference.exported import IMAGE_TO_MASK, NETWORK, network_file
from segcoord.inference.load import load_with_metadata
from segcoord.inference.runtimes import (
    EXTRAS,
    FORMATS,
    open_net,
    require_packages,
    runtime_of,
    runtime_version,
)
from segcoord.models.fuse import fold_batch_norm
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_folder
from segcoord.utils.provenance import origin

PRECISIONS = {
    "fp32": FORMATS,
    "fp16": FORMATS,
    "int8": ("onnx", "openvino"),
}
"""Precision -> the formats that it can be written in."""


def run_export(args: Namespace, data: DataConfig | None) -> int:
    """Writes the folder, prints how it compares; returns the exit code.

    Args:
        args: of the command line.
        data: where int8 finds its images; None for other precisions.
    """
    check_options(args.format, args.precision)
    model, checkpoint = load_with_metadata(args.checkpoint, fold=False)
    splits = None if data is None else _splits(args, data, model)
    images = synthetic() if splits is None else CalibrationImages(splits[0], args.calibration)
    metadata = _metadata(args, model, checkpoint)
    inside = metadata | {"checkpoint": {"miou": metadata["checkpoint"]["miou"]}}  # nobody's paths
    out = Path(args.out)
    with atomic_folder(out) as folder:
        written: dict[Path, Graph] = {}
        for stem, make in ((NETWORK, network_graph), (IMAGE_TO_MASK, image_to_mask_graph)):
            if stem == NETWORK or args.image_to_mask:
                path = network_file(folder, args.format, stem)
                written[path] = _write(make, model, path, args, inside, images)
        checks: list[Check] = []
        nets = {}
        for path, graph in written.items():
            nets[path] = open_net(path, args.format, runtime_of(args.format, None, path))
            least = smallest(args.format, graph, model)
            checks += verify(nets[path], path.name, graph, model, images, least)
        assert_within_tolerance(checks, args.precision)
        loss = None
        if splits is not None:
            loss = quantization_loss(
                model, nets[network_file(folder, args.format)], splits, data, len(images)
            )
        metadata["export"]["graphs"] = [
            _signature(path.name, args.format, graph, model) for path, graph in written.items()
        ]
        metadata |= {"checks": [c.to_dict() for c in checks], "int8": loss}
        (folder / "README.md").write_text(export_card(metadata, out.name))
        describe(folder, metadata)
    for file in sorted(out.iterdir()):
        console.print(f"{file}  {decimal(file.stat().st_size)}", highlight=False)
    return 0


def check_options(fmt: str, precision: str) -> None:
    """Raises UserError for a format or precision that there isn't, alone or together."""
    if fmt not in FORMATS:
        raise UserError(f"--format: found {fmt!r}, expected one of {', '.join(FORMATS)}")
    if precision not in PRECISIONS:
        raise UserError(f"--precision: found {precision!r}, expected {', '.join(PRECISIONS)}")
    if fmt not in PRECISIONS[precision]:
        able = " or ".join(PRECISIONS[precision])
        raise UserError(f"--precision {precision}: {fmt} has no such form here; take {able}")
    if fmt in EXTRAS:
        require_packages(EXTRAS[fmt], f"--format {fmt}")


def _splits(args: Namespace, data: DataConfig, model: SegmentationModel) -> tuple[Split, Split]:
    """What int8 calibrates on, and what it is scored on."""
    data.check()
    check_labels(model, args.checkpoint, data)
    names = (data.train_split, args.split or data.val_split)
    calibration, scored = (with_pack(find_split(data, name), data) for name in names)
    if not scored.labelled:
        raise UserError(
            f"--split {scored.name}: has no masks, so the loss of int8 can't be told; name one "
            "that has"
        )
    return calibration, scored


def _write(make, model, path: Path, args: Namespace, metadata: dict, images) -> Graph:
    """Writes one file; returns its graph in float32, whose input and output it has."""
    console.print(f"write {path.name}")
    graph = make(model)
    match args.format, args.precision:
        case "onnx", _ if graph.output == "mask":
            onnx.write_around(network_file(path.parent, "onnx"), graph, path, metadata)
        case "onnx", "int8":
            onnx.quantize(graph, path, metadata, track_calibration(Inputs(graph, images)))
        case "openvino", precision if graph.output == "mask":
            network = network_file(path.parent, "openvino")
            openvino.write_around(network, graph, path, metadata, half=precision == "fp16")
        case "openvino", "int8":
            openvino.quantize(graph, path, metadata, Inputs(graph, images))
        case "openvino", precision:
            openvino.write(graph, path, metadata, half=precision == "fp16")
        case fmt, precision:
            write = {"onnx": onnx, "torchscript": torchscript, "pt2": pt2}[fmt].write
            write(make(model, half=True) if precision == "fp16" else graph, path, metadata)
    return graph


def quantization_loss(
    model, net, splits: tuple[Split, Split], data: DataConfig, calibration: int
) -> dict:
    """The mIoU of the checkpoint and of the file."""
    train, split = splits
    quantised = SegmentationModel(
        net, model.spec, model.labels, model.mean.flatten().tolist(), model.std.flatten().tolist()
    )
    plain = fold_batch_norm(model).to(memory_format=torch.channels_last)
    before = score_network(plain, split, data.workers, "the checkpoint")
    after = score_network(quantised, split, data.workers, "int8")
    console.print(
        f"mIoU on {split.name}, {len(split)} images: {100 * before:.2f} % before, "
        f"{100 * after:.2f} % at int8, a loss of {100 * (before - after):.2f} points",
        highlight=False,
    )
    return {
        "split": split.name,
        "images": len(split),
        "miou_before": before,
        "miou_after": after,
        "calibration": calibration,
        "calibrated_on": train.name,
    }


def _metadata(args: Namespace, model: SegmentationModel, checkpoint: dict) -> dict:
    """What travels inside the files and in segcoord.json."""
    made = origin()
    best = checkpoint.get("progress", {}).get("best", -1.0)
    return {
        "model": model.to_dict(),
        "export": {
            "format": args.format,
            "precision": args.precision,
            "date": made["date"],
            "commit": made["commit"],
            "versions": made["versions"]
            | runtime_version(runtime_of(args.format, None, Path(args.out))),
        },
        "checkpoint": {
            "path": str(args.checkpoint),
            "miou": best if best >= 0 else None,
            "progress": checkpoint.get("progress", {}),
            "config": checkpoint.get("config", {}),
        },
    }


def smallest(fmt: str, graph: Graph, model: SegmentationModel) -> int:
    """The smallest height and width that a file takes.

    torch.export takes a feature of 1x1 for a constant, so its padded image begins at two strides.
    """
    return model.padded_size(1, 1)[0] + 1 if fmt == "pt2" and graph.output == "mask" else 1


def _signature(name: str, fmt: str, graph: Graph, model: SegmentationModel) -> dict:
    """What a file takes and gives, in words."""
    k, s = len(model.labels), model.output_stride
    if graph.output == "mask":
        sizes = f"(N, H, W, 3) RGB, H and W from {smallest(fmt, graph, model)}"
        shapes = (sizes, "uint8", "(N, H, W)", "uint8")
    else:
        with torch.no_grad():
            d = graph.example.shape[2] // graph.module(graph.example).shape[2]
        sizes = f"(N, 3, H, W) RGB, H and W multiples of {s}"
        shapes = (sizes, "float32", f"(N, {k}, H/{d}, W/{d})", "float32")
    return {
        "file": name,
        "input": {"name": graph.input, "shape": shapes[0], "dtype": shapes[1]},
        "output": {"name": graph.output, "shape": shapes[2], "dtype": shapes[3]},
    }
