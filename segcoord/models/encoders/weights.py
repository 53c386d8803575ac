"""Loads pretrained weights into encoders: maps names, checks every tensor, copies.

Sources are the authors' MobileNetV2 with coordinate attention, timm's weights of encoders without
it, and files. Code in a file is never run.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from torch import Tensor, nn

from segcoord.models.encoders.download_weights import USE_LOCAL_FILE
from segcoord.models.encoders.identity_gates import initialize_gates
from segcoord.models.state_dict import (
    first_sentence,
    model_description,
    read_state_dict,
    read_weights_file,
)
from segcoord.utils.errors import UserError
from segcoord.utils.text import join_first

# Modules of the authors' mbv2_ca.py -> modules of timm. The authors number the layers of a block,
# activations included; 6 is the attention, whose parts have the same names in both.
_OUTSIDE_BLOCKS = {
    "features.0.0": "conv_stem",
    "features.0.1": "bn1",
    "conv.0": "conv_head",
    "conv.1": "bn2",
    "classifier.1": "classifier",
}
_FIRST_BLOCK = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}  # does not expand
_BLOCK = {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "7": "conv_pwl", "8": "bn3"}
_BLOCK |= {f"6.{part}": f"se.{part}" for part in ("conv1", "bn1", "conv2", "conv3")}
_REPEATS = (1, 2, 3, 4, 3, 3, 1)  # blocks per stage: MobileNetV2, table 2


def _tensors_of(module: str) -> tuple[str, ...]:
    """Names of the tensors of a timm module."""
    if module.rpartition(".")[2].startswith("bn"):
        return ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return ("weight", "bias") if "se." in module or module == "classifier" else ("weight",)


def authors_to_timm_names() -> dict[str, str]:
    """Name of each tensor in the authors' file -> its name in mobilenetv2_ca_*."""
    modules = dict(_OUTSIDE_BLOCKS)
    blocks = [f"blocks.{s}.{b}" for s, repeats in enumerate(_REPEATS) for b in range(repeats)]
    for k, block in enumerate(blocks, start=1):  # features.0 is the stem
        layers = _FIRST_BLOCK if k == 1 else _BLOCK
        modules |= {f"features.{k}.conv.{i}": f"{block}.{module}" for i, module in layers.items()}
    return {f"{a}.{leaf}": f"{b}.{leaf}" for a, b in modules.items() for leaf in _tensors_of(b)}


def timm_state_dict(name: str, *, offline: bool = False) -> dict[str, Tensor]:
    """ImageNet weights of one of timm's encoders, with the classifier, on the CPU.

    timm downloads them to the cache of Hugging Face or PyTorch.

    Args:
        name: a timm name, for example "mobilenetv2_100".
        offline: don't use the network.

    Raises:
        UserError: timm has no weights, they are not cached and offline, or the download fails.
    """
    cfg = timm.models.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        raise UserError(f"encoder_weights: timm has no weights for {name!r}; {USE_LOCAL_FILE}")
    home = f"https://huggingface.co/{cfg.hf_hub_id}" if cfg.hf_hub_id else cfg.url
    remedy = f"or download them from {home} yourself and {USE_LOCAL_FILE}"
    hub_file, overlay = (cfg.hf_hub_id, "model.safetensors"), {}
    if offline:
        # Not hf_hub_download(local_files_only=True): timm would still send other requests.
        cached = try_to_load_from_cache(*hub_file) if cfg.hf_hub_id else None
        if not isinstance(cached, str):  # None, or a sentinel for a file known not to exist
            raise UserError(
                f"the weights of {name!r} are not in the Hugging Face cache, and --offline is set. "
                f"Run once without it, {remedy}."
            )
        overlay = {"file": cached}
    try:
        if cfg.hf_hub_id and not offline:
            overlay = {"file": hf_hub_download(*hub_file)}
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # of the Hub's client, its HTTP library or PyTorch
        raise UserError(
            f"the weights of {name!r} could not be downloaded or loaded ({first_sentence(error)}). "
            f"Check the network, {remedy}."
        ) from error
    return model.state_dict()


