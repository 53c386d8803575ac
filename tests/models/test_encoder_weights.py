"""Pretrained weights: names, files, downloads, copying into encoders."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from zipfile import ZipFile

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from helpers import shaken
from safetensors.torch import save_file
from torch import Tensor, nn

import segcoord
from segcoord.models.encoders.weights import (
    authors_to_timm_names,
    load_encoder,
    load_weights_file,
    load_without_attention,
)
from segcoord.models.state_dict import read_state_dict
from segcoord.utils.errors import UserError

NAME = "mobilenetv2_ca_100"


HEAD = ("conv_head.", "bn2.", "classifier.")


class AuthorsAttention(nn.Module):
    """Coordinate attention as in the authors' code, with adaptive pools."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = max(8, channels // 32)
        self.conv1 = nn.Conv2d(channels, middle, 1)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, channels, 1)
        self.conv3 = nn.Conv2d(middle, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows = nn.AdaptiveAvgPool2d((None, 1))(x)
        columns = nn.AdaptiveAvgPool2d((1, None))(x).permute(0, 1, 3, 2)
        y = self.bn1(self.conv1(torch.cat([rows, columns], dim=2)))
        y = y * nn.functional.relu6(y + 3) / 6
        rows, columns = torch.split(y, [height, width], dim=2)
        gate_h = torch.sigmoid(self.conv2(rows)).expand_as(x)
        gate_w = torch.sigmoid(self.conv3(columns.permute(0, 1, 3, 2))).expand_as(x)
        return x * gate_w * gate_h


class AuthorsBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [] if expansion == 1 else [*conv_norm(inputs, hidden, 1), nn.ReLU6()]
        layers += [*conv_norm(hidden, hidden, 3, stride, hidden), nn.ReLU6()]
        layers += [] if expansion == 1 else [AuthorsAttention(hidden)]
        self.conv = nn.Sequential(*layers, *conv_norm(hidden, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class AuthorsNetwork(nn.Module):
    """MobileNetV2 with coordinate attention, with the module names of the authors' mbv2_ca.py."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
    STAGES += ((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))  # expansion, channels, blocks, stride

    def __init__(self) -> None:
        super().__init__()
        features = [nn.Sequential(*conv_norm(3, 32, 3, 2), nn.ReLU6())]
        channels = 32
        for expansion, outputs, blocks, stride in self.STAGES:
            for i in range(blocks):
                features.append(AuthorsBlock(channels, outputs, 1 if i else stride, expansion))
                channels = outputs
        self.features = nn.Sequential(*features)
        self.conv = nn.Sequential(*conv_norm(320, 1280, 1), nn.ReLU6())
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(self.features(x)).mean((2, 3)))


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def randomize(model: nn.Module) -> nn.Module:
    """Batch norms as after training; activations keep their scale."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked.fill_(1234)
    return shaken(model)


@pytest.fixture(scope="module")
def authors() -> nn.Module:
    torch.manual_seed(0)
    return randomize(AuthorsNetwork()).eval()


@pytest.fixture(scope="module")
def authors_tensors(authors: nn.Module) -> dict[str, Tensor]:
    return dict(authors.state_dict())


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(randomize(timm.create_model("mobilenetv2_100")).state_dict())


def smp_encoder(name: str = NAME) -> nn.Module:
    return smp.encoders.get_encoder(f"tu-{name}", weights=None, output_stride=16)


# Names and values


def test_the_name_table_covers_both_networks(authors_tensors: dict[str, Tensor]) -> None:
    own = timm.create_model(NAME).state_dict()
    table = authors_to_timm_names()
    assert table.keys() == authors_tensors.keys()
    assert {*table.values()} == own.keys()
    assert len(table) == len({*table.values()}) == 490
    # The table is derived from the architecture; the equal order of tensors is independent of it.
    assert [table[name] for name in authors_tensors] == list(own)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str
)
def test_the_authors_weights_give_the_authors_logits(
    authors: nn.Module, tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    torch.save(authors.state_dict(), tmp_path / "mbv2_ca.pth")
    ours = timm.create_model(NAME).to(dtype).eval()
    report = load_weights_file(ours, tmp_path / "mbv2_ca.pth")
    assert len(report.matched) == 490
    assert report.new == report.unused == []
    assert str(report) == f"{tmp_path / 'mbv2_ca.pth'}: 490 tensors loaded"
    reference = AuthorsNetwork().to(dtype).eval()
    reference.load_state_dict(authors.state_dict())
    x = torch.randn(2, 3, 64, 96, dtype=dtype)
    with torch.inference_mode():
        expected, found = reference(x), ours(x)
    assert expected.std() > 0.01
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_the_authors_weights_give_the_authors_gradients(authors: nn.Module) -> None:
    reference = AuthorsNetwork().double().train()
    reference.load_state_dict(authors.state_dict())
    ours = timm.create_model(NAME).double().train()
    load_encoder(ours, reference.state_dict())
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    for model in (reference, ours):
        model(x).square().mean().backward()
    table = authors_to_timm_names()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[table[name]], parameter.grad, rtol=1e-7, atol=1e-9)
    state = ours.state_dict()
    for name, tensor in reference.state_dict().items():  # running statistics
        torch.testing.assert_close(state[table[name]], tensor, rtol=1e-9, atol=1e-12)


def test_the_authors_weights_load_into_an_encoder_of_smp(
    authors_tensors: dict[str, Tensor],
) -> None:
    encoder = smp_encoder()
    report = load_encoder(encoder, authors_tensors)
    state = encoder.model.state_dict()
    assert report.matched == list(state)
    assert len(report.matched) == 482
    assert report.new == []
    assert [name.rpartition(".")[0] for name in report.unused] == [
        "conv.0",
        *["conv.1"] * 5,
        *["classifier.1"] * 2,
    ]
    table = authors_to_timm_names()
    used = {table[name]: t for name, t in authors_tensors.items() if name not in report.unused}
    assert all(torch.equal(state[name], tensor) for name, tensor in used.items())
    assert "482 tensors loaded; 8 in the file are unused (conv.0.weight, " in str(report)


def test_the_authors_weights_load_into_a_segmentation_model(
    authors_tensors: dict[str, Tensor],
) -> None:
    model = segcoord.create_model(NAME, 3)
    assert len(load_encoder(model.net.encoder, authors_tensors).matched) == 482


def test_files_without_batch_counters_load(authors_tensors: dict[str, Tensor]) -> None:
    old = {n: t for n, t in authors_tensors.items() if not n.endswith("num_batches_tracked")}
    model = timm.create_model(NAME)
    report = load_encoder(model, old)
    assert len(report.matched) == len(old) == 490 - 68
    assert report.new == report.unused == []
    assert model.bn1.num_batches_tracked == 0


MISMATCHES = {
    "lost": ("features.3.conv.6.conv3.bias", None, "1 missing (features.3.conv.6.conv3.bias)."),
    "half a classifier": ("classifier.1.bias", None, "1 missing (classifier.1.bias)."),
    "unknown": ("features.18.conv.0.weight", (3,), "1 unknown (features.18.conv.0.weight)."),
    "ours among theirs": ("conv_stem.weight", (32, 3, 3, 3), "1 unknown (conv_stem.weight)."),
    "reshaped": (
        "features.0.0.weight",
        (32, 1, 3, 3),
        "1 of another shape (features.0.0.weight: (32, 1, 3, 3), not (32, 3, 3, 3)).",
    ),
}


@pytest.mark.parametrize(("name", "shape", "message"), MISMATCHES.values(), ids=MISMATCHES)
def test_mismatched_tensors_are_refused_and_nothing_is_copied(
    authors_tensors: dict[str, Tensor], name: str, shape: tuple | None, message: str
) -> None:
    tensors = {n: t for n, t in authors_tensors.items() if n != name}
    if shape is not None:
        tensors[name] = torch.zeros(shape)
    models = [timm.create_model(NAME), smp_encoder()]
    for model in models[:1] if name.startswith("classifier") else models:
        before = {n: t.clone() for n, t in model.state_dict().items()}
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            load_encoder(model, tensors, "here.pth")
        assert str(caught.value).startswith("here.pth: ")
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("other", ["torchvision", "resnet18", "mobilenetv2_ca_050", "empty"])
def test_the_weights_of_another_network_are_refused(other: str) -> None:
    if other == "torchvision":
        tensors = torchvision.models.mobilenet_v2().state_dict()
    else:
        tensors = {} if other == "empty" else timm.create_model(other).state_dict()
    with pytest.raises(UserError, match=r"\d+ (missing|of another shape) .*Nothing was loaded"):
        load_encoder(smp_encoder(), tensors)


# Weights of the plain network


@pytest.mark.parametrize("load", [load_encoder, load_without_attention])
@pytest.mark.parametrize("head", [True, False])
def test_plain_weights_load_into_the_plain_network(
    plain: dict[str, Tensor], load: Callable, head: bool
) -> None:
    tensors = {n: t for n, t in plain.items() if head or not n.startswith("classifier")}
    model = timm.create_model("mobilenetv2_100")
    report = load(model, tensors)
    assert report.matched == list(tensors)
    assert report.new == ([] if head else ["classifier.weight", "classifier.bias"])
    assert report.unused == []
    assert all(torch.equal(model.state_dict()[n], t) for n, t in tensors.items())
    report = load(smp_encoder("mobilenetv2_100"), tensors)
    assert report.new == []
    assert len(report.unused) == (8 if head else 6)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "test_vit"])
