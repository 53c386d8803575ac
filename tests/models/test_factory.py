"""create_model, save, load, init_from, predict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import segcoord
from segcoord.data.labels import VOC, LabelClass, LabelSet
from segcoord.models.checkpoint import read_checkpoint
from segcoord.training.init_from import init_from
from segcoord.utils.errors import UserError

TINY = {"encoder": "mobilenetv2_ca_050", "num_classes": 3}


@pytest.mark.parametrize("output_stride", [8, 16])
def test_logits_have_the_size_of_any_image(output_stride: int) -> None:
    model = segcoord.create_model("mobilenetv2_050", 5, output_stride).eval()
    for height, width in ((1, 1), (1, 40), (33, 64), (65, 47), (96, 96)):
        with torch.inference_mode():
            logits = model(torch.randn(2, 3, height, width))
        assert logits.shape == (2, 5, height, width)
        assert logits.isfinite().all()


def test_an_image_is_padded_with_zeros_at_the_right_and_bottom() -> None:
    model = segcoord.create_model(**TINY).eval()
    x = torch.randn(1, 3, 50, 70)
    with torch.inference_mode():
        padded = model(nn.functional.pad(x, (0, 10, 0, 14)))
        torch.testing.assert_close(model(x), padded[..., :50, :70])


def test_the_default_is_the_model_of_the_paper() -> None:
    model = segcoord.create_model()
    assert sum(p.numel() for p in model.parameters()) == 3_602_213
    branches = model.net.decoder.aspp.convs
    for branch, rate in zip(branches[1:4], (6, 12, 18)):
        depthwise, pointwise = branch[0]
        assert depthwise.kernel_size == (3, 3)
        assert depthwise.groups == depthwise.in_channels == 320  # separable, on the last bottleneck
        assert depthwise.dilation == (rate, rate)
        assert pointwise.kernel_size == (1, 1)
    assert model.net.decoder.aspp.project[-1].p == 0.1


@pytest.mark.parametrize(
    ("output_stride", "given", "expected"),
    [(16, None, (6, 12, 18)), (8, None, (12, 24, 36)), (8, (6, 12, 18), (6, 12, 18))],
)
def test_atrous_rates_depend_on_the_stride_unless_given(output_stride, given, expected) -> None:
    model = segcoord.create_model(**TINY, output_stride=output_stride, atrous_rates=given)
    convs = model.net.decoder.aspp.convs[1:4]
    assert tuple(c[0][0].dilation[0] for c in convs) == expected


def test_the_segmentation_head_is_initialized() -> None:
    """smp alone leaves PyTorch's default, with deviation 1/sqrt(3 * fan_in) and a bias."""
    torch.manual_seed(0)
    model = segcoord.create_model("mobilenetv2_ca_050", 21)
    for module in model.net.decoder.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            expected = (2 / fan_in) ** 0.5  # Kaiming, for ReLU
            assert abs(module.weight.std().item() / expected - 1) < 0.1
    head = model.net.segmentation_head[0]
    assert not head.bias.any()
    assert abs(head.weight.std().item() / (2 / (256 + 21)) ** 0.5 - 1) < 0.1  # Xavier


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = segcoord.create_model(**TINY)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in without if not n.endswith("se.conv1.bias")] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_stride": 32}, "output_stride: found 32, expected 16 or 8"),
        ({"atrous_rates": (6, 12)}, "three integers above 0"),
        ({"atrous_rates": (6, 12, 0)}, "three integers above 0"),
        ({"num_classes": 0}, "num_classes"),
        ({"encoder": "mobilnetv2_ca_100"}, "nearest are mobilenetv2_ca_100"),
        ({"encoder": "mobilenet_v2"}, "nearest are"),
        (
            {"encoder": "mobilenext_100", "encoder_weights": "imagenet"},
            "no ImageNet weights for mobilenext",
        ),
        ({"encoder_weights": "coco"}, "not a file; expected imagenet"),
        ({"num_classes": 5, "labels": VOC}, "found 21 labels"),
        ({"encoder": "vit_tiny_patch16_224"}, "can't be built at output stride 16"),
    ],
)
def test_invalid_arguments_are_errors(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        segcoord.create_model(**arguments)


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    model = segcoord.create_model(**TINY, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    x = model.normalize(images)
    expected = (images / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.6, 0.7])
    torch.testing.assert_close(x, expected.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_a_saved_model_is_loaded_again(tmp_path: Path) -> None:
    labels = LabelSet([LabelClass("sea", (0, 0, 200), 7), LabelClass("land", (0, 200, 0), 3)], [9])
    model = segcoord.create_model(
        "mobilenetv2_ca_075",
        2,
        8,
        (2, 4, 6),
        labels=labels,
        mean=(0.4, 0.5, 0.6),
        std=(0.1, 0.2, 0.3),
    ).eval()
    segcoord.save(model, tmp_path / "model.ckpt")
    again = segcoord.load(tmp_path / "model.ckpt")
    assert again.spec == model.spec
    assert again.labels == labels
    assert not again.training
    x = torch.randint(0, 256, (1, 40, 40, 3), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(again(again.normalize(x)), model(model.normalize(x)))
    torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "model.ckpt"]


class Evil:
    def __reduce__(self):
        return (Path("pwned").touch, ())


def test_other_files_are_refused_and_never_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "text.ckpt": lambda p: p.write_text("hello"),
        "empty.ckpt": lambda p: p.touch(),
        "plain.ckpt": lambda p: torch.save({"weight": torch.zeros(2)}, p),
        "tensor.ckpt": lambda p: torch.save(torch.zeros(2), p),
        "evil.ckpt": lambda p: torch.save({"model": Evil()}, p),
    }
    for name, write in files.items():
        write(tmp_path / name)
        with pytest.raises(UserError, match=name):
            segcoord.load(tmp_path / name)
        with pytest.raises(UserError, match=name):
            init_from(segcoord.create_model(**TINY), tmp_path / name)
    assert not (tmp_path / "pwned").exists()
    for missing in (tmp_path / "none.ckpt", tmp_path):
        with pytest.raises(UserError, match=str(missing)):
            segcoord.load(missing)


@pytest.mark.parametrize("lost", ["spec", "state_dict"])
def test_an_incomplete_checkpoint_is_refused(lost: str, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    segcoord.save(segcoord.create_model(**TINY), path)
    content = torch.load(path, weights_only=True)
    content.pop(lost, None)
    content["model"].pop(lost, None)
    torch.save(content, path)
    with pytest.raises(UserError, match="missing"):
        segcoord.load(path)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    segcoord.save(segcoord.create_model(**TINY), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"model\.ckpt"):
        read_checkpoint(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = segcoord.create_model(**TINY)
    model.net.segmentation_head[0].bias.data[0] = float("nan")
    segcoord.save(model, path := tmp_path / "m.ckpt")
    with pytest.raises(segcoord.UserError, match=r"1 of its tensors hold values .* not finite"):
        segcoord.load(path)


def test_init_from_reports_tensors_of_another_shape(tmp_path: Path) -> None:
    source = segcoord.create_model("mobilenetv2_ca_050", 7)
    segcoord.save(source, tmp_path / "seven.ckpt")
    model = segcoord.create_model(**TINY)
    report = init_from(model, tmp_path / "seven.ckpt")
    head = ["net.segmentation_head.0.weight", "net.segmentation_head.0.bias"]
    assert report.new == report.unused == head
    assert "2 START AT RANDOM" in str(report)
    same = model.net.encoder.state_dict(), source.net.encoder.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in same)))