@dataclass(frozen=True)
class LoadReport:
    """Which tensors were loaded; missing `num_batches_tracked` buffers are not listed."""

    source: str  # path or name of the weights
    matched: list[str]  # tensors that were copied
    new: list[str]  # the other tensors of the encoder or model
    unused: list[str]  # tensors in the file only, by their names there
    normalization: tuple[list[float], list[float]] | None = None  # the file's mean and std
    # Tensors in `new` of attention with constant gates, see `initialize_gates`; the rest is random.
    identity: list[str] = field(default_factory=list)
    mean_gates: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Counts new attention with constant gates and lists every random tensor."""
        text = f"{self.source}: {len(self.matched)} tensors loaded"
        if self.unused:
            text += f"; {len(self.unused)} in the file are unused ({join_first(self.unused, 4)})"
        if self.identity:
            text += (
                f"; {len(_by_block(self.identity))} attention blocks are new and begin as the "
                "identity: the encoder computes the same as without attention"
            )
        if self.mean_gates:
            text += (
                f"; {len(_by_block(self.mean_gates))} attention blocks are new and begin with "
                "constant gates, the estimated mean of the squeeze-and-excitation that they "
                "replace: the encoder does not compute the same as with it"
            )
        random = [n for n in self.new if n not in {*self.identity, *self.mean_gates}]
        if not random:
            return text
        lines = [f"  {b}: {', '.join(names)}" for b, names in _by_block(random).items()]
        return f"{text}; {len(random)} START AT RANDOM:\n" + "\n".join(lines)


def _by_block(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of tensors by attention block ("elsewhere" for the others), without its name."""
    blocks: dict[str, list[str]] = {}
    for name in names:
        block, _, rest = re.fullmatch(r"((?:.*\.)?(?:se|att)|)(\.?)(.*?)", name).groups()
        blocks.setdefault(block or "elsewhere", []).append(rest)
    return blocks


def load_encoder(
    model: nn.Module, tensors: dict[str, Tensor], source: str | Path = "the weights"
) -> LoadReport:
    """Copies weights of the same architecture into an encoder; all of them or none.

    Every tensor of the encoder must be present with its shape. Exceptions are a classifier that is
    missing completely, and `num_batches_tracked`, which old files lack. Further tensors must belong
    to the architecture, for example the head, which an encoder for segmentation lacks.

    Args:
        model: a timm model, with its classifier or `features_only`, or smp's encoder around one.
        tensors: by timm's names, or by those of the authors' mbv2_ca.pth.
        source: of the weights, for messages.

    Raises:
        UserError: tensors that are missing, unknown, of another shape or not finite.
    """
    return _copy(timm_network(model), tensors, str(source))


def load_without_attention(
    model: nn.Module, tensors: dict[str, Tensor], source: str | Path = "the weights"
) -> LoadReport:
    """Copies weights of the architecture without, or with another, attention into an encoder.

    As `load_encoder`, except for the attention: the encoder's is `new`, see `initialize_gates`, and
    the file's, such as EfficientNet's squeeze-and-excitation, is `unused`.

    Raises:
        UserError: as `load_encoder`.
    """
    net = timm_network(model)
    return _copy(net, tensors, str(source), _attention_prefixes(net))


def load_weights_file(model: nn.Module, path: str | Path) -> LoadReport:
    """Copies the weights of a file into an encoder, with the attention if the file has any of it.

    Raises:
        UserError: as `read_state_dict`, `load_encoder`, `load_without_attention` and
            `require_whole_attention`.
    """
    tensors = read_state_dict(path)
    net = timm_network(model)
    attention = _attention_prefixes(net)
    given = {n for n, name in _names_in_file(net, tensors).items() if name in tensors}
    has_attention = any(n.startswith(attention) and n in given for n in net.state_dict())
    description = model_description(read_weights_file(Path(path)))
    found, expected = description.get("spec", {}).get("encoder"), net.pretrained_cfg["architecture"]
    if has_attention and found not in (None, expected):
        # X and Y attention have the same tensors with another meaning.
        raise UserError(f"{path}: found the weights of {found}, expected those of {expected}")
    require_whole_attention(net, given, path)
    report = _copy(net, tensors, str(path), () if has_attention else attention)
    if description:
        report = replace(report, normalization=(description["mean"], description["std"]))
    return report


