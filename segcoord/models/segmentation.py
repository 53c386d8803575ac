"""The network: smp's DeepLabV3 with a separable ASPP on one of our encoders, for any image size.

Shapes: N batch, K classes, H and W of the image, s the output stride.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcoord.data.labels import LabelSet
from segcoord.models import cpu_autograd as cpu_training
from segcoord.models.encoders.weights import LoadReport
from segcoord.models.hub import push_to_hub, save_pretrained
from segcoord.utils.errors import UserError

FORMAT = "segcoord-1"


class ImageModel(nn.Module):
    """A network with the normalisation of its images and the arguments that rebuild it.

    Args:
        net: takes (N, 3, H, W) float32.
        spec: the arguments that rebuild `net`.
        mean, std: per channel, of images in 0..1.
    """

    def __init__(
        self, net: nn.Module, spec: dict, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32 as the network wants it, channels_last."""
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype)
        return x.sub_(self.mean * 255).div_(self.std * 255)

    def checkpoint_gradients(self) -> None:
        """Makes the encoder compute its features anew in the backward pass, for less memory.

        Each batch norm then sees a batch twice, so its running statistics move as with momentum
        0.19 for 0.1; gradients are the same.

        Raises:
            UserError: an encoder that timm can't do this with.
        """
        encoder = getattr(self.net, "encoder", None)
        timm_model = encoder.model if encoder is not None else self.net
        if not hasattr(timm_model, "set_grad_checkpointing"):
            raise UserError(
                f"train.gradient_checkpointing: found true, but {self.spec['encoder']} has no such "
                "form; lower train.batch_size or raise train.accumulate"
            )
        timm_model.set_grad_checkpointing()

    def to_dict(self) -> dict:
        """Architecture and normalisation in plain types, from which the model is rebuilt."""
        return {
            "format": FORMAT,
            "spec": self.spec,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }


class SegmentationModel(ImageModel):
    """An smp network with all that is needed to use it: labels, normalisation, any image size.

    Args:
        net: (N, 3, H, W) -> (N, K, H/d, W/d) for H and W that the output stride divides.
        spec: the arguments of `create_model` that rebuild `net`.
        labels: the K classes.
        mean, std: per channel, of images in 0..1.
    """

    def __init__(
        self,
        net: nn.Module,
        spec: dict,
        labels: LabelSet,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(net, spec, mean, std)
        self.labels = labels
        self.started: LoadReport | None = None  # what became of the weights that it began with
        self.folded = False  # its batch norms, into the convolutions before them
        self.runtime, self.precision = "torch", "fp32"  # what computes `net`, and from which file

    @property
    def output_stride(self) -> int:
        return self.spec["output_stride"]

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The size that the network sees of an image."""
        s = self.output_stride
        least = 8 * s if self.spec["decoder"] == "pan" else s  # it pools its last feature thrice
        return max(height + -height % s, least), max(width + -width % s, least)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of exactly the input's size.

        Args:
            x: (N, 3, H, W) float32, normalised; any H and W from 1 up. Inside, it is padded at the
                right and at the bottom with zeros, which is the mean colour, to what s divides.

        Returns:
            (N, K, H, W) float32 logits: the network's, upsampled with align_corners=False.
        """
        h, w = x.shape[-2:]
        return self.upsample(self.logits_at_stride(x), h, w)

    def logits_and_features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`forward`, with the encoder's features from which its logits come.

        Args:
            x: as of `forward`.

        Returns:
            (N, K, H, W) float32 logits, and a feature (N, C_i, H'/s_i, W'/s_i) of each stage of the
            padded image, from the image itself to the last.
        """
        h, w = x.shape[-2:]
        features = self.net.encoder(self._pad(x))
        logits = self.net.segmentation_head(self.net.decoder(features))  # (N, K, H'/d, W'/d)
        return self.upsample(logits, h, w), features

    def upsample(self, logits: Tensor, height: int, width: int) -> Tensor:
        """(N, K, H'/d, W'/d) of a padded image, d any stride -> (N, K, height, width)."""
        size = self.padded_size(height, width)
        if cpu_training.use_matmul_upsample(logits):
            return cpu_training.upsample(logits, size, (height, width))
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def prepare(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB -> (N, 3, H', W') float32: what `net` takes, NCHW in memory."""
        return self._pad(self.normalize(images)).contiguous()

    def _pad(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        height, width = self.padded_size(h, w)
        return F.pad(x, (0, width - w, 0, height - h))  # (N, 3, H', W')

    def logits_at_stride(self, x: Tensor) -> Tensor:
        """The network's logits of the padded image, before they are upsampled.

        Args:
            x: as for `forward`.

        Returns:
            (N, K, H'/d, W'/d) float32, where (H', W') is `padded_size(H, W)` and d the decoder's
            stride.
        """
        return self.net(self._pad(x))

    def to_dict(self) -> dict:
        """Architecture, labels and normalization in plain types; see `factory.model_from_dict`."""
        return super().to_dict() | {"labels": self.labels.to_dict()}

    def save_pretrained(
        self, folder: str | Path, *, metrics: dict[str, float] | None = None, dataset: str = ""
    ) -> None:
        """Writes a folder that `segcoord.from_pretrained` and `smp.from_pretrained` open.

        Args:
            folder: created if missing; a README.md in it is kept.
            metrics: scores for the model card, by name, in 0..1.
            dataset: on which they were measured, for the model card.

        Raises:
            UserError: see `hub.save_pretrained`.
        """
        save_pretrained(self.net, self.to_dict(), folder, metrics, dataset)

    def push_to_hub(self, repo_id: str, **options: object) -> str:
        """Uploads what `save_pretrained` writes to the Hugging Face Hub.

        Args:
            repo_id: "user/name".
            **options: private, token, commit_message, metrics and dataset of `hub.push_to_hub`.

        Returns:
            The URL of the commit.

        Raises:
            UserError: see `hub.push_to_hub`.
        """
        return push_to_hub(self.net, self.to_dict(), repo_id, **options)
