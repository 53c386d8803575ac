"""encoders/weights.py: names, files, fetching, copying."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save, save_file
from torch import Tensor, nn

import segcoord
from segcoord.models.encoders.published import PUBLISHED, Published, fetch, git_blob_id
from segcoord.models.encoders.weights import (
    authors_names,
    load_encoder,
    load_file,
    load_plain,
    plain_tensors,
)
from segcoord.models.state_dict import read_tensors
from segcoord.utils.errors import UserError

NAME = "mobilenetv2_ca_100"
SMALL = "test_efficientnet"  # timm's, of 1.4 MB
HEAD = ("conv_head.", "bn2.", "classifier.")


class TheirAttention(nn.Module):
    """Coordinate attention as the authors compute it, on adaptive pools."""

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


class TheirBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers = [] if expansion == 1 else [*conv_norm(inputs, hidden, 1), nn.ReLU6()]
        layers += [*conv_norm(hidden, hidden, 3, stride, hidden), nn.ReLU6()]
        layers += [] if expansion == 1 else [TheirAttention(hidden)]
        self.conv = nn.Sequential(*layers, *conv_norm(hidden, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class TheirNetwork(nn.Module):
    """MobileNetV2 with coordinate attention, its modules named as in the authors' mbv2_ca.py."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
    STAGES += ((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))  # expansion, channels, blocks, stride

    def __init__(self) -> None:
        super().__init__()
        features = [nn.Sequential(*conv_norm(3, 32, 3, 2), nn.ReLU6())]
        channels = 32
        for expansion, outputs, blocks, stride in self.STAGES:
            for i in range(blocks):
                features.append(TheirBlock(channels, outputs, 1 if i else stride, expansion))
                channels = outputs
        self.features = nn.Sequential(*features)
        self.conv = nn.Sequential(*conv_norm(320, 1280, 1), nn.ReLU6())
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.conv(self.features(x)).mean((2, 3)))


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def randomised(model: nn.Module) -> nn.Module:
    """Norms' affine parameters and statistics as after a training; the signal keeps its scale."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            module.num_batches_tracked.fill_(1234)
    return model


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    return randomised(TheirNetwork()).eval()


@pytest.fixture(scope="module")
def their_tensors(theirs: nn.Module) -> dict[str, Tensor]:
    return dict(theirs.state_dict())


@pytest.fixture(scope="module")
def plain() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(randomised(timm.create_model("mobilenetv2_100")).state_dict())


def smp_encoder(name: str = NAME) -> nn.Module:
    return smp.encoders.get_encoder(f"tu-{name}", weights=None, output_stride=16)


# Names and numbers


def test_the_table_is_the_whole_of_both_networks(their_tensors: dict[str, Tensor]) -> None:
    own = timm.create_model(NAME).state_dict()
    table = authors_names()
    assert table.keys() == their_tensors.keys()
    assert {*table.values()} == own.keys()
    assert len(table) == len({*table.values()}) == 490
    # The architecture alone made the table; that both list their tensors in one order is a check.
    assert [table[name] for name in their_tensors] == list(own)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str
)
def test_the_authors_weights_give_the_authors_logits(
    theirs: nn.Module, tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    torch.save(theirs.state_dict(), tmp_path / "mbv2_ca.pth")
    ours = timm.create_model(NAME).to(dtype).eval()
    report = load_file(ours, tmp_path / "mbv2_ca.pth")
    assert len(report.matched) == 490
    assert report.new == report.unused == []
    assert str(report) == f"{tmp_path / 'mbv2_ca.pth'}: 490 tensors loaded"
    reference = TheirNetwork().to(dtype).eval()
    reference.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 96, dtype=dtype)
    with torch.inference_mode():
        expected, found = reference(x), ours(x)
    assert expected.std() > 0.01
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_the_authors_weights_give_the_authors_gradients(theirs: nn.Module) -> None:
    reference = TheirNetwork().double().train()
    reference.load_state_dict(theirs.state_dict())
    ours = timm.create_model(NAME).double().train()
    load_encoder(ours, reference.state_dict())
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    for model in (reference, ours):
        model(x).square().mean().backward()
    table = authors_names()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[table[name]], parameter.grad, rtol=1e-7, atol=1e-9)
    state = ours.state_dict()
    for name, tensor in reference.state_dict().items():  # the statistics moved alike
        torch.testing.assert_close(state[table[name]], tensor, rtol=1e-9, atol=1e-12)


def test_into_the_encoder_of_smp(their_tensors: dict[str, Tensor]) -> None:
    encoder = smp_encoder()
    report = load_encoder(encoder, their_tensors)
    state = encoder.model.state_dict()
    assert report.matched == list(state)
    assert len(report.matched) == 482
    assert report.new == []
    assert [name.rpartition(".")[0] for name in report.unused] == [
        "conv.0",
        *["conv.1"] * 5,
        *["classifier.1"] * 2,
    ]
    table = authors_names()
    used = {table[name]: t for name, t in their_tensors.items() if name not in report.unused}
    assert all(torch.equal(state[name], tensor) for name, tensor in used.items())
    assert "482 tensors loaded; 8 in the file are not used (conv.0.weight, " in str(report)


def test_into_a_whole_model_of_create_model(their_tensors: dict[str, Tensor]) -> None:
    model = segcoord.create_model(NAME, 3)
    assert len(load_encoder(model.net.encoder, their_tensors).matched) == 482


def test_files_without_batch_counters_are_whole(their_tensors: dict[str, Tensor]) -> None:
    old = {n: t for n, t in their_tensors.items() if not n.endswith("num_batches_tracked")}
    model = timm.create_model(NAME)
    report = load_encoder(model, old)
    assert len(report.matched) == len(old) == 490 - 68
    assert report.new == report.unused == []
    assert model.bn1.num_batches_tracked == 0


MISFITS = {
    "lost": ("features.3.conv.6.conv3.bias", None, "1 missing (features.3.conv.6.conv3.bias)."),
    "half a classifier": ("classifier.1.bias", None, "1 missing (classifier.1.bias)."),
    "unknown": ("features.18.conv.0.weight", (3,), "1 unknown (features.18.conv.0.weight)."),
    "ours among theirs": ("conv_stem.weight", (32, 3, 3, 3), "1 unknown (conv_stem.weight)."),
    "bent": (
        "features.0.0.weight",
        (32, 1, 3, 3),
        "1 of another shape (features.0.0.weight: (32, 1, 3, 3), not (32, 3, 3, 3)).",
    ),
}


@pytest.mark.parametrize(("name", "shape", "message"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_refused_and_nothing_copied(
    their_tensors: dict[str, Tensor], name: str, shape: tuple | None, message: str
) -> None:
    tensors = {n: t for n, t in their_tensors.items() if n != name}
    if shape is not None:
        tensors[name] = torch.zeros(shape)
    models = [timm.create_model(NAME), smp_encoder()]
    for model in models[:1] if name.startswith("classifier") else models:
        before = {n: t.clone() for n, t in model.state_dict().items()}
        with pytest.raises(UserError, match=re.escape(f"{NAME}: {message}")) as caught:
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


@pytest.mark.parametrize("load", [load_encoder, load_plain])
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
def test_timms_other_encoders_take_their_own_weights(name: str) -> None:
    """timm wraps them in different ways, and renames some of their parts."""
    whole = timm.create_model(name)
    encoder = timm.create_model(name, features_only=True)
    report = load_encoder(encoder, whole.state_dict())
    assert report.new == []
    classifier = whole.pretrained_cfg["classifier"]
    assert {f"{classifier}.weight", f"{classifier}.bias"} <= {*report.unused}
    by_timm = timm.create_model(
        name,
        pretrained=True,
        features_only=True,
        pretrained_cfg_overlay={"state_dict": whole.state_dict()},
    )
    expected = by_timm.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in encoder.state_dict().items())


def test_an_encoder_with_attention_starts_from_plain_weights(plain: dict[str, Tensor]) -> None:
    for model, unused in ((timm.create_model(NAME), 0), (smp_encoder(), 8)):
        net = getattr(model, "model", model)
        before = {n: t.clone() for n, t in net.state_dict().items()}
        report = load_plain(model, plain)
        attention = [n for n in before if ".se." in n and "num_batches" not in n]
        assert report.new == attention
        assert len(report.new) == 16 * 10
        assert len(report.unused) == unused
        assert len(report.matched) == len(plain) - unused
        state = net.state_dict()
        assert all(torch.equal(state[n], before[n]) for n in attention)
        assert all(torch.equal(state[n], plain[n]) for n in report.matched)
        with pytest.raises(UserError, match=f"{NAME}: 160 missing"):
            load_encoder(model, plain)


@pytest.mark.parametrize("change", ["lost", "more", "bent"])
def test_plain_weights_are_strict_outside_the_attention(
    plain: dict[str, Tensor], change: str
) -> None:
    tensors = dict(plain)
    if change == "lost":
        del tensors["blocks.3.1.conv_pwl.weight"]
        message = r"1 missing \(blocks\.3\.1\.conv_pwl\.weight\)"
    elif change == "more":
        tensors["blocks.3.1.second.se_weight"] = torch.zeros(1)
        message = r"1 unknown \(blocks\.3\.1\.second\.se_weight\)"
    else:
        tensors["bn1.bias"] = torch.zeros(31)
        message = r"1 of another shape \(bn1\.bias: \(31,\), not \(32,\)\)"
    with pytest.raises(UserError, match=message):
        load_plain(smp_encoder(), tensors)


def test_other_attention_in_the_file_is_left_and_listed(their_tensors: dict[str, Tensor]) -> None:
    """EfficientNet's SE under coordinate attention; coordinate attention under SE."""
    se = timm.create_model("efficientnet_b0").state_dict()
    report = load_plain(smp_encoder("efficientnet_b0_ca"), se)
    of_se = [n for n in se if ".se." in n]
    assert {n.partition(".se.")[2] for n in of_se} == {
        f"conv_{part}.{leaf}" for part in ("reduce", "expand") for leaf in ("weight", "bias")
    }
    assert {*report.unused} == {*of_se, *(n for n in se if n.startswith(HEAD))}
    assert {n.partition(".se.")[2].partition(".")[0] for n in report.new} == {
        *("conv1", "bn1", "conv2", "conv3")
    }
    report = load_plain(smp_encoder("mobilenetv2_se_100"), their_tensors)
    assert len(report.unused) == 16 * 11 + 8
    with pytest.raises(UserError, match="unknown"):  # where there is no attention at all
        load_plain(smp_encoder("mobilenetv2_100"), their_tensors)


