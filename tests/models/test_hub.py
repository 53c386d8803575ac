"""Shared models: saved, loaded again, opened by smp, uploaded, refused when damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hub_server import running_hub, use_hub
from huggingface_hub import ModelCard
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import segcoord
from segcoord.cli.main import run
from segcoord.cli.share import share
from segcoord.config.decoders import STRIDES
from segcoord.data.labels import LabelClass, LabelSet
from segcoord.models.checkpoint import read_segmentation
from segcoord.models.fold_batch_norm import fold_batch_norm
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
    for module in model.modules():  # all different, so that swapped tensors show
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
    """A checkpoint as training writes it."""
    path = tmp_path_factory.mktemp("runs") / "best.ckpt"
    config = {"data": {"root": "/private", "layout": "voc", "val_split": "val"}}
    segcoord.save(make(), path, progress={"best": 0.5}, config=config)
    return path


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize("decoder", STRIDES)
def test_a_saved_model_is_loaded_again_and_opened_by_smp(decoder: str, tmp_path: Path) -> None:
    stride = STRIDES[decoder][0]
    settings = {"atrous_rates": [2, 3, 4]} if decoder.startswith("deeplab") else {}
    model = make(decoder, stride, reduction=16, **settings)
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    loaded = segcoord.from_pretrained(tmp_path)
    assert not loaded.training
    assert loaded.to_dict() == model.to_dict()
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in model.state_dict().items())

    if decoder == "light":
        assert "smp.from_pretrained" not in (tmp_path / "README.md").read_text()
        return
    net = smp.from_pretrained(tmp_path)
    assert type(net) is type(model.net) and not net.training
    x = torch.randn(1, 3, 256, 256) if decoder == "pan" else torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert net(x).shape == (1, 3, *x.shape[2:])  # the input's size, as users of smp expect
        at_stride = net.segmentation_head[0](net.decoder(net.encoder(x)))
        torch.testing.assert_close(at_stride, model.logits_at_stride(x), rtol=1e-5, atol=1e-5)


def test_a_model_saved_again_by_smp_keeps_its_labels(saved: Path, tmp_path: Path) -> None:
    net = smp.from_pretrained(saved)
    with torch.no_grad():
        net.segmentation_head[0].bias.add_(1)
    net.save_pretrained(tmp_path / "tuned")
    model = segcoord.from_pretrained(tmp_path / "tuned")
    assert model.labels == LABELS
    expected = make().net.segmentation_head[0].bias + 1
    assert torch.equal(model.net.segmentation_head[0].bias, expected)


def test_the_files_hold_labels_and_nothing_of_this_machine(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    assert config["_model_class"] == "DeepLabV3" and config["encoder_weights"] is None
    assert config["_segcoord"]["labels"]["void_ids"] == [5]
    text = (saved / "README.md").read_text()
    assert "| 0 | a &#124; b | #010203 | 7 |" in text and "| 1 | &lt;i> |" in text
    assert "| mIoU | 50.00 % |" in text
    for path in saved.iterdir():
        assert str(Path.home()).encode() not in path.read_bytes()


def test_a_shared_folder_predicts_as_its_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    assert run(share, "segcoord share", [f"--checkpoint={checkpoint}", f"--out={folder}"]) == 0
    model, shared = segcoord.load(checkpoint), segcoord.load(folder)
    image = np.random.default_rng(0).integers(0, 256, (61, 87, 3), dtype=np.uint8)
    assert np.array_equal(segcoord.predict(model, image), segcoord.predict(shared, image))
    assert shared.labels == model.labels
    assert "config" not in read_segmentation(folder)  # the paths of the data


def test_the_hub_reads_the_metadata_and_the_miou_of_the_card(
    checkpoint: Path, tmp_path: Path
) -> None:
    arguments = [f"--checkpoint={checkpoint}", f"--out={tmp_path}"]
    assert run(share, "segcoord share", arguments) == 0
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("segcoord", "image-segmentation")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_name, result.metric_value) == (
        "mean_iou",
        "mIoU",
        0.5,
    )
    assert result.dataset_name == "voc"
    assert "| mIoU | 50.00 % |" in card.text

    make().save_pretrained(tmp_path / "without a score")
    assert ModelCard.load(tmp_path / "without a score" / "README.md").data.eval_results is None


def test_a_second_save_replaces_the_model_and_keeps_the_card(copied: Path) -> None:
    (copied / "README.md").write_text("mine")
    other = make()
    with torch.no_grad():
        other.net.segmentation_head[0].bias.fill_(3)
    other.save_pretrained(copied)
    assert (copied / "README.md").read_text() == "mine"
    assert (segcoord.from_pretrained(copied).net.segmentation_head[0].bias == 3).all()


def test_the_folder_of_another_program_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(UserError, match="written by another program"):
        make().save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr("segcoord.models.hub.save_file", full)
    with pytest.raises(UserError, match=r"model\.safetensors: could not be written .*No space"):
        make().save_pretrained(tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


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
    (change(spec=3), "damaged model description"),
    (change(mean=["a", 1, 2]), "damaged model description"),
    (change(mean=[1, 2]), "expected three"),
    (change(labels={"classes": [{}]}), "damaged model description"),
    (change(spec={"encoder": "mobilenetv2_ca_050", "num_classes": 2**40}), "3 labels"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damaged_and_foreign_folders_are_refused(damage, message: str, copied: Path) -> None:
    damage(copied)
    for read in (segcoord.load, segcoord.from_pretrained):
        with pytest.raises(UserError) as caught:
            read(copied)
        assert str(copied) in str(caught.value)
    assert message in str(caught.value)


def test_folded_and_exported_models_are_not_shared(tmp_path: Path) -> None:
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
def test_a_source_that_is_neither_folder_nor_repository(source: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        segcoord.from_pretrained(source)


def test_share_requires_a_destination(checkpoint: Path, capsys) -> None:
    for options, message in ([], "--out DIR"), (["--private", "--out=x"], "--push"):
        assert run(share, "segcoord share", [f"--checkpoint={checkpoint}", *options]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the client
def test_upload_and_download_with_the_client_of_the_hub(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ann/street-scenes"
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    with running_hub() as hub:
        use_hub(hub.url, tmp_path, monkeypatch)
        arguments = [f"--checkpoint={checkpoint}", f"--push={name}", "--private"]
        assert run(share, "segcoord share", arguments) == 0
        model = segcoord.from_pretrained(name)
        assert model.to_dict() == segcoord.load(checkpoint).to_dict()
        x = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            cached = segcoord.from_pretrained(name, local_files_only=True)
            assert torch.equal(model(x), cached(x))
            assert smp.from_pretrained(name)(x).shape == (1, 3, 64, 64)
        model.push_to_hub(name, commit_message="again", private=True)
        model.push_to_hub("ann/open")
        with pytest.raises(UserError, match="ann/open: exists already and is public"):
            model.push_to_hub("ann/open", private=True)
        with pytest.raises(
            UserError, match=r"ann/nothing/more: could not be uploaded .* Check the"
        ):
            model.push_to_hub("ann/nothing/more")
        with pytest.raises(UserError, match="ann/nothing: no such folder here, and no download"):
            segcoord.from_pretrained("ann/nothing")
    assert len(hub.commits["ann/open"]) == 1
    assert hub.private[name] in ("private", True)
    assert hub.tokens == {"Bearer hf_of_this_test"}
    assert hub.commits[name] == ["Upload a model of segcoord", "again"]
    files = hub.repositories[name]
    assert files.keys() == {"README.md", "config.json", "model.safetensors"}
    assert b"| mIoU | 50.00 % |" in files["README.md"]  # not replaced by the second upload
    downloads = [r for r in hub.requests if r.startswith("GET") and "resolve" in r]
    assert not any("README" in request or ".bin" in request for request in downloads)