def test_init_from_removes_the_prefixes_of_wrappers(tmp_path: Path) -> None:
    source, model = (segcoord.create_model(**TINY) for _ in range(2))
    for state in (source.state_dict(), source.net.state_dict()):  # of SegmentationModel, and of smp
        for prefix in ("", "module.", "_orig_mod."):
            for tensor in model.state_dict().values():
                tensor.zero_()
            torch.save(
                {"state_dict": {prefix + k: v for k, v in state.items()}}, tmp_path / "w.pth"
            )
            report = init_from(model, tmp_path / "w.pth")
            assert (report.new, report.unused) == ([], [])
            own = model.state_dict()
            assert all(torch.equal(own[k], v) for k, v in source.state_dict().items())


def test_init_from_copies_the_normalization(tmp_path: Path) -> None:
    source = segcoord.create_model(**TINY, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    segcoord.save(source, tmp_path / "m.ckpt")
    model = segcoord.create_model(**TINY)
    init_from(model, tmp_path / "m.ckpt")
    assert torch.equal(model.mean, source.mean)
    assert torch.equal(model.std, source.std)


def test_init_from_skips_the_weights_of_another_attention(tmp_path: Path) -> None:
    """X and Y attention have tensors of the same names and shapes."""
    source = segcoord.create_model("mobilenetv2_ca_x_050", 3)
    segcoord.save(source, tmp_path / "x.ckpt")
    model = segcoord.create_model("mobilenetv2_ca_y_050", 3)
    report = init_from(model, tmp_path / "x.ckpt")
    attention = [n for n in model.state_dict() if ".se." in n and "num_batches" not in n]
    assert report.new == attention
    assert len(attention) == 16 * 8
    assert report.identity == []


def test_init_from_a_file_without_tensors_is_an_error(tmp_path: Path) -> None:
    for content in ({"state_dict": [1, 2]}, {"state_dict": 5}, [1]):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(UserError, match=r"odd\.pth"):
            init_from(segcoord.create_model(**TINY), tmp_path / "odd.pth")


def test_predict_accepts_arrays_and_files(tmp_path: Path) -> None:
    from PIL import Image

    model = segcoord.create_model(**TINY)
    image = torch.randint(0, 256, (37, 53, 3), dtype=torch.uint8).numpy()
    mask = segcoord.predict(model, image)
    assert mask.shape == (37, 53)
    assert mask.dtype.name == "uint8"
    assert mask.max() < 3
    assert model.training  # restored
    Image.fromarray(image).save(tmp_path / "image.png")
    assert (segcoord.predict(model, tmp_path / "image.png") == mask).all()
    for wrong in (image[..., 0], image[..., :2], image.astype(float), image[:0]):
        with pytest.raises(ValueError, match="uint8 RGB"):
            segcoord.predict(model, wrong)
