"""The network: smp's DeepLabV3 with a separable ASPP on one of our encoders, for any image size.

Shapes: N batch, K classes, H and W of the image, s the output stride.
"""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

import segcoord.encoders  # noqa: F401  (registers our backbones in timm)
from segcoord import cpu_training
from segcoord.decoders import build, decoder_settings
from segcoord.encoders.start import start
from segcoord.encoders.weights import Report
from segcoord.errors import UserError
from segcoord.hub import HubMixin
from segcoord.labels import LabelSet, numbered

FORMAT = "segcoord-1"
SPEC = {
    *("encoder", "reduction", "num_classes", "decoder", "output_stride"),
    *("atrous_rates", "aspp_dropout"),
}
"""The arguments of `create_model` that a file may give: none that reads another file."""


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

    def to_plain(self) -> dict:
        """Architecture and normalisation in plain types, from which the model is rebuilt."""
        return {
            "format": FORMAT,
            "spec": self.spec,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }


class SegmentationModel(ImageModel, HubMixin):
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
        self.started: Report | None = None  # what became of the weights that it began with
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
        if cpu_training.takes(logits):
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

    def to_plain(self) -> dict:
        """Architecture, labels and normalisation in plain types; `from_plain` rebuilds from it."""
        return super().to_plain() | {"labels": self.labels.to_plain()}

    @classmethod
    def from_plain(cls, plain: dict) -> SegmentationModel:
        """The model that `to_plain` described, with random weights.

        Raises:
            UserError: a description that isn't one, or asks for more than an architecture.
        """
        try:
            unknown = plain["spec"].keys() - SPEC
            if plain["format"] != FORMAT or unknown:
                found = ", ".join(sorted(unknown)) or plain["format"]
                raise UserError(f"found {found!r}, which this version of segcoord doesn't know")
            mean, std = (torch.tensor(plain[name], dtype=torch.float32) for name in ("mean", "std"))
            if mean.shape != (3,) or std.shape != (3,) or not (mean.isfinite() & (std > 0)).all():
                raise UserError(f"mean {plain['mean']} and std {plain['std']}, expected three each")
            return create_model(
                **plain["spec"],
                labels=LabelSet.from_plain(plain["labels"]),
                mean=plain["mean"],
                std=plain["std"],
            )
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"a damaged description of a model ({type(error).__name__}: {error})"
            ) from error


def create_model(
    encoder: str = "mobilenetv2_ca_100",
    num_classes: int = 21,
    output_stride: int = 16,
    atrous_rates: Sequence[int] | None = None,
    aspp_dropout: float | None = None,
    *,
    decoder: str = "deeplabv3",
    reduction: int | None = None,
    encoder_weights: str | None = None,
    offline: bool = False,
    labels: LabelSet | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SegmentationModel:
    """DeepLabV3 with depthwise separable 3x3 convolutions in its ASPP, or another smp decoder.

    The ASPP reads the encoder's last feature before its classifier (320 channels for MobileNetV2,
    as DeepLab's own). Where a stage loses its stride, its first block keeps the former dilation and
    the blocks after it take the new one: timm's rule, which keeps each kernel's receptive field.

    Args:
        encoder: a timm name; ours are family_attention_width.
        num_classes: K.
        output_stride: of the encoder: 16 or 8; pan takes 16 or 32, unet and fpn 32.
        atrous_rates: three ASPP rates; (6, 12, 18) at stride 16 and (12, 24, 36) at 8 unless given.
        aspp_dropout: probability of dropping a channel's value after the ASPP's projection; 0.1
            unless given, as in DeepLab's own code.
        decoder: deeplabv3, deeplabv3plus, unet, fpn or pan, as smp has them.
        reduction: of the encoder's attention; its own default unless given.
        encoder_weights: None to start at random; "imagenet" for the authors' weights
            (mobilenetv2_ca_100), timm's, or for an attention without weights of its own those of
            the plain encoder, with a warning that names what is new; or the path of a file.
        offline: take weights from the cache alone.
        labels: names, colours and mask values of the classes; numbered ones unless given.
        mean, std: what `normalize` subtracts and divides by, for images in 0..1; unless given, what
            the encoder's weights were trained with, ImageNet's where nothing says otherwise.

    Returns:
        A model in training mode: (N, 3, H, W) float32 -> (N, K, H, W) float32 logits.

    Raises:
        UserError: unknown encoder or decoder, a stride or setting that it can't take, labels of
            another number, weights that don't exist, don't fit or can't be fetched.
    """
    settings = decoder_settings(decoder, output_stride, atrous_rates, aspp_dropout)
    if num_classes < 1:
        raise UserError(f"num_classes: found {num_classes}, expected at least 1")
    labels = labels or numbered(num_classes)
    if len(labels) != num_classes:
        raise UserError(f"num_classes is {num_classes}, but {len(labels)} labels were given")
    squeeze = check_encoder(encoder, reduction)
    try:
        net = build(encoder, num_classes, settings, **squeeze)
    except Exception as error:
        raise UserError(
            f"encoder {encoder!r} can't be built at output stride {output_stride} for {decoder} "
            f"({type(error).__name__}: {error}). Choose a backbone that gives features at several "
            "strides, mobilenetv2_* say."
        ) from error
    report = None
    usual = normalisation(encoder)
    if encoder_weights is not None:
        report = start(net.encoder, encoder, encoder_weights, offline=offline)
        usual = report.normalisation or usual
        if report.new:
            warnings.warn(str(report), stacklevel=2)
    mean, std = (own if given is None else given for given, own in zip((mean, std), usual))
    spec = {"encoder": encoder, "reduction": reduction, "num_classes": num_classes, **settings}
    model = SegmentationModel(net, spec, labels, mean, std)
    model.started = report
    return model


def check_encoder(encoder: str, reduction: int | None) -> dict[str, int]:
    """The keywords that make an encoder with this reduction.

    Raises:
        UserError: an encoder that timm doesn't know, or that takes no reduction.
    """
    known = timm.list_models()
    if encoder not in known:
        near = difflib.get_close_matches(encoder, known, n=3, cutoff=0.5)
        hint = f"the nearest are {', '.join(near)}" if near else "segcoord models has the names"
        raise UserError(
            f"encoder: found {encoder!r}, which neither segcoord nor timm knows; {hint}"
        )
    if reduction is None:
        return {}
    if "reduction" not in inspect.signature(timm.models.model_entrypoint(encoder)).parameters:
        raise UserError(
            f"reduction: found {reduction}, but {encoder} has no attention of ours that takes it"
        )
    if reduction < 1:
        raise UserError(f"reduction: found {reduction}, expected at least 1")
    return {"reduction": reduction}


def normalisation(encoder: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation per channel, of images in 0..1, of an encoder's weights."""
    cfg = timm.models.get_pretrained_cfg(encoder)
    return (cfg.mean, cfg.std) if cfg else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


from_pretrained = SegmentationModel.from_pretrained
