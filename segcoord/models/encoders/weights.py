"""Weights from elsewhere, for an encoder to start from: fetched, read, renamed, copied.

Two sources: the MobileNetV2 with coordinate attention that the paper's authors publish, and what
timm has for encoders without it. A file is data: no code in it is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from torch import Tensor, nn

from segcoord.models.encoders.published import GIVE_BY_HAND
from segcoord.models.state_dict import (
    first_sentence,
    model_description,
    read_tensors,
    unpickle,
)
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

# The authors' mbv2_ca.py against timm's builder, module by module. In a block of theirs the layers
# are numbered, activations too; 6 is the attention, whose own names are the same in both.
_OUTSIDE = {"features.0.0": "conv_stem", "features.0.1": "bn1"}


_OUTSIDE |= {"conv.0": "conv_head", "conv.1": "bn2", "classifier.1": "classifier"}


_FIRST_BLOCK = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}  # does not expand
_BLOCK = {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "7": "conv_pwl", "8": "bn3"}


_BLOCK |= {f"6.{part}": f"se.{part}" for part in ("conv1", "bn1", "conv2", "conv3")}


_REPEATS = (1, 2, 3, 4, 3, 3, 1)  # blocks in each stage: MobileNetV2, table 2


def _leaves(module: str) -> tuple[str, ...]:
    """The tensors of one of our modules."""
    if module.rpartition(".")[2].startswith("bn"):
        return ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return ("weight", "bias") if "se." in module or module == "classifier" else ("weight",)


def authors_names() -> dict[str, str]:
    """The name of each tensor in the authors' file -> its name in mobilenetv2_ca_*."""
    modules = dict(_OUTSIDE)
    blocks = [f"blocks.{s}.{b}" for s, repeats in enumerate(_REPEATS) for b in range(repeats)]
    for k, block in enumerate(blocks, start=1):  # features.0 is the stem
        layers = _FIRST_BLOCK if k == 1 else _BLOCK
        modules |= {f"features.{k}.conv.{i}": f"{block}.{module}" for i, module in layers.items()}
    return {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in modules.items() for leaf in _leaves(b)}


