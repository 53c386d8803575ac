"""`create_model`: builds a segmentation model from the name of an encoder."""

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
from segcoord.models.encoders.initial_weights import load_pretrained
from segcoord.models.segmentation import FORMAT, SegmentationModel
from segcoord.utils.errors import UserError

SPEC = {
    *("encoder", "reduction", "num_classes", "decoder", "output_stride"),
    *("atrous_rates", "aspp_dropout"),
}
"""Arguments of `create_model` allowed in a file; none of them reads another file."""


def create_model(
    encoder: str = "mobilenetv2_ca_100",
    num_classes: int = 21,
    output_stride: int | None = None,
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
    """Creates DeepLabV3 with depthwise separable convolutions in the ASPP, or another decoder.

    The ASPP takes the last feature before the encoder's classifier (320 channels for MobileNetV2,
    as in DeepLab's code). In a stage whose stride is replaced by dilation, the first block keeps
    the previous dilation, as in timm; this preserves the receptive field of each kernel.

    Args:
        encoder: timm name; segcoord's are family_attention_width.
        num_classes: K.
        output_stride: of the encoder: 16 or 8; 16 or 32 for pan, 32 for unet, fpn and light;
            default: the first of these.
        atrous_rates: three ASPP rates; default (6, 12, 18) at stride 16, (12, 24, 36) at 8.
        aspp_dropout: dropout probability after the ASPP's projection; default 0.1, as in DeepLab's
            code.
        decoder: deeplabv3, deeplabv3plus, unet, fpn, pan or light.
        reduction: of the encoder's attention; default of the encoder.
        encoder_weights: None for random weights; the path of a file; or "imagenet" for the
            authors' weights (mobilenetv2_ca_100), timm's, or, for an attention without published
            weights, those of the encoder without attention. New attention begins as the identity
            (see docs/weights.md for EfficientNet). A warning reports what is new.
        offline: read weights from the cache only.
        labels: names, colors and mask values of the classes; default: numbers.
        mean, std: what `normalize` subtracts and divides by, per channel, for images in 0..1;
            default: those of the encoder weights, or ImageNet's.

    Returns:
        A model in training mode: (N, 3, H, W) float32 -> (N, K, H, W) float32 logits.

    Raises:
        UserError: unknown encoder or decoder, an unsupported stride or setting, a wrong number of
            labels, or weights that don't exist, don't match or can't be downloaded.
    """
    settings = decoder_settings(decoder, output_stride, atrous_rates, aspp_dropout)
    if num_classes < 1:
        raise UserError(f"num_classes: found {num_classes}, expected at least 1")
    labels = labels or numbered_labels(num_classes)
    if len(labels) != num_classes:
        raise UserError(f"labels: found {len(labels)} labels, expected num_classes = {num_classes}")
    kwargs = encoder_kwargs(encoder, reduction)
    try:
        net = build_network(encoder, num_classes, settings, **kwargs)
    except Exception as error:
        raise UserError(
            f"encoder {encoder!r} can't be built at output stride {settings['output_stride']} for "
            f"{decoder} "
            f"({type(error).__name__}: {error}). Choose a backbone with features at strides "
            "4, 8, 16 and 32, for example mobilenetv2_*."
        ) from error
    report = None
    default_mean, default_std = normalization(encoder)
    if encoder_weights is not None:
        report = load_pretrained(net.encoder, encoder, encoder_weights, offline=offline)
        default_mean, default_std = report.normalization or (default_mean, default_std)
        if report.new:
            warnings.warn(str(report), stacklevel=2)
    mean = default_mean if mean is None else mean
    std = default_std if std is None else std
    spec = {"encoder": encoder, "reduction": reduction, "num_classes": num_classes, **settings}
    model = SegmentationModel(net, spec, labels, mean, std)
    model.load_report = report
    return model


def model_from_dict(description: dict) -> SegmentationModel:
    """Rebuilds a model from `SegmentationModel.to_dict`, with random weights.

    Raises:
        UserError: an invalid description, or one with more than an architecture.
    """
    try:
        unknown = description["spec"].keys() - SPEC
        if description["format"] != FORMAT or unknown:
            found = ", ".join(sorted(unknown)) or description["format"]
            raise UserError(f"found {found!r}, which this version of segcoord does not support")
        mean, std = (
            torch.tensor(description[name], dtype=torch.float32) for name in ("mean", "std")
        )
        if mean.shape != (3,) or std.shape != (3,) or not (mean.isfinite() & (std > 0)).all():
            raise UserError(
                f"found mean {description['mean']} and std {description['std']}, expected three "
                "numbers each, std above 0"
            )
        return create_model(
            **description["spec"],
            labels=LabelSet.from_dict(description["labels"]),
            mean=description["mean"],
            std=description["std"],
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"damaged model description ({type(error).__name__}: {error})") from error


def encoder_kwargs(encoder: str, reduction: int | None) -> dict[str, int]:
    """Keyword arguments for the encoder's entrypoint in timm.

    Raises:
        UserError: an unknown encoder, or one that takes no reduction.
    """
    known = timm.list_models()
    if encoder not in known:
        similar = difflib.get_close_matches(encoder, known, n=3, cutoff=0.5)
        hint = f"the nearest are {', '.join(similar)}" if similar else "segcoord models lists them"
        raise UserError(f"encoder: found {encoder!r}, expected a name of segcoord or timm; {hint}")
    if reduction is None:
        return {}
    if "reduction" not in inspect.signature(timm.models.model_entrypoint(encoder)).parameters:
        raise UserError(
            f"reduction: found {reduction}, but {encoder} has no attention with a reduction"
        )
    if reduction < 1:
        raise UserError(f"reduction: found {reduction}, expected at least 1")
    return {"reduction": reduction}


def normalization(encoder: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation per channel of an encoder's weights, for images in 0..1."""
    cfg = timm.models.get_pretrained_cfg(encoder)
    return (cfg.mean, cfg.std) if cfg else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
