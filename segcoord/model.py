"""The network: smp's DeepLabV3 with a separable ASPP on one of our encoders; how it is saved.

Shapes: N batch, K classes, H and W of the image, s the output stride.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

import segcoord.encoders  # noqa: F401  (registers our backbones in timm)
from segcoord.errors import UserError
from segcoord.files import atomic_write
from segcoord.labels import LabelSet, numbered

ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Output stride -> ASPP rates: DeepLabV3 (Chen et al. 2017), section 3.3 and table 5."""

FORMAT = "segcoord-1"


class SegmentationModel(nn.Module):
    """An smp network with all that is needed to use it: labels, normalisation, any image size.

    Args:
        net: (N, 3, H, W) -> (N, K, H/s, W/s) for H and W that s divides.
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
        super().__init__()
        self.net = net
        self.spec = spec
        self.labels = labels
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def output_stride(self) -> int:
        return self.spec["output_stride"]

    def normalize(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32 as the network wants it, channels_last."""
        x = images.permute(0, 3, 1, 2).to(self.mean.dtype)
        return x.sub_(self.mean * 255).div_(self.std * 255)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of exactly the input's size.

        Args:
            x: (N, 3, H, W) float32, normalised; any H and W from 1 up. Inside, it is padded at the
                right and at the bottom with zeros, which is the mean colour, to what s divides.

        Returns:
            (N, K, H, W) float32 logits: the network's, upsampled with align_corners=False.
        """
        h, w = x.shape[-2:]
        s = self.output_stride
        x = F.pad(x, (0, -w % s, 0, -h % s))  # (N, 3, H', W')
        logits = self.net(x)  # (N, K, H'/s, W'/s)
        logits = F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :h, :w]

    def to_plain(self) -> dict:
        """Architecture, labels and normalisation in plain types; `from_plain` rebuilds from it."""
        return {
            "format": FORMAT,
            "spec": self.spec | {"atrous_rates": list(self.spec["atrous_rates"])},
            "labels": self.labels.to_plain(),
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }

    @classmethod
    def from_plain(cls, plain: dict) -> SegmentationModel:
        return create_model(
            **plain["spec"],
            labels=LabelSet.from_plain(plain["labels"]),
            mean=plain["mean"],
            std=plain["std"],
        )


def create_model(
    encoder: str = "mobilenetv2_ca_100",
    num_classes: int = 21,
    output_stride: int = 16,
    atrous_rates: Sequence[int] | None = None,
    aspp_dropout: float = 0.1,
    *,
    reduction: int | None = None,
    encoder_weights: str | None = None,
    labels: LabelSet | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> SegmentationModel:
    """DeepLabV3 with depthwise separable 3x3 convolutions in its ASPP.

    The ASPP reads the encoder's last feature before its classifier (320 channels for MobileNetV2,
    as DeepLab's own). Where a stage loses its stride, its first block keeps the former dilation and
    the blocks after it take the new one: timm's rule, which keeps each kernel's receptive field.

    Args:
        encoder: a timm name; ours are family_attention_width.
        num_classes: K.
        output_stride: 16 or 8.
        atrous_rates: three ASPP rates; (6, 12, 18) at stride 16 and (12, 24, 36) at 8 unless given.
        aspp_dropout: probability of dropping a channel's value after the ASPP's projection; 0.1 as
            in DeepLab's own code (tensorflow/models, deeplab/model.py: keep_prob=0.9).
        reduction: of the encoder's attention; its own default unless given.
        encoder_weights: None to start at random, "imagenet" to fetch the weights that timm names.
        labels: names, colours and mask values of the classes; numbered ones unless given.
        mean, std: what `normalize` subtracts and divides by, for images in 0..1; unless given, what
            timm names for the encoder's weights, else ImageNet's.

    Returns:
        A model in training mode: (N, 3, H, W) float32 -> (N, K, H, W) float32 logits.

    Raises:
        UserError: unknown encoder, a stride other than 8 and 16, rates that aren't three positive
            integers, labels of another number, weights that don't exist or can't be fetched.
    """
    if output_stride not in ATROUS_RATES:
        raise UserError(f"output_stride: found {output_stride}, expected 16 or 8")
    rates = tuple(atrous_rates or ATROUS_RATES[output_stride])
    if len(rates) != 3 or not all(isinstance(r, int) and r > 0 for r in rates):
        raise UserError(f"atrous_rates: found {list(rates)}, expected three integers above 0")
    if num_classes < 1:
        raise UserError(f"num_classes: found {num_classes}, expected at least 1")
    labels = labels or numbered(num_classes)
    if len(labels) != num_classes:
        raise UserError(f"num_classes is {num_classes}, but {len(labels)} labels were given")
    _check_encoder(encoder, encoder_weights, reduction)
    try:
        net = smp.DeepLabV3(
            f"tu-{encoder}",
            encoder_weights=encoder_weights,
            encoder_output_stride=output_stride,
            decoder_atrous_rates=rates,
            decoder_aspp_separable=True,
            decoder_aspp_dropout=aspp_dropout,
            classes=num_classes,
            upsampling=1,  # one upsampling rule, ours
            **({} if reduction is None else {"reduction": reduction}),
        )
    except Exception as error:
        if encoder_weights:
            why = f"the weights of encoder {encoder!r} could not be fetched or loaded"
            fix = "Check the network, or set encoder_weights to null to start at random."
        else:
            why = f"encoder {encoder!r} can't be built at output stride {output_stride}"
            fix = "Choose a backbone that gives features at several strides, mobilenetv2_* say."
        raise UserError(f"{why} ({type(error).__name__}: {error}). {fix}") from error
    net.initialize()  # smp initialises every decoder's weights but DeepLab's
    spec = {
        "encoder": encoder,
        "reduction": reduction,
        "num_classes": num_classes,
        "output_stride": output_stride,
        "atrous_rates": rates,
        "aspp_dropout": aspp_dropout,
    }
    cfg = timm.models.get_pretrained_cfg(encoder)
    mean = mean or (cfg.mean if cfg else IMAGENET_DEFAULT_MEAN)
    std = std or (cfg.std if cfg else IMAGENET_DEFAULT_STD)
    return SegmentationModel(net, spec, labels, mean, std)


def _check_encoder(encoder: str, weights: str | None, reduction: int | None) -> None:
    known = timm.list_models()
    if encoder not in known:
        near = difflib.get_close_matches(encoder, known, n=3, cutoff=0.5)
        hint = f"the nearest are {', '.join(near)}" if near else "timm.list_models() has all names"
        raise UserError(
            f"encoder: found {encoder!r}, which neither segcoord nor timm knows; {hint}"
        )
    takes = inspect.signature(timm.models.model_entrypoint(encoder)).parameters
    if reduction is not None and "reduction" not in takes:
        raise UserError(
            f"reduction: found {reduction}, but {encoder} has no attention of ours that takes it"
        )
    if reduction is not None and reduction < 1:
        raise UserError(f"reduction: found {reduction}, expected at least 1")
    if weights not in (None, "imagenet"):
        raise UserError(f"encoder_weights: found {weights!r}, expected imagenet or null")
    cfg = timm.models.get_pretrained_cfg(encoder)
    if weights and not (cfg and cfg.has_weights):
        raise UserError(
            f"encoder_weights: there are no ImageNet weights for {encoder!r}. Set encoder_weights "
            "to null and start from a checkpoint with --init-from, or from random weights."
        )


def save(model: SegmentationModel, path: str | Path, **extra: object) -> None:
    """Writes weights, architecture, labels and normalisation to one file, atomically.

    Args:
        model: its weights are written as they are.
        path: by custom `*.ckpt`.
        extra: further entries of tensors and plain types, a training run's state say.
    """
    with atomic_write(path) as temporary:
        content = {"model": model.to_plain(), "state_dict": model.state_dict(), **extra}
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # how PyTorch's writer tells of a full disk
            raise OSError(str(error).splitlines()[0]) from error


def read_checkpoint(path: str | Path) -> dict:
    """What `save` wrote: tensors and plain types; no code of the file is ever run.

    Raises:
        UserError: no such file, or not a checkpoint of segcoord.
    """
    path = Path(path)
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.glob("*.ckpt"))) or "no *.ckpt"
        raise UserError(f"{path}: a folder, expected a checkpoint file; it holds {inside}")
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint. Give the path of a best.ckpt or last.ckpt.")
    checkpoint = _unpickle(path)
    described = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        keys = list(checkpoint)[:4] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise UserError(
            f"{path}: not a checkpoint of segcoord (it holds {keys}). "
            "Weights from elsewhere can start a training: train.py --init-from FILE."
        )
    missing = {"spec", "labels", "mean", "std"} - described.keys()
    if missing or not isinstance(checkpoint.get("state_dict"), dict):
        lacking = ", ".join(sorted(missing)) or "weights"
        raise UserError(f"{path}: a damaged checkpoint of segcoord, which lacks {lacking}")
    return checkpoint


def _unpickle(path: Path) -> object:
    """Tensors and plain types of a file; whatever else is in it is refused, not run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign file fails in the unpickler in any way
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: not a PyTorch file that is whole and safe to load ({first})"
        ) from error


