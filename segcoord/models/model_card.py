"""The README.md beside a shared model: metadata for the Hub, usage, facts and classes."""

from huggingface_hub import EvalResult, ModelCardData

from segcoord.data.labels import LabelClass, LabelSet

_USAGE = """\
```python
import segcoord

model = segcoord.from_pretrained("FOLDER_OR_REPOSITORY")
mask = segcoord.predict(model, "photo.jpg")  # (H, W) uint8 class indices, any size
```
"""
_SMP_USAGE = """
```python
import segcoord  # registers the encoder
import segmentation_models_pytorch as smp

net = smp.from_pretrained("FOLDER_OR_REPOSITORY")  # logits of the input's size
```
"""


def model_card(
    description: dict,
    architecture: str,
    parameters: int,
    metrics: dict[str, float],
    dataset: str = "",
) -> str:
    """Markdown with the Hub's metadata.

    Args:
        description: `SegmentationModel.to_dict()`.
        architecture: the name of the network's class.
        parameters: their number.
        metrics, dataset: as for `hub.save_pretrained`.
    """
    spec, labels = description["spec"], LabelSet.from_dict(description["labels"])
    title = f"{architecture} on {spec['encoder']}"
    tags = ["semantic-segmentation", "segmentation-models-pytorch", spec["encoder"]]
    metadata = card_metadata(title, tags, metrics, dataset)
    facts = {
        "encoder": spec["encoder"],
        "output stride": spec["output_stride"],
        "parameters": f"{parameters / 1e6:.2f} M",
        "input": "RGB of any size, divided by 255, minus mean, divided by standard deviation",
        "mean": _numbers(description["mean"]),
        "standard deviation": _numbers(description["std"]),
    } | {name: f"{100 * value:.2f} %" for name, value in metrics.items()}
    return "\n".join(
        [
            f"---\n{metadata.to_yaml()}\n---",
            f"# {title}, {len(labels)} classes\n",
            "Semantic segmentation, made with segcoord.\n",
            _USAGE + ("" if spec["decoder"] == "light" else _SMP_USAGE),
            "| | |\n| --- | --- |",
            *(f"| {name} | {value} |" for name, value in facts.items()),
            f"\n{class_table(labels)}",
            "\nTraining data, license, intended use and limitations: please complete.\n",
        ]
    )


def card_metadata(
    title: str, tags: list[str], metrics: dict[str, float], dataset: str = ""
) -> ModelCardData:
    """The Hub's metadata, metrics included; arguments as for `model_card`."""
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=dataset or "custom",
            dataset_name=dataset or "custom",
            metric_type="mean_iou" if name == "mIoU" else name,  # as the Hub names it
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in metrics.items()
    ]
    return ModelCardData(
        library_name="segcoord",
        pipeline_tag="image-segmentation",
        tags=tags,
        model_name=title,
        eval_results=results or None,
    )


def class_table(labels: LabelSet) -> str:
    """A Markdown table of the classes: index, name, color and value in masks."""
    rows = [
        f"| {index} | {_cell(c.name)} | #{bytes(c.color).hex()} | {_values(c, labels)} |"
        for index, c in enumerate(labels.classes)
    ]
    head = ["| index | class | color | value in masks |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])


def _values(c: LabelClass, labels: LabelSet) -> str:
    """The mask values of a class; the first is the one that predictions are written with."""
    values = ", ".join(map(str, c.ids))
    if labels.binary and c is labels.classes[1]:
        return f"{values}; any other than 0 is read"
    return values


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _cell(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
