"""`segcoord export`: writes a checkpoint for another runtime, verifies and describes it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jsonargparse import Namespace
from rich.filesize import decimal

from segcoord.config.schema import DataConfig
from segcoord.data.layouts import find_split
from segcoord.data.pack.reader import describe_left_out, with_pack
from segcoord.data.split import Split
from segcoord.deploy import onnx, opencv, openvino, pt2, torchscript
from segcoord.deploy.graph import Graph, fixed_size_graph, image_to_mask_graph, network_graph
from segcoord.deploy.model_card import export_card
from segcoord.deploy.quantize import CalibrationImages, GraphInputs, quantization_loss
from segcoord.deploy.verify import SIZES, Check, assert_within_tolerance, synthetic, verify
from segcoord.evaluation.evaluate import check_labels
from segcoord.inference.exported import IMAGE_TO_MASK, NETWORK, network_file, write_description
from segcoord.inference.load import load_with_metadata
from segcoord.inference.runtimes import open_net
from segcoord.inference.scales_and_tiles import parse_tile
from segcoord.inference.sessions import (
    EXTRAS,
    FORMATS,
    require_packages,
    runtime_of,
    runtime_version,
)
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.console import console
from segcoord.utils.errors import UserError
from segcoord.utils.files import atomic_folder
from segcoord.utils.provenance import origin

PRECISIONS = {"fp32": FORMATS, "fp16": FORMATS, "int8": ("onnx", "openvino")}
"""Precision -> the formats that support it."""

FIXED_CHECKS = 3  # images on which a file of fixed size is verified


def run_export(args: Namespace, data: DataConfig | None) -> int:
    """Writes, verifies and describes the folder; returns the exit code.

    Args:
        args: of the command line.
        data: the dataset of int8; None for other precisions.

    Raises:
        UserError: unsupported options, or a file that disagrees with the checkpoint.
    """
    check_options(args.format, args.precision)
    size = _check_size(args)
    model, checkpoint = load_with_metadata(args.checkpoint, fold=False)
    build_network: Callable[..., Graph] = network_graph
    if size is not None:
        _require_multiples(size, model)
        build_network = partial(fixed_size_graph, size=size)
    images, val_split = synthetic(), None
    if data is not None:
        train_split, val_split = _find_splits(args, data, model)
        images = CalibrationImages(train_split, args.calibration)
    description = _metadata(args, model, checkpoint)
    description["export"]["size"] = size
    # Only segcoord.json holds paths of this machine, the files don't.
    embedded = description | {"checkpoint": {"miou": description["checkpoint"]["miou"]}}
    out = Path(args.out)
    with atomic_folder(out) as folder:
        graphs: dict[Path, Graph] = {}
        for stem, build_graph in ((NETWORK, build_network), (IMAGE_TO_MASK, image_to_mask_graph)):
            if stem == NETWORK or args.image_to_mask:
                path = network_file(folder, args.format, stem)
                graphs[path] = _write(build_graph, model, path, args, embedded, images)
        checks: list[Check] = []
        nets = {}
        for path, graph in graphs.items():
            nets[path] = open_net(path, args.format, runtime_of(args.format, None, path))
            min_side = _min_side(args.format, graph, model)
            sizes = SIZES if size is None else FIXED_CHECKS * ((1, *size),)
            checks += verify(nets[path], path.name, graph, model, images, min_side, sizes)
            if size is not None:
                checks += opencv.verify(path, graph, model, images, sizes)
        assert_within_tolerance(checks, args.precision)
        loss = None
        if val_split is not None:
            net = nets[network_file(folder, args.format)]
            loss = quantization_loss(model, net, images, val_split, data.workers)
        description["export"]["graphs"] = [
            _signature(path.name, args.format, graph, model, size) for path, graph in graphs.items()
        ]
        description |= {"checks": [asdict(c) for c in checks], "int8": loss}
        config = vars(data) if data else checkpoint.get("config", {}).get("data", {})
        dataset = "custom" if config.get("classes") else config.get("layout", "custom")
        (folder / "README.md").write_text(export_card(description, out.name, dataset))
        write_description(folder, description)
    for file in sorted(out.iterdir()):
        console.print(f"{file}  {decimal(file.stat().st_size)}", highlight=False)
    return 0


def check_options(fmt: str, precision: str) -> None:
    """Raises UserError for an unknown format or precision, or an unsupported combination."""
    if fmt not in FORMATS:
        raise UserError(f"--format: found {fmt!r}, expected one of {', '.join(FORMATS)}")
    if precision not in PRECISIONS:
        raise UserError(f"--precision: found {precision!r}, expected {', '.join(PRECISIONS)}")
    if fmt not in PRECISIONS[precision]:
        supported = " or ".join(PRECISIONS[precision])
        raise UserError(
            f"--precision {precision}: not supported for {fmt}; use --format {supported}"
        )
    if fmt in EXTRAS:
        require_packages(EXTRAS[fmt], f"--format {fmt}")


def _check_size(args: Namespace) -> tuple[int, int] | None:
    """(height, width) of --size; UserError if another option rules it out."""
    if args.size is None:
        return None
    for ok, option in (
        (args.format == "onnx", f"--format {args.format}"),
        (args.precision != "int8", "--precision int8"),
        (not args.image_to_mask, "--image-to-mask"),
    ):
        if not ok:
            raise UserError(
                f"--size: can't be combined with {option}; expected --format onnx, --precision "
                "fp32 or fp16, and no --image-to-mask"
            )
    return parse_tile(args.size, "--size", "512x512")


def _require_multiples(size: tuple[int, int], model: SegmentationModel) -> None:
    nearest = model.padded_size(*size)
    if nearest != size:
        (h, w), s = size, model.output_stride
        raise UserError(
            f"--size: found {h}x{w}, expected multiples of the output stride, {s}, at least "
            f"{'x'.join(map(str, model.padded_size(1, 1)))}; the next larger size is "
            f"{'x'.join(map(str, nearest))}"
        )


def _find_splits(
    args: Namespace, data: DataConfig, model: SegmentationModel
) -> tuple[Split, Split]:
    """The splits that int8 is calibrated and scored on."""
    data.check()
    check_labels(model, args.checkpoint, data)
    names = (data.train_split, args.split or data.val_split)
    train_split, val_split = (with_pack(find_split(data, name), data) for name in names)
    for split in (train_split, val_split):
        if split.left_out:
            console.print(f"{split.name}: {len(split)} images{describe_left_out(split)}")
    if not val_split.labelled:
        raise UserError(
            f"--split {val_split.name}: has no masks, so the loss of int8 can't be measured; name "
            "a split with masks"
        )
    return train_split, val_split


def _write(
    build_graph: Callable[..., Graph],
    model: SegmentationModel,
    path: Path,
    args: Namespace,
    metadata: dict,
    images: Sequence[np.ndarray],
) -> Graph:
    """Writes one file; returns its graph in float32, which has the same input and output."""
    console.print(f"write {path.name}")
    graph = build_graph(model)
    match args.format, args.precision:
        case "onnx", _ if graph.output == "mask":
            onnx.write_image_to_mask(network_file(path.parent, "onnx"), graph, path, metadata)
        case "openvino", precision if graph.output == "mask":
            network = network_file(path.parent, "openvino")
            openvino.write_image_to_mask(network, graph, path, metadata, half=precision == "fp16")
        case fmt, "int8":
            quantize = {"onnx": onnx, "openvino": openvino}[fmt].quantize
            quantize(graph, path, metadata, GraphInputs(graph, images))
        case "openvino", precision:
            openvino.write(graph, path, metadata, half=precision == "fp16")
        case fmt, precision:
            write = {"onnx": onnx, "torchscript": torchscript, "pt2": pt2}[fmt].write
            write(build_graph(model, half=True) if precision == "fp16" else graph, path, metadata)
    return graph


def _metadata(args: Namespace, model: SegmentationModel, checkpoint: dict) -> dict:
    """The description as known before the files are written."""
    run = origin()
    best = checkpoint.get("progress", {}).get("best", -1.0)
    return {
        "model": model.to_dict(),
        "export": {
            "format": args.format,
            "precision": args.precision,
            "date": run["date"],
            "commit": run["commit"],
            "versions": run["versions"]
            | runtime_version(runtime_of(args.format, None, Path(args.out))),
        },
        "checkpoint": {
            "path": str(args.checkpoint),
            "miou": best if best >= 0 else None,
            "progress": checkpoint.get("progress", {}),
            "config": checkpoint.get("config", {}),
        },
    }


def _min_side(fmt: str, graph: Graph, model: SegmentationModel) -> int:
    """The smallest height and width of a file's input.

    torch.export takes a 1x1 feature for a constant, so its padded image has at least two strides.
    """
    return model.padded_size(1, 1)[0] + 1 if fmt == "pt2" and graph.output == "mask" else 1


def _signature(
    name: str, fmt: str, graph: Graph, model: SegmentationModel, size: tuple[int, int] | None
) -> dict:
    """Name, shape and dtype of a file's input and output."""
    k, s = len(model.labels), model.output_stride
    if graph.output == "mask":
        sizes = f"(N, H, W, 3) RGB, H and W at least {_min_side(fmt, graph, model)}"
        shapes = (sizes, "uint8", "(N, H, W)", "uint8")
    else:
        with torch.no_grad():
            d = graph.example.shape[2] // graph.module(graph.example).shape[2]
        inputs, outputs = f"(N, 3, H, W) RGB, H and W multiples of {s}", f"(N, {k}, H/{d}, W/{d})"
        if size is not None:
            h, w = size
            inputs, outputs = f"(1, 3, {h}, {w}) RGB", f"(1, {k}, {h // d}, {w // d})"
        shapes = (inputs, "float32", outputs, "float32")
    return {
        "file": name,
        "input": {"name": graph.input, "shape": shapes[0], "dtype": shapes[1]},
        "output": {"name": graph.output, "shape": shapes[2], "dtype": shapes[3]},
    }