def test_other_encoders_of_timm_load_their_weights(name: str) -> None:
    """timm wraps and renames them in different ways."""
    whole = timm.create_model(name)
    encoder = timm.create_model(name, features_only=True)
    report = load_encoder(encoder, whole.state_dict())
    assert report.new == []
    classifier = whole.pretrained_cfg["classifier"]
    assert {f"{classifier}.weight", f"{classifier}.bias"} <= {*report.unused}
    loaded_by_timm = timm.create_model(
        name,
        pretrained=True,
        features_only=True,
        pretrained_cfg_overlay={"state_dict": whole.state_dict()},
    )
    expected = loaded_by_timm.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in encoder.state_dict().items())


def test_an_encoder_with_attention_loads_weights_without_attention(
    plain: dict[str, Tensor],
) -> None:
    for model, unused in ((timm.create_model(NAME), 0), (smp_encoder(), 8)):
        net = getattr(model, "model", model)
        report = load_without_attention(model, plain)
        state = net.state_dict()
        attention = [n for n in state if ".se." in n and "num_batches" not in n]
        assert report.new == report.identity == attention
        assert len(report.new) == 16 * 10
        assert len(report.unused) == unused
        assert len(report.matched) == len(plain) - unused
        scaled = [n for n in report.matched if not torch.equal(state[n], plain[n])]
        assert len(scaled) == 16 and all(n.endswith("conv_pwl.weight") for n in scaled)
        with pytest.raises(UserError, match=f"{NAME}: 160 missing"):
            load_encoder(model, plain)


