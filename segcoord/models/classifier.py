"""`Classifier`: a timm model with its class names and normalization, for pre-training."""

from collections.abc import Sequence

import timm
from torch import Tensor, nn

from segcoord.models.encoders.weights import LoadReport
from segcoord.models.factory import encoder_kwargs, normalization
from segcoord.models.segmentation import ImageModel


class Classifier(ImageModel):
    """A timm model with its class names and normalization.

    Args:
        net: (N, 3, H, W) -> (N, K).
        spec: arguments of `create_classifier` that rebuild `net`.
        classes: the K names, in the order of the logits.
        mean, std: per channel, for images in 0..1.
    """

    def __init__(
        self,
        net: nn.Module,
        spec: dict,
        classes: list[str],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(net, spec, mean, std)
        self.classes = classes
        self.load_report: LoadReport | None = None  # of the initial weights

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) float32, normalized -> (N, K) float32 logits."""
        return self.net(x)  # (N, 3, H, W) -> (N, K)

    def to_dict(self) -> dict:
        """Architecture, class names and normalization in plain types."""
        return super().to_dict() | {"task": "classification", "classes": self.classes}


def create_classifier(
    encoder: str, classes: list[str], reduction: int | None = None, drop_rate: float = 0.1
) -> Classifier:
    """Creates a classifier with random weights, in training mode.

    Args:
        encoder: timm name; segcoord's are family_attention_width.
        classes: names of the K classes.
        reduction: of the encoder's attention; default of the encoder.
        drop_rate: dropout probability before the classifier; 0.1 as in the authors' mbv2_ca.py.

    Raises:
        UserError: an unknown encoder, or one that takes no reduction.
    """
    kwargs = encoder_kwargs(encoder, reduction)
    net = timm.create_model(encoder, num_classes=len(classes), drop_rate=drop_rate, **kwargs)
    spec = {"encoder": encoder, "reduction": reduction, "drop_rate": drop_rate}
    return Classifier(net, spec, classes, *normalization(encoder))
