"""encoder_weights: the authors', timm's, those without attention, or a file's."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

import segcoord
from segcoord.models.encoders import initial_weights as module
from segcoord.models.encoders.download_weights import PublishedFile, git_blob_id
from segcoord.models.encoders.initial_weights import load_pretrained, name_without_attention
from segcoord.models.encoders.weights import authors_to_timm_names
from segcoord.utils.errors import UserError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, torch.Tensor]]:
    """Random weights instead of timm's downloads, by name of the encoder."""
    downloads: dict[str, dict[str, torch.Tensor]] = {}

    def timm_state_dict(name: str, *, offline: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(len(downloads) + 5)
        downloads[name] = timm.create_model(name).state_dict()
        return downloads[name]

    monkeypatch.setattr(module, "timm_state_dict", timm_state_dict)
    return downloads


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("mobilenetv2_ca_100", "mobilenetv2_100"),
        ("mobilenetv2_ca_x_050", "mobilenetv2_050"),
        ("mobilenetv2_cbam_075", "mobilenetv2_075"),
        ("mobilenext_se_100", "mobilenext_100"),
        ("efficientnet_b0_ca", "efficientnet_b0"),
        ("mobilenetv2_100", "mobilenetv2_100"),
        ("seresnext26t_32x4d", "seresnext26t_32x4d"),
    ],
)
def test_the_name_without_attention(name: str, plain: str) -> None:
    assert name_without_attention(name) == plain


def test_an_encoder_of_timm_loads_its_weights(hub) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = segcoord.create_model("mobilenetv2_050", 3, encoder_weights="imagenet")
    own = model.net.encoder.model.state_dict()
    assert all(torch.equal(own[name], hub["mobilenetv2_050"][name]) for name in own)


@pytest.mark.parametrize(
    ("encoder", "plain"),
    [
        ("mobilenetv2_se_050", "mobilenetv2_050"),
        ("mobilenetv2_cbam_050", "mobilenetv2_050"),
        ("mobilenetv2_ca_x_100", "mobilenetv2_100"),
        ("efficientnet_b0_ca", "efficientnet_b0"),
    ],
)
def test_attention_without_weights_is_reported(hub, encoder, plain) -> None:
    gates = "constant gates" if encoder.startswith("efficientnet") else "the identity"
    with pytest.warns(UserWarning, match=f"16 attention blocks are new and begin .* {gates}"):
        model = segcoord.create_model(encoder, 3, encoder_weights="imagenet")
    own = model.net.encoder.model.state_dict()
    scaled = ("conv_pwl.weight", "blocks.0.0.conv_pw.weight")  # by the gates; identity_gates.py
    for name, tensor in own.items():
        if ".se." not in name and not name.endswith(scaled):
            assert torch.equal(tensor, hub[plain][name]), name


@pytest.fixture
def authors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A random file with the authors' names in the cache, and its id instead of the authors'."""
    torch.manual_seed(0)
    source = timm.create_model("mobilenetv2_ca_100").state_dict()
    file = tmp_path / "hub" / "checkpoints" / "theirs.pth"
    file.parent.mkdir(parents=True)
    torch.save({theirs: source[ours] for theirs, ours in authors_to_timm_names().items()}, file)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    entry = PublishedFile("http://127.0.0.1:9/theirs.pth", git_blob_id(file), file.name)
    monkeypatch.setitem(module.PUBLISHED, "mobilenetv2_ca_100", entry)
    return source


def test_imagenet_loads_the_authors_file(authors) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = segcoord.create_model(encoder_weights="imagenet", offline=True)
    own = model.net.encoder.model.state_dict()
    assert all(torch.equal(own[name], authors[name]) for name in own)


def test_timm_and_smp_load_the_authors_file(authors) -> None:
    whole = timm.create_model("mobilenetv2_ca_100", pretrained=True).state_dict()
    assert all(torch.equal(whole[name], authors[name]) for name in whole)
    ten = timm.create_model("mobilenetv2_ca_100", pretrained=True, num_classes=10)
    assert torch.equal(ten.conv_head.weight, authors["conv_head.weight"])
    unet = smp.Unet("tu-mobilenetv2_ca_100", encoder_weights=True, classes=2)
    assert torch.equal(unet.encoder.model.conv_stem.weight, authors["conv_stem.weight"])
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model("mobilenetv2_se_100", pretrained=True)


def test_a_local_file(tmp_path: Path) -> None:
    source = timm.create_model("mobilenetv2_ca_050")
    torch.save({"state_dict": source.state_dict()}, tmp_path / "mine.pth")
    model = segcoord.create_model(
        "mobilenetv2_ca_050", 3, encoder_weights=str(tmp_path / "mine.pth")
    )
    own = model.net.encoder.model.state_dict()
    assert all(torch.equal(own[name], source.state_dict()[name]) for name in own)


def test_missing_weights_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = timm.create_model("mobilenext_ca_050")
    with pytest.raises(UserError, match="no ImageNet weights for mobilenext_ca_050"):
        load_pretrained(encoder, "mobilenext_ca_050", "imagenet")
    with pytest.raises(UserError, match="which is not a file"):
        load_pretrained(encoder, "mobilenext_ca_050", "imagnet")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match="--offline is set"):
        segcoord.create_model(encoder_weights="imagenet", offline=True)


def test_the_normalization_of_the_weights_is_stored(tmp_path: Path) -> None:
    """Some weights of timm have a mean and deviation of 0.5."""
    model = segcoord.create_model("tf_mobilenetv3_small_minimal_100", 3)
    assert model.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    segcoord.save(model, tmp_path / "m.ckpt")
    assert torch.equal(segcoord.load(tmp_path / "m.ckpt").mean, model.mean)
