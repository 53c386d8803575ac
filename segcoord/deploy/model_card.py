"""The model card (README.md) of an exported folder: metadata for the Hub, usage and scores."""

from segcoord.data.labels import LabelSet
from segcoord.models.model_card import card_metadata, class_table

_USAGE = {
    "onnx": "import onnxruntime\n\nsession = onnxruntime.InferenceSession({file!r})\n"
    "(result,) = session.run(None, {{{input!r}: image}})",
    "openvino": 'import openvino\n\nmodel = openvino.Core().compile_model({file!r}, "CPU")\n'
    "result = model([image])[{output!r}]",
    "torchscript": "import torch\n\nmodel = torch.jit.load({file!r})\nresult = model(image)",
    "pt2": "import torch\n\nmodel = torch.export.load({file!r}).module()\nresult = model(image)",
}


def export_card(description: dict, title: str, dataset: str) -> str:
    """The text of README.md for the content of segcoord.json; `dataset` is that of the mIoU."""
    model, export = description["model"], description["export"]
    spec, labels = model["spec"], LabelSet.from_dict(model["labels"])
    int8 = description["int8"]
    miou = int8["miou_after"] if int8 else description["checkpoint"]["miou"]
    metadata = card_metadata(
        title,
        ["semantic-segmentation", "coordinate-attention", export["format"]],
        {} if miou is None else {"mIoU": miou},
        dataset,
    )
    sections = [
        f"---\n{metadata.to_yaml()}\n---\n\n# {title}\n",
        f"{spec['decoder']} on {spec['encoder']} at output stride {spec['output_stride']}, "
        f"{len(labels)} classes, exported by segcoord as {export['format']}, "
        f"{export['precision']}.\n",
        _files(export["graphs"]),
        *(_usage(export["format"], graph) for graph in export["graphs"]),
        _preprocessing(model, export["size"]),
        f"{class_table(labels)}\n",
        _measurements(description),
    ]
    return "\n".join(sections)


def _files(graphs: list[dict]) -> str:
    rows = [
        f"| `{g['file']}` | `{g['input']['name']}`: {g['input']['dtype']} {g['input']['shape']} "
        f"| `{g['output']['name']}`: {g['output']['dtype']} {g['output']['shape']} |"
        for g in graphs
    ]
    return "\n".join(["| file | input | output |", "| --- | --- | --- |", *rows, ""])


def _usage(fmt: str, graph: dict) -> str:
    code = _USAGE[fmt].format(
        file=graph["file"], input=graph["input"]["name"], output=graph["output"]["name"]
    )
    return f"```python\n{code}\n```\n"


def _preprocessing(model: dict, size: tuple[int, int] | None) -> str:
    mean, std = (", ".join(f"{255 * v:.4f}" for v in model[key]) for key in ("mean", "std"))
    target = f"a multiple of {model['spec']['output_stride']}"
    if size is not None:
        target = f"{size[0]} and {size[1]}"
    return (
        f"`model.*` takes RGB as (pixel - mean) / std with mean {mean} and std {std} for pixels in "
        "0 to 255; then pad height and width with zeros at the bottom and at the right to "
        f"{target}. Upsample the logits bilinearly "
        "(align_corners=False); the class is the argmax. `image_to_mask.*`, if present, does all "
        "of this inside. No file applies the EXIF orientation of photos.\n"
    )


def _measurements(description: dict) -> str:
    lines = ["## Measurements\n"]
    checkpoint, int8 = description["checkpoint"], description["int8"]
    if checkpoint["miou"] is not None:
        lines.append(f"Validation mIoU of the checkpoint: {100 * checkpoint['miou']:.2f} %.")
    if int8:
        lines.append(
            f"On split {int8['split']!r}, {int8['images']} images: mIoU "
            f"{100 * int8['miou_before']:.2f} % before, {100 * int8['miou_after']:.2f} % after "
            f"quantization, calibrated on {int8['calibration']} images of "
            f"{int8['calibrated_on']!r}."
        )
    lines.append("Each file in its own runtime, compared with the checkpoint:\n")
    lines.append("| file | images | size | largest logit error | equal pixels |")
    lines.append("| --- | --- | --- | --- | --- |")
    for c in description["checks"]:
        error = "" if c["error"] is None else f"{c['error']:.1e} of the largest"
        size = f"{c['height']}x{c['width']}"
        lines.append(
            f"| {c['file']} | {c['images']} | {size} | {error} | {100 * c['equal']:.3f} % |"
        )
    return "\n".join([*lines, ""])