@pytest.mark.parametrize("change", ["missing", "unknown", "reshaped"])
def test_weights_without_attention_must_match_elsewhere(
    plain: dict[str, Tensor], change: str
) -> None:
    tensors = dict(plain)
    if change == "missing":
        del tensors["blocks.3.1.conv_pwl.weight"]
        message = r"1 missing \(blocks\.3\.1\.conv_pwl\.weight\)"
    elif change == "unknown":
        tensors["blocks.3.1.second.se_weight"] = torch.zeros(1)
        message = r"1 unknown \(blocks\.3\.1\.second\.se_weight\)"
    else:
        tensors["bn1.bias"] = torch.zeros(31)
        message = r"1 of another shape \(bn1\.bias: \(31,\), not \(32,\)\)"
    with pytest.raises(UserError, match=message):
        load_without_attention(smp_encoder(), tensors)


def test_another_attention_in_the_file_is_reported_as_unused(
    authors_tensors: dict[str, Tensor],
) -> None:
    """SE in the file for coordinate attention, and the reverse."""
    se = timm.create_model("efficientnet_b0").state_dict()
    report = load_without_attention(smp_encoder("efficientnet_b0_ca"), se)
    of_se = [n for n in se if ".se." in n]
    assert {n.partition(".se.")[2] for n in of_se} == {
        f"conv_{part}.{leaf}" for part in ("reduce", "expand") for leaf in ("weight", "bias")
    }
    assert {*report.unused} == {*of_se, *(n for n in se if n.startswith(HEAD))}
    assert {n.partition(".se.")[2].partition(".")[0] for n in report.new} == {
        *("conv1", "bn1", "conv2", "conv3")
    }
    report = load_without_attention(smp_encoder("mobilenetv2_se_100"), authors_tensors)
    assert len(report.unused) == 16 * 11 + 8
    assert "64 START AT RANDOM" in str(report)
    with pytest.raises(UserError, match="unknown"):  # without attention
        load_without_attention(smp_encoder("mobilenetv2_100"), authors_tensors)


