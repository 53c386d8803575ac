"""TODO."""

from __future__ import annotations

import timm
from torch import Tensor, nn

from segcoord.models.encoders.weights import LoadReport
from segcoord.models.factory import encoder_kwargs, normalization
from segcoord.models.segmentation import ImageModel


class Classifier(ImageModel):
    """A timm model with the names of its classes.

    Args:
        net: (N, 3, H, W) -> (N, K).
        spec: the arguments of `create_classifier` that rebuild `net`.
        classes: the K names, in the order of the logits.
        mean, std: per channel, of images in 0..1.
    """

    def __init__(self, net: nn.Module, spec: dict, classes: list[str], mean, std) -> None:
        super().__init__(net, spec, mean, std)
        self.classes = classes
        self.started: LoadReport | None = None  # what became of the weights that it began with

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float32, normalised -> (N, K) float32 logits."""
        return self.net(x)

    def to_dict(self) -> dict:
        """Architecture, class names and normalisation in plain types."""
        return super().to_dict() | {"task": "classification", "classes": self.classes}


def create_classifier(
    encoder: str, classes: list[str], reduction: int | None = None, drop_rate: float = 0.1
) -> Classifier:
    """A backbone with its classifier, at random weights.

    Args:
        encoder: a timm name; ours are family_attention_width.
        classes: names of the K classes.
        reduction: of the encoder's attention; its own default unless given.
        drop_rate: probability of dropping a feature before the classifier; 0.1 as in the authors'
            mbv2_ca.py.

    Raises:
        UserError: unknown encoder, or one that takes no reduction.
    """
    squeeze = encoder_kwargs(encoder, reduction)
    net = timm.create_model(encoder, num_classes=len(classes), drop_rate=drop_rate, **squeeze)
    spec = {"encoder": encoder, "reduction": reduction, "drop_rate": drop_rate}
    return Classifier(net, spec, classes, *normalization(encoder))
