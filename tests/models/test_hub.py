"""Models as folders of safetensors and JSON: read back, opened by smp, refused when damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hub_server import running_hub
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import segcoord
from segcoord.cli.main import run
from segcoord.cli.share import share
from segcoord.config.decoders import STRIDES
from segcoord.data.labels import LabelClass, LabelSet
from segcoord.models.checkpoint import read_segmentation
from segcoord.models.fuse import fold_batch_norm
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError

LABELS = LabelSet(
    [
        LabelClass("a | b", (1, 2, 3), 7),
        LabelClass("<i>", (9, 8, 7), 3),
        LabelClass("c", (0,) * 3, 0),
    ],
    void_ids=[5],
)


def make(decoder: str = "deeplabv3", stride: int = 16, **settings: object) -> SegmentationModel:
    torch.manual_seed(0)
    model = segcoord.create_model(
        "mobilenetv2_ca_050",
        3,
        stride,
        decoder=decoder,
        labels=LABELS,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        **settings,
    )
    for module in model.modules():  # statistics that a mistake in names would show
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "model"
    make().save_pretrained(folder, metrics={"mIoU": 0.5})
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a training writes it."""
    path = tmp_path_factory.mktemp("runs") / "best.ckpt"
    segcoord.save(make(), path, progress={"best": 0.5}, config={"data": {"root": "/private"}})
    return path


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize("decoder", STRIDES)
def test_a_folder_gives_the_model_back_and_smp_opens_it(decoder: str, tmp_path: Path) -> None:
    stride = STRIDES[decoder][0]
    settings = {"atrous_rates": [2, 3, 4]} if decoder.startswith("deeplab") else {}
    model = make(decoder, stride, reduction=16, **settings)
    model.save_pretrained(tmp_path / "model")
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    back = segcoord.from_pretrained(tmp_path / "model")
    assert not back.training
    assert back.to_dict() == model.to_dict()
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(t, back.state_dict()[n]) for n, t in model.state_dict().items())

    net = smp.from_pretrained(tmp_path / "model")
    assert type(net) is type(model.net) and not net.training
    x = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        theirs, ours = net(x), model(x)
        assert theirs.shape == ours.shape  # at full size, as smp's user expects
        at_stride = net.segmentation_head[0](net.decoder(net.encoder(x)))
        torch.testing.assert_close(at_stride, model.logits_at_stride(x), rtol=1e-5, atol=1e-5)


def test_what_smp_saves_again_keeps_the_labels(saved: Path, tmp_path: Path) -> None:
    net = smp.from_pretrained(saved)
    with torch.no_grad():
        net.segmentation_head[0].bias.add_(1)
    net.save_pretrained(tmp_path / "tuned")
    model = segcoord.from_pretrained(tmp_path / "tuned")
    assert model.labels == LABELS
    expected = make().net.segmentation_head[0].bias + 1
    assert torch.equal(model.net.segmentation_head[0].bias, expected)