def test_a_file_loads_with_the_attention_it_has(
    plain: dict[str, Tensor], authors_tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(plain, tmp_path / "plain.safetensors")
    assert len(load_weights_file(smp_encoder(), tmp_path / "plain.safetensors").new) == 160
    own = smp_encoder().model.state_dict()
    torch.save(own, tmp_path / "own.pth")
    report = load_weights_file(smp_encoder(), tmp_path / "own.pth")
    assert report.new == report.unused == []
    torch.save(authors_tensors, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"theirs\.pth: .*unknown"):
        load_weights_file(smp_encoder("mobilenetv2_100"), tmp_path / "theirs.pth")


# Files


LEVELS: dict[str, Callable[[dict], object]] = {
    "bare": lambda t: t,
    "state_dict": lambda t: {"epoch": 3, "state_dict": t},
    "model": lambda t: {"model": t, "optimizer": {"state": {}}},
    "state_dict_ema": lambda t: {"state_dict": {"a": torch.ones(1)}, "state_dict_ema": t},
    "module": lambda t: {"state_dict": {f"module.{n}": v for n, v in t.items()}},
    "compiled": lambda t: {f"module._orig_mod.{n}": v for n, v in t.items()},
}


@pytest.mark.parametrize("wrap", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_nested_state_dicts_and_prefixes_are_unwrapped(
    wrap: Callable, zipped: bool, tmp_path: Path
) -> None:
    tensors = {"conv.weight": torch.randn(3), "module.bias": torch.randn(2)}
    torch.save(wrap(tensors), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read_state_dict(tmp_path / "w.pth")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], t) for n, t in tensors.items())


def test_safetensors_are_recognized_by_content(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "w.pth")
    assert read_state_dict(tmp_path / "w.pth")["a"].tolist() == [1, 1, 1]


class Evil:
    def __reduce__(self):
        return (Path("pwned").touch, ())


def truncate(path: Path, write: Callable[[Path], object]) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-100])


TENSOR = {"a": torch.zeros(500)}


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 16000000\n"


WRONG_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "html": (lambda p: p.write_text("\n<!DOCTYPE html>\n<html>404"), "an HTML page, not the file"),
    "lfs": (lambda p: p.write_text(POINTER), "a git-lfs pointer, not the file it points to"),
    "empty": (lambda p: p.touch(), "an empty file"),
    "text": (lambda p: p.write_text("hello"), "damaged, truncated or not a PyTorch"),
    "zip": (lambda p: ZipFile(p, "w").writestr("a.txt", "hello"), "not a PyTorch or safetensors"),
    "cut": (lambda p: truncate(p, partial(torch.save, TENSOR)), "damaged, truncated"),
    "cut safetensors": (lambda p: truncate(p, partial(save_file, TENSOR)), "damaged, truncated"),
    "code": (
        lambda p: torch.save({"a": Evil()}, p),
        "refused, because it holds more .*would run as",
    ),
    "module": (lambda p: torch.save(nn.Linear(2, 2), p), r"refused, .*torch\.nn.*Linear"),
    "a list": (lambda p: torch.save([torch.zeros(2)], p), r"no named tensors \(no dictionary\)"),
    "no tensors": (lambda p: torch.save({"epoch": 3}, p), r"no named tensors \(epoch\)"),
    "folder": (lambda p: p.mkdir(), "a folder, expected a weight file"),
    "nothing": (lambda p: None, "no such file, expected a weight file"),
}


@pytest.mark.parametrize(("write", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_other_files_are_refused_and_never_run(
    write: Callable, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w\.pth: .*{message}") as caught:
        read_state_dict(tmp_path / "w.pth")
    assert "weights_only" not in str(caught.value)  # PyTorch's advice to run the code
    assert not (tmp_path / "pwned").exists()


def test_a_checkpoint_of_segcoord_is_refused_with_a_hint_at_init_from(tmp_path: Path) -> None:
    segcoord.save(segcoord.create_model("mobilenetv2_ca_050", 3), tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="--init-from"):
        read_state_dict(tmp_path / "best.ckpt")
