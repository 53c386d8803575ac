"""`create_model`: from the name of an encoder to a network with its weights."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Sequence

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import segcoord.models.encoders  # noqa: F401  (registers our encoders in timm)
from segcoord.config.decoders import decoder_settings
from segcoord.data.labels import LabelSet, numbered_labels
from segcoord.models.decoders import build_network
from segcoord.models.encoders.pretrained import load_pretrained
from segcoord.models.segmentation import FORMAT, SegmentationModel
from segcoord.utils.errors import UserError

SPEC = {
    *("encoder", "reduction", "num_classes", "decoder", "output_stride"),
    *("atrous_rates", "aspp_dropout"),
}
"""The arguments of `create_model` that a file may give: none that reads another file."""


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
    labels = labels or numbered_labels(num_classes)
    if len(labels) != num_classes:
        raise UserError(f"num_classes is {num_classes}, but {len(labels)} labels were given")
    squeeze = encoder_kwargs(encoder, reduction)
    try:
        net = build_network(encoder, num_classes, settings, **squeeze)
    except Exception as error:
        raise UserError(
            f"encoder {encoder!r} can't be built at output stride {output_stride} for {decoder} "
            f"({type(error).__name__}: {error}). Choose a backbone that gives features at several "
            "strides, mobilenetv2_* say."
        ) from error
    report = None
    usual = normalization(encoder)
    if encoder_weights is not None:
        report = load_pretrained(net.encoder, encoder, encoder_weights, offline=offline)
        usual = report.normalisation or usual
        if report.new:
            warnings.warn(str(report), stacklevel=2)
    mean, std = (own if given is None else given for given, own in zip((mean, std), usual))
    spec = {"encoder": encoder, "reduction": reduction, "num_classes": num_classes, **settings}
    model = SegmentationModel(net, spec, labels, mean, std)
    model.started = report
    return model


def model_from_dict(description: dict) -> SegmentationModel:
    """The model that `SegmentationModel.to_dict` describes, with random weights.

    Raises:
        UserError: not such a description, or one that holds more than an architecture.
    """
    try:
        unknown = description["spec"].keys() - SPEC
        if description["format"] != FORMAT or unknown:
            found = ", ".join(sorted(unknown)) or description["format"]
            raise UserError(f"found {found!r}, which this version of segcoord doesn't know")
        mean, std = (
            torch.tensor(description[name], dtype=torch.float32) for name in ("mean", "std")
        )
        if mean.shape != (3,) or std.shape != (3,) or not (mean.isfinite() & (std > 0)).all():
            raise UserError(
                f"mean {description['mean']} and std {description['std']}, expected three each"
            )
        return create_model(
            **description["spec"],
            labels=LabelSet.from_dict(description["labels"]),
            mean=description["mean"],
            std=description["std"],
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"a damaged description of a model ({type(error).__name__}: {error})"
        ) from error


def encoder_kwargs(encoder: str, reduction: int | None) -> dict[str, int]:
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


def normalization(encoder: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation per channel, of images in 0..1, of an encoder's weights."""
    cfg = timm.models.get_pretrained_cfg(encoder)
    return (cfg.mean, cfg.std) if cfg else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