def plain_tensors(name: str, *, offline: bool = False) -> dict[str, Tensor]:
    """The ImageNet weights of one of timm's own encoders, classifier included.

    timm knows where they are, and keeps them in the Hugging Face cache or in PyTorch's.

    Args:
        name: a timm name that has weights, "mobilenetv2_100" say.
        offline: never touch the network.

    Raises:
        UserError: no weights of that name, not in the cache while offline, or not to be had.
    """
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise UserError(f"encoder_weights: timm has no weights for {name!r}; {GIVE_BY_HAND}")
    home = f"https://huggingface.co/{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url
    by_hand = f"or download them from {home} by hand and {GIVE_BY_HAND}"
    hub, place = (cfg.hf_hub_id, "model.safetensors"), {}
    if offline:
        # Not hf_hub_download(local_files_only=True), which still asks the hub for other things.
        cached = try_to_load_from_cache(*hub) if cfg.hf_hub_id else None
        if not isinstance(cached, str):  # None, or a mark that the repository lacks it
            raise UserError(
                f"the weights of {name!r} are not in the Hugging Face cache, and --offline forbids "
                f"to fetch them. Run once without it, {by_hand}."
            )
        place = {"file": cached}
    try:
        if cfg.hf_hub_id and not offline:
            place = {"file": hf_hub_download(*hub)}
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=place)
    except Exception as error:  # the hub's, its HTTP library's, PyTorch's: of any type
        raise UserError(
            f"the weights of {name!r} could not be fetched or loaded ({first_sentence(error)}). "
            f"Check the network, {by_hand}."
        ) from error
    return model.state_dict()


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor, but for batch counters that the file lacks.

    matched: copied; new: left at its random start; unused: in the file only, by the file's name;
    normalisation: mean and standard deviation per channel, where the file says them.
    """

    source: str
    matched: list[str]
    new: list[str]
    unused: list[str]
    normalisation: tuple[list[float], list[float]] | None = None

    def __str__(self) -> str:
        """In full: exactly which tensors are new, those of one slot in a line."""
        text = f"{self.source}: {len(self.matched)} tensors loaded"
        if self.unused:
            text += f"; {len(self.unused)} in the file are not used ({join_first(self.unused, 4)})"
        if not self.new:
            return text
        slots: dict[str, list[str]] = {}
        for name in self.new:
            slot, _, rest = re.fullmatch(r"((?:.*\.)?(?:se|att)|)(\.?)(.*?)", name).groups()
            slots.setdefault(slot or "elsewhere", []).append(rest)
        lines = [f"  {slot}: {', '.join(rest)}" for slot, rest in slots.items()]
        return f"{text}; {len(self.new)} START AT RANDOM:\n" + "\n".join(lines)


def load_encoder(
    model: nn.Module, tensors: dict[str, Tensor], source: str | Path = "the weights"
) -> LoadReport:
    """Copies weights of the same architecture into an encoder, all of them or none.

    Each tensor of the encoder must be there in its shape, but for a classifier that is absent
    altogether, and norms' batch counters, which old files lack. What the file has beyond must be
    of the whole architecture, as the head is that an encoder for segmentation goes without.

    Args:
        model: a timm model, with its classifier or `features_only`, or smp's encoder around one.
        tensors: by timm's names, or by those of the authors' mbv2_ca.pth.
        source: where they come from, for messages.

    Raises:
        UserError: tensors that are missing, unknown or of another shape.
    """
    return _copy(_network(model), tensors, str(source), slots=())


def load_plain(
    model: nn.Module, tensors: dict[str, Tensor], source: str | Path = "the weights"
) -> LoadReport:
    """Copies the weights of the plain architecture into one with attention, which stays random.

    As `load_encoder`, but for what is in the attention's slots: there the encoder keeps its own
    (`new`), and what the file has is left (`unused`), as EfficientNet's squeeze-and-excitation is.

    Raises:
        UserError: as `load_encoder`.
    """
    net = _network(model)
    return _copy(net, tensors, str(source), slots=_slots(net))


def load_file(model: nn.Module, path: str | Path) -> LoadReport:
    """Copies a file's weights into an encoder: its attention's too if the file has any of them.

    Raises:
        UserError: as `read_tensors`, `load_encoder` and `load_plain`.
    """
    tensors = read_tensors(path)
    net = _network(model)
    slots = _slots(net)
    names = _file_names(net, tensors)
    attends = any(n.startswith(slots) and names.get(n) in tensors for n in net.state_dict())
    described = model_description(unpickle(Path(path)))
    theirs, ours = described.get("spec", {}).get("encoder"), net.pretrained_cfg["architecture"]
    if attends and theirs not in (None, ours):
        # X and Y attention have the same tensors, and mean other things by them.
        raise UserError(f"{path}: the weights of {theirs}, expected those of {ours}")
    report = _copy(net, tensors, str(path), () if attends else slots)
    if described:
        report = replace(report, normalisation=(described["mean"], described["std"]))
    return report


def _copy(
    net: nn.Module, tensors: dict[str, Tensor], source: str, slots: tuple[str, ...]
) -> LoadReport:
    architecture = net.pretrained_cfg["architecture"]
    own, names = net.state_dict(), _file_names(net, tensors)
    given = {n: tensors[name] for n, name in names.items() if name in tensors}
    fits = {n: given[n] for n in own if n in given and not n.startswith(slots)}
    new = [n for n in own if n not in fits and not n.endswith("num_batches_tracked")]
    unused = {*tensors} - {names[n] for n in fits}

    may_be_new = slots + _absent_classifier(net, given)
    with torch.device("meta"):  # for its names: no memory is taken, no random number drawn
        complete = timm.create_model(architecture).state_dict()
    may_be_unused = {names[n] for n in given if n in complete or n.startswith(slots)}
    wrong = {
        "missing": [names.get(n, n) for n in new if not n.startswith(may_be_new)],
        "unknown": sorted(unused - may_be_unused),
        "of another shape": [
            f"{names[n]}: {tuple(t.shape)}, not {tuple(own[n].shape)}"
            for n, t in fits.items()
            if t.shape != own[n].shape
        ],
        "not finite": [names[n] for n, t in fits.items() if not t.isfinite().all()],
    }
    if any(wrong.values()):
        found = "; ".join(f"{len(n)} {kind} ({join_first(n, 4)})" for kind, n in wrong.items() if n)
        raise UserError(
            f"{source}: the tensors are not those of {architecture}: {found}. "
            "Nothing was loaded. Choose the encoder, and the reduction, that the weights are of."
        )
    net.load_state_dict(fits, strict=False)
    return LoadReport(source, [*fits], new, [name for name in tensors if name in unused])


def _file_names(net: nn.Module, tensors: Iterable[str]) -> dict[str, str]:
    """Our name -> the name in a file like this one."""
    theirs = authors_names()
    if 2 * sum(name in theirs for name in tensors) > len(tensors):  # with a few wrong ones, still
        return {ours: name for name, ours in theirs.items()}
    # timm's features_only may flatten one level: stages.0 is stages_0 then.
    flat = {name: name.replace(".", "_", 1) for name in tensors}
    parts = {part for part, _ in net.named_children()}
    return {f if f.partition(".")[0] in parts else name: name for name, f in flat.items()}


def _network(model: nn.Module) -> nn.Module:
    """timm's network, which smp's encoders hold as `model`, as some of timm's wrappers do."""
    while isinstance(inner := getattr(model, "model", None), nn.Module):
        model = inner
    return model


def _slots(net: nn.Module) -> tuple[str, ...]:
    """The attention slot of each block, "blocks.1.0.se." say: `se` in timm, `att` in MobileNeXt."""
    paths = [path for path, _ in net.named_modules()]
    slots = tuple(f"{path}." for path in paths if path.endswith((".se", ".att")))
    return slots if any(name.startswith(slots) for name in net.state_dict()) else ()


def _absent_classifier(net: nn.Module, given: Iterable[str]) -> tuple[str, ...]:
    """The classifier that `net` has and the file has nothing of, as prefixes of names."""
    paths = net.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{path}." for path in ((paths,) if isinstance(paths, str) else paths))
    return () if any(name.startswith(prefixes) for name in given) else prefixes