def test_a_file_is_taken_as_what_it_holds(
    plain: dict[str, Tensor], their_tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(plain, tmp_path / "plain.safetensors")
    assert len(load_file(smp_encoder(), tmp_path / "plain.safetensors").new) == 160
    own = smp_encoder().model.state_dict()
    torch.save(own, tmp_path / "own.pth")
    report = load_file(smp_encoder(), tmp_path / "own.pth")
    assert report.new == report.unused == []
    part = {n: t for n, t in own.items() if "se.conv3" not in n}  # neither plain nor whole
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"part\.pth: .*32 missing"):
        load_file(smp_encoder(), tmp_path / "part.pth")
    torch.save(their_tensors, tmp_path / "theirs.pth")
    with pytest.raises(UserError, match=r"theirs\.pth: .*unknown"):
        load_file(smp_encoder("mobilenetv2_100"), tmp_path / "theirs.pth")


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
def test_levels_and_prefixes_are_gone_through(wrap: Callable, zipped: bool, tmp_path: Path) -> None:
    tensors = {"conv.weight": torch.randn(3), "module.bias": torch.randn(2)}
    torch.save(wrap(tensors), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "w.pth")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], t) for n, t in tensors.items())


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "w.pth")
    assert read_tensors(tmp_path / "w.pth")["a"].tolist() == [1, 1, 1]


