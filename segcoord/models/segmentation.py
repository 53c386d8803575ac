"""`SegmentationModel`: an smp network with its labels and normalization, for any image size.

Shapes: N batch, K classes, H and W of the image, s the output stride, d the stride of the logits,
(H', W') = `padded_size(H, W)`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcoord.data.labels import LabelSet
from segcoord.models.cpu_autograd import matmul_upsample, use_matmul_upsample
from segcoord.models.encoders.weights import LoadReport
from segcoord.models.hub import push_to_hub, save_pretrained
from segcoord.utils.errors import UserError

FORMAT = "segcoord-1"


class ImageModel(nn.Module):
    """A network with its input normalization and the arguments that rebuild it.

    Args:
        net: takes (N, 3, H, W) float32.
        spec: arguments that rebuild `net`.
        mean, std: per channel, for images in 0..1.
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
        """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) normalized float32, channels_last."""
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype)  # (N, 3, H, W)
        return x.sub_(self.mean * 255).div_(self.std * 255)

    def checkpoint_gradients(self) -> None:
        """Turns on gradient checkpointing in the encoder, which saves memory for time.

        The backward pass recomputes the features. Each batch norm then sees a batch twice, so its
        running statistics move as with momentum 0.19 instead of 0.1; gradients are the same.

        Raises:
            UserError: timm does not support it for this encoder.
        """
        encoder = getattr(self.net, "encoder", None)
        timm_model = encoder.model if encoder is not None else self.net
        if not hasattr(timm_model, "set_grad_checkpointing"):
            raise UserError(
                f"train.gradient_checkpointing: found true, but {self.spec['encoder']} does not "
                "support it; lower train.batch_size or raise train.accumulate"
            )
        timm_model.set_grad_checkpointing()

    def to_dict(self) -> dict:
        """Architecture and normalization in plain types, to rebuild the model from."""
        return {
            "format": FORMAT,
            "spec": self.spec,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }


class SegmentationModel(ImageModel):
    """An smp network with labels and normalization, for images of any size.

    Args:
        net: (N, 3, H, W) -> (N, K, H/d, W/d), where s divides H and W.
        spec: arguments of `create_model` that rebuild `net`.
        labels: the K classes.
        mean, std: per channel, for images in 0..1.
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
        self.load_report: LoadReport | None = None  # of the initial weights
        self.folded = False  # True once batch norms are fused into the convolutions
        self.runtime, self.precision = "torch", "fp32"  # of `net`
        self.fixed_size: tuple[int, int] | None = None  # (H', W') if `net` takes no other

    @property
    def output_stride(self) -> int:
        return self.spec["output_stride"]

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """(H', W') of an image after padding: multiples of s, the least that the decoder takes.

        Raises:
            UserError: the image is larger than the fixed size of an exported network.
        """
        if self.fixed_size is not None:
            h, w = self.fixed_size
            if height > h or width > w:
                raise UserError(
                    f"found an image of {height}x{width} (height x width), but the model was "
                    f"exported for {h}x{w}. Predict in tiles with --tile {h}x{w}, or export "
                    "without --size."
                )
            return self.fixed_size
        s = self.output_stride
        least = 8 * s if self.spec["decoder"] == "pan" else s  # PAN pools the last feature thrice
        return max(height + -height % s, least), max(width + -width % s, least)

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits of the input's size.

        Args:
            x: (N, 3, H, W) float32, normalized; any H and W from 1. It is padded at the right and
                bottom to (H', W') with zeros, the mean color.

        Returns:
            (N, K, H, W) float32 logits, upsampled with align_corners=False.
        """
        return self.upsample(self.logits_at_stride(x), *x.shape[-2:])

    def logits_and_features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`forward`, with the features of the encoder.

        Args:
            x: as for `forward`.

        Returns:
            (N, K, H, W) float32 logits, and one feature (N, C_i, H'/s_i, W'/s_i) per stage; the
            first is the padded image.
        """
        features = self.net.encoder(self._pad(x))  # (N, C_i, H'/s_i, W'/s_i) each
        logits = self.net.segmentation_head(self.net.decoder(features))  # (N, K, H'/d, W'/d)
        return self.upsample(logits, *x.shape[-2:]), features

    def upsample(self, logits: Tensor, height: int, width: int) -> Tensor:
        """(N, K, H'/d, W'/d) logits of the padded image, for any d -> (N, K, height, width)."""
        size = self.padded_size(height, width)
        if use_matmul_upsample(logits):
            return matmul_upsample(logits, size, (height, width))  # (N, K, H, W)
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]  # (N, K, H', W') -> (N, K, H, W)

    def prepare(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB -> (N, 3, H', W') float32, contiguous: the input of `net`."""
        return self._pad(self.normalize(images)).contiguous()

    def _pad(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        height, width = self.padded_size(h, w)
        return F.pad(x, (0, width - w, 0, height - h))  # (N, 3, H', W')

    def logits_at_stride(self, x: Tensor) -> Tensor:
        """(N, 3, H, W), as for `forward` -> (N, K, H'/d, W'/d) float32, before upsampling."""
        return self.net(self._pad(x))  # (N, 3, H', W') -> (N, K, H'/d, W'/d)

    def to_dict(self) -> dict:
        """Architecture, labels and normalization in plain types; see `factory.model_from_dict`."""
        return super().to_dict() | {"labels": self.labels.to_dict()}

    def save_pretrained(
        self, folder: str | Path, *, metrics: dict[str, float] | None = None, dataset: str = ""
    ) -> None:
        """Writes a folder that `segcoord.from_pretrained` and `smp.from_pretrained` open.

        smp can't open the decoder light.

        See `hub.save_pretrained` for the arguments and errors.
        """
        save_pretrained(self.net, self.to_dict(), folder, metrics, dataset)

    def push_to_hub(self, repo_id: str, **options: object) -> str:
        """Uploads what `save_pretrained` writes to the repository "user/name" of the Hub.

        See `hub.push_to_hub` for the options and errors. Returns the URL of the commit.
        """
        return push_to_hub(self.net, self.to_dict(), repo_id, **options)
