"""The model card of an exported folder: what the files take, give and cost, for whoever gets them.

README.md with a YAML head, as the Hugging Face Hub reads it.
"""

from __future__ import annotations

from huggingface_hub import ModelCardData

from segcoord.data.labels import LabelSet

_RUN = {
    "onnx": "session = onnxruntime.InferenceSession({file!r})\n"
    "(result,) = session.run(None, {{{input!r}: image}})",
    "openvino": 'model = openvino.Core().compile_model({file!r}, "CPU")\n'
    "result = model([image])[{output!r}]",
    "torchscript": "model = torch.jit.load({file!r})\nresult = model(image)",
    "pt2": "model = torch.export.load({file!r}).module()\nresult = model(image)",
}
_IMPORT = {
    "onnx": "import onnxruntime",
    "openvino": "import openvino",
    "torchscript": "import torch",
    "pt2": "import torch",
}


def export_card(description: dict, title: str) -> str:
    """The text of README.md.

    Args:
        description: as segcoord.json has it.
        title: of the page.
    """
    plain, export = description["model"], description["export"]
    head = ModelCardData(
        library_name="segcoord",
        pipeline_tag="image-segmentation",
        tags=["semantic-segmentation", "coordinate-attention", export["format"]],
    )
    spec, labels = plain["spec"], LabelSet.from_dict(plain["labels"])
    parts = [
        f"---\n{head.to_yaml()}\n---\n\n# {title}\n",
        f"{spec['decoder']} on {spec['encoder']} at output stride {spec['output_stride']}, "
        f"{len(labels)} classes, exported by segcoord as {export['format']}, "
        f"{export['precision']}.\n",
        _files(export["graphs"]),
        *(_usage(export["format"], graph) for graph in export["graphs"]),
        _normalisation(plain, spec),
        _classes(labels),
        _quality(description),
    ]
    return "\n".join(parts)


def _files(graphs: list[dict]) -> str:
    rows = [
        f"| `{g['file']}` | `{g['input']['name']}`: {g['input']['dtype']} {g['input']['shape']} "
        f"| `{g['output']['name']}`: {g['output']['dtype']} {g['output']['shape']} |"
        for g in graphs
    ]
    return "\n".join(["| file | takes | gives |", "| --- | --- | --- |", *rows, ""])


def _usage(fmt: str, graph: dict) -> str:
    names = {"file": graph["file"], "input": graph["input"]["name"]}
    run = _RUN[fmt].format(**names, output=graph["output"]["name"])
    return f"```python\n{_IMPORT[fmt]}\n\n{run}\n```\n"


def _normalisation(plain: dict, spec: dict) -> str:
    mean, std = (", ".join(f"{255 * v:.4f}" for v in plain[key]) for key in ("mean", "std"))
    return (
        f"`model.*` takes RGB as (pixel - mean) / std with mean {mean} and std {std} for pixels of "
        f"0 to 255; height and width padded, at the bottom and at the right with zeros, to a "
        f"multiple of {spec['output_stride']}. Its logits are upsampled bilinearly "
        "(align_corners=False), and the highest is the class. `image_to_mask.*`, where it is here, "
        "does all of that inside. Nothing turns photographs by their EXIF orientation.\n"
    )


def _classes(labels: LabelSet) -> str:
    rows = [
        f"| {i} | {c.name} | #{c.color[0]:02x}{c.color[1]:02x}{c.color[2]:02x} |"
        for i, c in enumerate(labels.classes)
    ]
    return "\n".join(["| id | class | colour |", "| --- | --- | --- |", *rows, ""])


def _quality(description: dict) -> str:
    lines = ["## What was measured\n"]
    checkpoint, int8 = description["checkpoint"], description["int8"]
    if checkpoint["miou"] is not None:
        lines.append(
            f"The checkpoint's mIoU in its training's validation: {100 * checkpoint['miou']:.2f} %."
        )
    if int8:
        lines.append(
            f"On split {int8['split']!r}, {int8['images']} images: mIoU "
            f"{100 * int8['miou_before']:.2f} % before, {100 * int8['miou_after']:.2f} % after, "
            f"calibrated on {int8['calibration']} images of {int8['calibrated_on']!r}."
        )
    lines.append("Compared with the checkpoint, each file in its own runtime:\n")
    lines.append("| file | images | size | largest logit error | equal pixels |")
    lines.append("| --- | --- | --- | --- | --- |")
    for c in description["checks"]:
        error = "" if c["error"] is None else f"{c['error']:.1e} of the largest"
        size = f"{c['height']}x{c['width']}"
        lines.append(
            f"| {c['file']} | {c['images']} | {size} | {error} | {100 * c['equal']:.3f} % |"
        )
    return "\n".join([*lines, ""])