class Evil:
    def __reduce__(self):
        return (Path("pwned").touch, ())


def cut(path: Path, write: Callable[[Path], object]) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-100])


TENSOR = {"a": torch.zeros(500)}
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 16000000\n"
FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "html": (lambda p: p.write_text("\n<!DOCTYPE html>\n<html>404"), "an HTML page, saved in"),
    "lfs": (lambda p: p.write_text(POINTER), "a git-lfs pointer, which only stands for"),
    "empty": (lambda p: p.touch(), "an empty file"),
    "text": (lambda p: p.write_text("hello"), "damaged, cut short or not a PyTorch"),
    "zip": (lambda p: ZipFile(p, "w").writestr("a.txt", "hello"), "not a PyTorch or safetensors"),
    "cut": (lambda p: cut(p, partial(torch.save, TENSOR)), "damaged, cut short"),
    "cut safetensors": (lambda p: cut(p, partial(save_file, TENSOR)), "damaged, cut short"),
    "code": (lambda p: torch.save({"a": Evil()}, p), "refused, for more is in it .*would run as"),
    "module": (lambda p: torch.save(nn.Linear(2, 2), p), r"refused, .*torch\.nn.*Linear"),
    "a list": (lambda p: torch.save([torch.zeros(2)], p), r"no tensors by name \(no dictionary\)"),
    "no tensors": (lambda p: torch.save({"epoch": 3}, p), r"no tensors by name \(epoch\)"),
    "folder": (lambda p: p.mkdir(), "a folder, expected a file"),
    "nothing": (lambda p: None, "no such file, expected a file"),
}