def require_whole_attention(model: nn.Module, given: Collection[str], source: str | Path) -> None:
    """Checks that weights have every tensor of the attention, in every block, or none.

    Args:
        model: an encoder.
        given: names of the tensors in the weights, by timm's names. Those of another attention, in
            the same places, need only be the same in every block.
        source: of the weights, for messages.

    Raises:
        UserError: some of the tensors are missing.
    """
    net = timm_network(model)
    own = net.state_dict()
    blocks = [p for p in _attention_prefixes(net) if any(name.startswith(p) for name in own)]
    found = {name for name in given if name.startswith(tuple(blocks))}
    expected = [name for name in own if name.startswith(tuple(blocks))]
    if not found & own.keys():  # none, or another attention
        parts = sorted({n.removeprefix(p) for p in blocks for n in found if n.startswith(p)})
        expected = [f"{block}{part}" for block in blocks for part in parts]
    expected = [name for name in expected if not name.endswith("num_batches_tracked")]
    missing = [name for name in expected if name not in found]
    if found and missing:
        raise UserError(
            f"{source}: found a part of the attention: {len(missing)} of its {len(expected)} "
            f"tensors are missing or of another shape ({join_first(missing, 4)}); expected all or "
            "none. Use the complete file, choose the encoder and the reduction of the weights, or "
            "remove the tensors of the attention from the file, so that it is newly initialized."
        )


def _copy(
    net: nn.Module, tensors: dict[str, Tensor], source: str, attention: tuple[str, ...] = ()
) -> LoadReport:
    """Copies all tensors but those whose names start with one of `attention`."""
    architecture = net.pretrained_cfg["architecture"]
    own, names = net.state_dict(), _names_in_file(net, tensors)
    given = {n: tensors[name] for n, name in names.items() if name in tensors}  # by our names
    matched = {n: given[n] for n in own if n in given and not n.startswith(attention)}
    new = [n for n in own if n not in matched and not n.endswith("num_batches_tracked")]
    unused = {*tensors} - {names[n] for n in matched}

    may_be_new = attention + _missing_classifier(net, given)
    with torch.device("meta"):  # names only: no memory, no random numbers
        complete = timm.create_model(architecture).state_dict()
    may_be_unused = {names[n] for n in given if n in complete or n.startswith(attention)}
    wrong = {
        "missing": [names.get(n, n) for n in new if not n.startswith(may_be_new)],
        "unknown": sorted(unused - may_be_unused),
        "of another shape": [
            f"{names[n]}: {tuple(t.shape)}, not {tuple(own[n].shape)}"
            for n, t in matched.items()
            if t.shape != own[n].shape
        ],
        "not finite": [
            names[n]
            for n, t in given.items()
            if (n in matched or n.startswith(attention)) and not t.isfinite().all()
        ],
    }
    if any(wrong.values()):
        found = "; ".join(f"{len(n)} {kind} ({join_first(n, 4)})" for kind, n in wrong.items() if n)
        raise UserError(
            f"{source}: the tensors don't match {architecture}: {found}. Nothing was loaded. "
            "Choose the encoder and the reduction of the weights."
        )
    net.load_state_dict(matched, strict=False)
    identity, mean_gates = initialize_gates(net, new, given)
    unused_names = [name for name in tensors if name in unused]
    return LoadReport(source, [*matched], new, unused_names, None, identity, mean_gates)


def _names_in_file(net: nn.Module, tensors: Iterable[str]) -> dict[str, str]:
    """Maps the names in `net` to those in the file: the authors' or timm's."""
    to_timm = authors_to_timm_names()
    if 2 * sum(name in to_timm for name in tensors) > len(tensors):  # tolerates a few wrong names
        return {timm_name: name for name, timm_name in to_timm.items()}
    # timm's features_only may flatten one level: stages.0 becomes stages_0.
    flat = {name: name.replace(".", "_", 1) for name in tensors}
    parts = {part for part, _ in net.named_children()}
    return {f if f.partition(".")[0] in parts else name: name for name, f in flat.items()}


def timm_network(model: nn.Module) -> nn.Module:
    """The timm network inside smp's encoders and some of timm's wrappers, which call it `model`."""
    while isinstance(inner := getattr(model, "model", None), nn.Module):
        model = inner
    return model


def _attention_prefixes(net: nn.Module) -> tuple[str, ...]:
    """Name prefix of each attention block: "blocks.1.0.se." in timm, ".att." in MobileNeXt."""
    paths = [path for path, _ in net.named_modules()]
    prefixes = tuple(f"{path}." for path in paths if path.endswith((".se", ".att")))
    return prefixes if any(name.startswith(prefixes) for name in net.state_dict()) else ()


def _missing_classifier(net: nn.Module, given: Iterable[str]) -> tuple[str, ...]:
    """Name prefixes of the classifier of `net`; empty if the file has any of its tensors."""
    paths = net.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{path}." for path in ((paths,) if isinstance(paths, str) else paths))
    return () if any(name.startswith(prefixes) for name in given) else prefixes