def load(path: str | Path, device: str | torch.device = "cpu") -> SegmentationModel:
    """The model of a checkpoint, rebuilt from the file alone, in eval mode, channels_last.

    Raises:
        UserError: no such file, not a checkpoint of segcoord, or weights that don't fit.
    """
    checkpoint = read_checkpoint(path)
    model = SegmentationModel.from_plain(checkpoint["model"])
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{path}: its weights don't fit its own architecture: {error}") from error
    return model.to(device, memory_format=torch.channels_last).eval()


def init_from(model: nn.Module, path: str | Path) -> list[str]:
    """Copies every tensor of a checkpoint whose name and shape fit, as a start for training.

    Takes checkpoints of `save` and plain state dicts, also below a `state_dict` key.

    Returns:
        One line for each tensor that did not fit, or that the file lacks; empty if all fitted.

    Raises:
        UserError: no such file, no tensors in it, or not one that fits.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file to start from")
    loaded = _unpickle(path)
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    tensors = {k: v for k, v in loaded.items() if isinstance(v, Tensor)}
    own = model.state_dict()
    fits = {k: v for k, v in tensors.items() if k in own and v.shape == own[k].shape}
    if not fits:
        raise UserError(
            f"{path}: none of its {len(tensors)} tensors fits the model; "
            f"the file has {list(tensors)[:2]}, the model {list(own)[:2]}"
        )
    model.load_state_dict(fits, strict=False)
    lines = []
    for name in sorted({*own, *tensors} - {*fits}):
        there = tuple(tensors[name].shape) if name in tensors else "absent"
        here = tuple(own[name].shape) if name in own else "absent"
        lines.append(f"{name}: {there} in the file, {here} in the model")
    return lines