@pytest.mark.parametrize(("write", "message"), FOREIGN.values(), ids=FOREIGN)
def test_files_that_are_no_weights_are_named_and_never_run(
    write: Callable, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"w\.pth: .*{message}") as caught:
        read_tensors(tmp_path / "w.pth")
    assert "weights_only" not in str(caught.value)  # PyTorch's advice would run the code
    assert not (tmp_path / "pwned").exists()


def test_a_checkpoint_of_ours_is_sent_to_init_from(tmp_path: Path) -> None:
    segcoord.save(segcoord.create_model("mobilenetv2_ca_050", 3), tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="--init-from"):
        read_tensors(tmp_path / "best.ckpt")


@pytest.mark.parametrize(
    ("content", "blob"),
    [
        (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        (b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a"),
    ],
)
def test_git_blob_ids(content: bytes, blob: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert git_blob_id(tmp_path / "file") == blob


# Fetching, from a server on this machine

GOOD = b"weights" * 30_000
HTML = b"<html>Log in to the hotel's network"
Answer = Callable[[BaseHTTPRequestHandler], None]


def give(content: bytes, length: int | None = None) -> Answer:
    """Answers with `content`, and tells `length`, or nothing if 0, as its own."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        if length != 0:
            request.send_header("Content-Length", str(length or len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


def hang(request: BaseHTTPRequestHandler) -> None:
    request.server.released.wait(10)


def hang_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Gives the answers of `server.answers` in turn, and 500 when there are no more."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.asked += 1
            answers = self.server.answers
            answer = answers.pop(0) if answers else lambda request: request.send_error(500)
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.answers, running.asked, running.released = [], 0, threading.Event()
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def published(server: ThreadingHTTPServer) -> Published:
    blob = hashlib.sha1(b"blob 210000\0" + GOOD).hexdigest()
    url = f"http://127.0.0.1:{server.server_port}/mbv2_ca.pth"
    return Published(url, blob, f"mbv2_ca-{blob[:8]}.pth")


def test_what_is_published_is_pinned() -> None:
    ca = PUBLISHED[NAME]
    assert ca.url.split("/")[2] == "raw.githubusercontent.com"
    assert re.fullmatch("[0-9a-f]{40}", ca.url.split("/")[-2])  # a commit, not a branch
    assert re.fullmatch("[0-9a-f]{40}", ca.blob)
    assert ca.file == f"mbv2_ca-{ca.blob[:8]}.pth"


@pytest.mark.parametrize("length", [None, 0], ids=["length told", "length not told"])
def test_fetched_once_then_cached(server, published, cache, length) -> None:
    server.answers = [give(GOOD, length)]
    path = fetch(published)
    assert path == cache / published.file
    assert path.read_bytes() == GOOD
    assert fetch(published) == fetch(published, offline=True) == path
    assert server.asked == 1
    assert list(cache.iterdir()) == [path]


FAILURES: dict[str, tuple[Answer, str]] = {
    "wrong content": (give(b"other"), "gave a file of 5 bytes with git blob id [0-9a-f]{40}, exp"),
    "html": (give(HTML), "gave an HTML page, saved in the file's place with git blob id"),
    "cut": (give(GOOD[:100_000], len(GOOD)), "ended after 100,000 of 210,000 bytes"),
    "404": (lambda request: request.send_error(404), "HTTP Error 404: Not Found"),
    "hang up": (hang_up, "could not be fetched"),
    "hang": (hang, "timed out"),
}


@pytest.mark.parametrize(("answer", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failed_fetch_leaves_nothing_and_the_next_may_succeed(
    server, published, cache, monkeypatch, answer: Answer, message: str
) -> None:
    monkeypatch.setattr("segcoord.utils.download.TIMEOUT", 0.3)
    server.answers = [answer, give(GOOD)]
    with pytest.raises(UserError, match=message) as caught:
        fetch(published)
    text = str(caught.value)
    assert text.startswith(published.url)
    assert f"Download {published.url} by hand to {cache / published.file}, give" in text
    assert "--model.encoder_weights FILE" in text
    assert list(cache.iterdir()) == []
    assert fetch(published).read_bytes() == GOOD


def test_a_refused_connection_is_told_in_words(cache, published, server) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        gone = replace(published, url=f"http://127.0.0.1:{taken.getsockname()[1]}/mbv2_ca.pth")
        with pytest.raises(UserError, match="Connection refused"):
            fetch(gone)
    assert list(cache.iterdir()) == []


def test_offline_nothing_is_asked(server, published, cache) -> None:
    server.answers = [give(GOOD)]
    with pytest.raises(UserError, match=r"no such file, and --offline .* by hand to "):
        fetch(published, offline=True)
    cache.mkdir(parents=True)
    (cache / published.file).write_bytes(GOOD[:-1])
    with pytest.raises(UserError, match=r"damaged \(its git blob id .* --offline forbids"):
        fetch(published, offline=True)
    assert server.asked == 0


def test_a_damaged_file_in_the_cache_is_reported_and_fetched_again(
    server, published, cache, capsys
) -> None:
    cache.mkdir(parents=True)
    (cache / published.file).write_bytes(GOOD[:-1])
    with pytest.raises(UserError, match="HTTP Error 500"):
        fetch(published)
    assert (cache / published.file).read_bytes() == GOOD[:-1]
    capsys.readouterr()
    server.answers = [give(GOOD)]
    assert fetch(published).read_bytes() == GOOD
    assert f"{published.file}: damaged (its git blob id" in capsys.readouterr().out


# timm's own weights, from a server that speaks as the Hugging Face hub


def point_hub_at(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ThreadingHTTPServer, dict[str, Tensor]]]:
    torch.manual_seed(2)
    tensors = randomised(timm.create_model(SMALL)).state_dict()
    content = save(dict(tensors))

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.server.asked += 1
            found = self.path == f"/timm/{SMALL}.r160_in1k/resolve/main/model.safetensors"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", '"1234"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            if self.path.endswith("model.safetensors"):  # else: another question of the hub's
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked = 0
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        point_hub_at(running.server_port, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield running, tensors
        running.shutdown()
        thread.join()


def test_timms_weights_are_fetched_and_then_found_offline(hub) -> None:
    server, tensors = hub
    with pytest.raises(UserError, match="are not in the Hugging Face cache, and --offline"):
        plain_tensors(SMALL, offline=True)
    assert server.asked == 0
    found = plain_tensors(SMALL)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], t) for n, t in tensors.items())
    asked = server.asked
    offline = plain_tensors(SMALL, offline=True)
    assert all(torch.equal(offline[n], t) for n, t in tensors.items())
    assert server.asked == asked > 0


@pytest.mark.parametrize("name", ["mobilenetv2_100", SMALL])
def test_timms_weights_that_cant_be_had_are_told_in_words(name: str, hub, monkeypatch) -> None:
    if name == SMALL:  # refused; for the other the server answers 404
        taken = socket.socket()  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        point_hub_at(taken.getsockname()[1], monkeypatch)
        monkeypatch.setattr(time, "sleep", lambda _: None)  # the hub waits before it tries again
    where = rf"from https://huggingface\.co/timm/{name}\..* by hand .*--model\.encoder_weights FILE"
    with pytest.raises(UserError, match=f"could not be fetched .* Check the network.* {where}"):
        plain_tensors(name)
    if name == SMALL:
        taken.close()


@pytest.mark.parametrize(
    ("name", "offline", "message"),
    [
        (NAME, False, "timm has no weights for"),
        ("mobilenetv2_035", False, "timm has no weights for"),
        ("no_such_encoder", False, "timm has no weights for"),
        ("legacy_seresnet18", True, "not in the Hugging Face cache"),
    ],
)
def test_encoders_without_weights_in_reach(name: str, offline: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plain_tensors(name, offline=offline)