def test_nothing_of_this_machine_is_in_the_files(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    assert config["_model_class"] == "DeepLabV3" and config["encoder_weights"] is None
    assert config["_segcoord"]["labels"]["void_ids"] == [5]
    text = (saved / "README.md").read_text()
    assert "| 0 | a &#124; b | #010203 | 7 |" in text and "| 1 | &lt;i> |" in text
    assert "| mIoU | 50.00 % |" in text and text.startswith("---\nlibrary_name: segcoord\n")
    for path in saved.iterdir():
        assert str(Path.home()).encode() not in path.read_bytes()


def test_load_and_the_commands_take_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    assert run(share, "segcoord share", [f"--checkpoint={checkpoint}", f"--out={folder}"]) == 0
    assert "| mIoU, best validation | 50.00 % |" in (folder / "README.md").read_text()
    model, back = segcoord.load(checkpoint), segcoord.load(folder)
    image = np.random.default_rng(0).integers(0, 256, (61, 87, 3), dtype=np.uint8)
    assert np.array_equal(segcoord.predict(model, image), segcoord.predict(back, image))
    assert back.labels == model.labels
    # Which is what evaluate, attend and the others read; it says nothing of where data lie.
    assert "config" not in read_segmentation(folder)


def test_a_second_save_replaces_the_model_and_keeps_the_card(copied: Path) -> None:
    (copied / "README.md").write_text("mine")
    other = make()
    with torch.no_grad():
        other.net.segmentation_head[0].bias.fill_(3)
    other.save_pretrained(copied)
    assert (copied / "README.md").read_text() == "mine"
    assert (segcoord.from_pretrained(copied).net.segmentation_head[0].bias == 3).all()


def test_another_programs_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(UserError, match="is another program's"):
        make().save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr("segcoord.models.hub.save_file", full)
    with pytest.raises(UserError, match=r"model\.safetensors: could not be written .*No space"):
        make().save_pretrained(tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


def flip_a_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def change(**values: object):
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config["_segcoord"] |= values
        path.write_text(json.dumps(config))

    return edit


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("segmentation_head.0.bias")
    save_file(tensors, folder / "model.safetensors")


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


DAMAGES = [
    (flip_a_byte, "checksum"),
    (cut, "damaged or cut short"),
    (drop_tensor, "segmentation_head.0.bias"),
    (only_a_pickle, "never from a pickle"),
    (lambda f: (f / "config.json").unlink(), "has no config.json"),
    (lambda f: (f / "config.json").write_text("{"), "not JSON"),
    (lambda f: (f / "config.json").write_text("[]"), "expected an object"),
    (lambda f: (f / "config.json").write_text('{"_model_class": "Unet"}'), "smp.from_pretrained"),
    (lambda f: (f / "model.safetensors").write_text("version https://git-lfs"), "git-lfs pointer"),
    (change(format="segcoord-9"), "segcoord-9"),
    (
        change(spec={"encoder": "mobilenetv2_ca_050", "encoder_weights": "/etc/x"}),
        "encoder_weights",
    ),
    (change(spec=3), "damaged description"),
    (change(mean=["a", 1, 2]), "damaged description"),
    (change(mean=[1, 2]), "expected three"),
    (change(labels={"classes": [{}]}), "damaged description"),
    (change(spec={"encoder": "mobilenetv2_ca_050", "num_classes": 2**40}), "given"),
]


@pytest.mark.parametrize(("damage", "told"), DAMAGES)
def test_damaged_and_foreign_folders_are_told(damage, told: str, copied: Path) -> None:
    damage(copied)
    for read in (segcoord.load, segcoord.from_pretrained):
        with pytest.raises(UserError) as caught:
            read(copied)
        assert str(copied) in str(caught.value)
    assert told in str(caught.value)


def test_models_without_smps_weights_are_not_shared(tmp_path: Path) -> None:
    folded = make()
    folded.net = fold_batch_norm(folded.net)
    with pytest.raises(UserError, match="fold=False"):
        folded.save_pretrained(tmp_path / "folded")
    exported = make()
    exported.net = torch.nn.Identity()
    with pytest.raises(UserError, match="share the checkpoint"):
        exported.save_pretrained(tmp_path / "exported")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["nowhere", "./no/where", "a/b/c", "/etc/x/y"])
def test_a_name_that_is_neither_folder_nor_repository(source: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        segcoord.from_pretrained(source)


def test_share_wants_a_place(checkpoint: Path, capsys) -> None:
    for words, told in ([], "--out DIR"), (["--private", "--out=x"], "--push"):
        assert run(share, "segcoord share", [f"--checkpoint={checkpoint}", *words]) == 1
        assert told in capsys.readouterr().err


BY_THE_HUB = """
import sys, numpy as np, segcoord, segmentation_models_pytorch as smp, torch
from segcoord.cli import main
checkpoint = sys.argv[1]
model = segcoord.load(checkpoint)
assert main(["share", "--checkpoint", checkpoint, "--push", "ann/street-scenes", "--private"]) == 0
back = segcoord.from_pretrained("ann/street-scenes")
assert back.to_dict() == model.to_dict()
x = torch.randn(1, 3, 64, 64)
with torch.inference_mode():
    cached = segcoord.from_pretrained("ann/street-scenes", local_files_only=True)
    assert torch.equal(back(x), cached(x))
    assert smp.from_pretrained("ann/street-scenes")(x).shape == back(x).shape
back.push_to_hub("ann/street-scenes", commit_message="again", private=True)
back.push_to_hub("ann/open")
for name, private in (("ann/open", True), ("ann/nothing/more", None)):
    try:
        back.push_to_hub(name, private=private)
    except segcoord.UserError as error:
        print(error)
try:
    segcoord.from_pretrained("ann/nothing")
except segcoord.UserError as error:
    print(error)
"""


def test_upload_and_download_by_the_hubs_own_client(checkpoint: Path, tmp_path: Path) -> None:
    """Against a local stand-in of the hub; the client is huggingface_hub as it is."""
    with running_hub() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "hf_of_this_test",
            "HF_HUB_DISABLE_XET": "1",  # whose storage the stand-in has not
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        words = [sys.executable, "-c", BY_THE_HUB, str(checkpoint)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "ann/nothing: no such folder here, and the hub gave nothing" in done.stdout
        assert "ann/open: is there already, and public" in done.stdout
        assert "ann/nothing/more: could not be uploaded" in done.stdout
        assert "Check the login (hf auth login), and the connection." in done.stdout
        assert len(hub.commits["ann/open"]) == 1
        name = "ann/street-scenes"
        assert hub.private[name] in ("private", True)
        assert hub.tokens == {"Bearer hf_of_this_test"}
        assert hub.commits[name] == ["Upload a model of segcoord", "again"]
        files = hub.repositories[name]
        assert files.keys() == {"README.md", "config.json", "model.safetensors"}
        assert b"mIoU, best validation" in files["README.md"]  # the second upload left it alone
        fetched = [asked for asked in hub.asked if asked.startswith("GET") and "resolve" in asked]
        assert not any("README" in asked or ".bin" in asked for asked in fetched)
