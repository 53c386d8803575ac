"""The README.md beside a shared model: what it is and how to use it, as the hub shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from segcoord.model import SegmentationModel

_USE = """\
```python
import segcoord

model = segcoord.from_pretrained("FOLDER_OR_REPOSITORY")
mask = segcoord.predict(model, "photo.jpg")  # (H, W) uint8 class indices, any size
```

```python
import segcoord  # makes the encoder known
import segmentation_models_pytorch as smp

net = smp.from_pretrained("FOLDER_OR_REPOSITORY")  # logits of the input's size
```
"""


def model_card(model: SegmentationModel, architecture: str, metrics: dict[str, float]) -> str:
    """Markdown with the hub's metadata.

    Args:
        model: told of.
        architecture: the name of smp's class.
        metrics: scores by name, in 0..1.
    """
    spec, labels = model.spec, model.labels
    head = {
        "library_name": "segcoord",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "segmentation-models-pytorch", spec["encoder"]],
    }
    facts = {
        "encoder": spec["encoder"],
        "output stride": model.output_stride,
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M",
        "input": "RGB of any size, divided by 255, minus the mean, divided by the deviation",
        "mean": _numbers(model.mean.flatten().tolist()),
        "standard deviation": _numbers(model.std.flatten().tolist()),
    } | {name: f"{100 * value:.2f} %" for name, value in metrics.items()}
    classes = [
        f"| {index} | {_cell(c.name)} | #{bytes(c.color).hex()} | {c.id} |"
        for index, c in enumerate(labels.classes)
    ]
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
            f"# {architecture} on {spec['encoder']}, {len(labels)} classes\n",
            "Semantic segmentation, made with segcoord.\n",
            _USE,
            "| | |\n| --- | --- |",
            *(f"| {name} | {value} |" for name, value in facts.items()),
            "\n| index | class | colour | value in masks |\n| --- | --- | --- | --- |",
            *classes,
            "\nIts training data, its licence and what it isn't for: not told yet.\n",
        ]
    )


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _cell(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
