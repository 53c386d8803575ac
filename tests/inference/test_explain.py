"""Grad-CAM, attention gates, and the figure of both."""

from __future__ import annotations

import copy
import math
import sys

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from timm.layers import EcaModule, SEModule
from timm.layers.cbam import CbamModule
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

import segcoord
from segcoord.data.labels import VOC
from segcoord.inference.explain import attention_of_block, blocks, explain, gates, grad_cam
from segcoord.inference.explain_figure import draw_attention, draw_row
from segcoord.inference.visualize import blend
from segcoord.models.attention import CoordAtt, CoordAttX, CoordAttY
from segcoord.models.segmentation import SegmentationModel
from segcoord.utils.errors import UserError

GATES = [
    (CoordAtt, {"a_h": (2, 16, 5, 1), "a_w": (2, 16, 1, 7)}),
    (CoordAttX, {"a_h": (2, 16, 5, 1)}),
    (CoordAttY, {"a_w": (2, 16, 1, 7)}),
    (SEModule, {"channel": (2, 16, 1, 1)}),
    (SqueezeExcite, {"channel": (2, 16, 1, 1)}),
    (CbamModule, {"channel": (2, 16, 1, 1), "spatial": (2, 1, 5, 7)}),
]


def model_of(encoder: str, seed: int = 0) -> SegmentationModel:
    torch.manual_seed(seed)
    return segcoord.create_model(encoder, 3).eval()


def photo(height: int, width: int) -> np.ndarray:
    """Smooth colors, for which a random model predicts several classes."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def randomized(module: nn.Module) -> nn.Module:
    """Weights and statistics far from their initial values, with which every gate is near 0.5."""
    torch.manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.2, 1.8)
            if tensor.ndim > 1:
                tensor.data -= 1
    return module


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kind", "shapes"), GATES)
def test_input_times_gates_is_the_output(
    kind: type, shapes: dict, memory_format: torch.memory_format
) -> None:
    attention = randomized(kind(16)).eval()
    x = torch.randn(2, 16, 5, 7).contiguous(memory_format=memory_format)
    factors = gates(attention, x)
    assert {key: tuple(gate.shape) for key, gate in factors.items()} == shapes
    assert all(gate.std() > 1e-3 for gate in factors.values())
    torch.testing.assert_close(x * math.prod(factors.values()), attention(x))


@pytest.mark.parametrize(("kind", "_shapes"), GATES)
def test_gates_are_computed_in_eval_mode_without_changing_the_module(kind: type, _shapes) -> None:
    attention = randomized(kind(16)).train()
    before = copy.deepcopy(attention.state_dict())
    x = torch.randn(2, 16, 5, 7)
    in_train_mode = gates(attention, x)
    assert attention.training
    assert not any(m._forward_hooks for m in attention.modules())
    assert all(torch.equal(v, before[k]) for k, v in attention.state_dict().items())
    for key, gate in gates(attention.eval(), x).items():
        assert torch.equal(gate, in_train_mode[key])


def test_other_attention_classes_have_no_gates() -> None:
    assert gates(EcaModule(16), torch.randn(1, 16, 5, 7)) == {}


def test_blocks_have_timm_names() -> None:
    found = blocks(model_of("mobilenetv2_ca_050"))
    stages = [1, 2, 3, 4, 3, 3, 1]
    assert [*found] == [f"blocks.{s}.{i}" for s, n in enumerate(stages) for i in range(n)]
    assert attention_of_block(found["blocks.0.0"]) is None
    assert all(isinstance(attention_of_block(b), CoordAtt) for b in [*found.values()][1:])
    found = blocks(model_of("seresnet18"))
    assert [*found] == [f"layer{s}.{i}" for s in (1, 2, 3, 4) for i in (0, 1)]
    assert isinstance(attention_of_block(found["layer4.1"]), SEModule)


def scaled(cam: np.ndarray) -> np.ndarray:
    cam = cam - cam.min()
    return cam / (1e-7 + cam.max())


@pytest.mark.parametrize("block", ["blocks.6.0", "blocks.3.1"])
def test_grad_cam_equals_the_equations_of_its_paper(block: str) -> None:
    """Selvaraju et al. 2017, equations 1 and 2; then scaled and resized as in grad-cam."""
    model, image = model_of("mobilenetv2_ca_050", 4), photo(150, 200)  # padded to 160x208
    pixels = segcoord.predict(model, image) == 0
    assert 0 < pixels.mean() < 1
    cam = grad_cam(model, image, 0, block, pixels)

    outputs = []
    hook = blocks(model)[block].register_forward_hook(lambda _m, _x, y: outputs.append(y))
    x = F.pad(model.normalize(torch.from_numpy(image)[None]), (0, 8, 0, 10))
    logits = model(x)[0, 0, :150, :200]
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[torch.from_numpy(pixels)].sum(), outputs[0])
    weights = gradient.mean((2, 3), keepdim=True)
    expected = scaled((weights * outputs[0]).sum(1).relu()[0].detach().numpy())
    expected = scaled(cv2.resize(expected, (208, 160)))[:150, :200]

    assert (cam.shape, cam.dtype) == ((150, 200), np.float32)
    assert cam.max() > 0.5
    np.testing.assert_allclose(cam, expected, atol=1e-4)


def figure_of(
    model: SegmentationModel, image: np.ndarray, class_name: str = "class_1", name: str = "a"
) -> Figure:
    return draw_row(explain(name, model, image, None), image, class_name)


def pictures(figure: Figure) -> list[np.ndarray | None]:
    """The six pictures of a row, None for a cell without one."""
    return [axes.images[0].get_array() if axes.images else None for axes in figure.axes[:6]]


def test_figure_shows_prediction_grad_cam_and_gates() -> None:
    model, image = model_of("mobilenetv2_ca_050", 4), photo(130, 310)
    mask = segcoord.predict(model, image)
    most = int(np.bincount(mask.ravel()).argmax())
    figure = figure_of(model, image, f"class_{most}", "run/$1$\udce9.ckpt")
    shown, predicted, heat, a_h, a_w, both = pictures(figure)
    cam = grad_cam(model, image, most, "blocks.6.0", mask == most)
    np.testing.assert_array_equal(shown, image)
    np.testing.assert_array_equal(predicted, blend(image, mask, model.labels))
    turbo = 2 * heat.astype(int) - image  # the color scale from dark blue to dark red
    assert (turbo[cam > 0.98][:, 0] > turbo[cam > 0.98][:, 2] + 60).all()
    assert (turbo[cam < 0.02][:, 0] <= turbo[cam < 0.02][:, 2] + 2).all()
    assert (a_h == a_h[:, :1]).all()
    assert (a_w == a_w[:1]).all()
    assert len(np.unique(a_h[:, 0], axis=0)) > 3
    assert len(np.unique(a_w[0], axis=0)) > 3
    assert not (both == both[:, :1]).all()
    assert (
        figure.texts[0]
        .get_text()
        .startswith("run/$1$\ufffd.ckpt   mobilenetv2_ca_050, blocks.6.0: ")
    )
    assert not figure.texts[0].get_parse_math()
    assert figure.axes[2].get_title("left") == f"Grad-CAM: class_{most}"
    assert figure.axes[5].get_xlabel() == "a_h x a_w, mean of 480 channels"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [f"class_{i}" for i in np.unique(mask)]
    assert len(figure.axes) == 10  # four with a color scale


def test_gates_of_an_in_place_attention_are_those_of_its_input() -> None:
    model, image = model_of("mobilenetv2_ca_050"), photo(140, 310)
    attention = randomized(attention_of_block(blocks(model)["blocks.6.0"]))
    results = []
    for inplace in (True, False):
        attention.inplace = inplace
        results.append(explain("a", model, image, None).gates)
    for key in ("a_h", "a_w"):
        np.testing.assert_array_equal(results[0][key], results[1][key])


def test_gates_are_drawn_at_their_positions() -> None:
    model, image = model_of("mobilenetv2_ca_050"), photo(140, 310)  # 9x20 features of 144x320
    attention = randomized(attention_of_block(blocks(model)["blocks.6.0"]))
    inputs = []
    with attention.register_forward_pre_hook(lambda _m, x: inputs.append(x[0].clone())):
        segcoord.predict(model, image)
    a_h = gates(attention, inputs[0])["a_h"].mean(1).flatten()
    drawn = pictures(figure_of(model, image))[3]
    ends = cv2.applyColorMap(np.array([[0, 255]], np.uint8), cv2.COLORMAP_VIRIDIS)[0, :, ::-1]
    for row, color in ((int(a_h.argmin()), ends[0]), (int(a_h.argmax()), ends[1])):
        band = drawn[16 * row : 16 * row + 16]
        np.testing.assert_array_equal(band, np.broadcast_to(color, band.shape))


@pytest.mark.parametrize(
    ("encoder", "drawn"),
    [
        ("mobilenetv2_050", [False, False, False]),
        ("mobilenetv2_se_050", [False, False, False]),
        ("mobilenetv2_cbam_050", [False, False, True]),
        ("mobilenetv2_ca_x_050", [True, False, True]),
    ],
)
def test_gates_that_an_encoder_lacks_are_left_blank(encoder: str, drawn: list[bool]) -> None:
    figure = figure_of(model_of(encoder), photo(120, 300))
    assert [picture is not None for picture in pictures(figure)] == [True] * 3 + drawn
    if encoder == "mobilenetv2_se_050":
        assert figure.axes[5].texts[0].get_text().startswith("SE: one value per channel,")


def test_models_are_drawn_one_below_the_other() -> None:
    image = photo(120, 300)
    models = [(name, model_of(f"mobilenetv2_{name}")) for name in ("ca_050", "050")]
    page = draw_attention(models, image, "class_1")
    alone = [draw_attention([model], image, "class_1") for model in models]
    assert (page.dtype, page.shape[1:]) == (np.uint8, (1890, 3))
    np.testing.assert_array_equal(page, np.concatenate(alone))
    drawn = page[58:178, 15:315].astype(int)  # as wide as the image, which is smooth
    assert np.abs(drawn - image)[4:-4, 4:-4].max() <= 3


def test_a_class_that_is_not_predicted_is_explained_over_the_whole_image() -> None:
    model, image = model_of("mobilenetv2_ca_050", 4), photo(140, 300)
    last = model.net.segmentation_head[0]
    with torch.no_grad():
        last.bias[2] -= 1e3
    assert not (segcoord.predict(model, image) == 2).any()
    heat = pictures(figure_of(model, image, "class_2"))[2]
    cam = grad_cam(model, image, 2, "blocks.6.0", np.ones((140, 300), bool))
    colors = cv2.applyColorMap((255 * cam).round().astype(np.uint8), cv2.COLORMAP_TURBO)
    expected = cv2.addWeighted(colors[..., ::-1], 0.5, image, 0.5, 0)
    np.testing.assert_array_equal(heat, expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (640, 40)])
def test_images_of_extreme_shapes_are_drawn(size: tuple[int, int]) -> None:
    page = draw_attention([("a", model_of("mobilenetv2_ca_050"))], photo(*size))
    assert page.shape[1:] == (round(6.3 * min(max(280, *size), 480)), 3)


@pytest.mark.parametrize("training", [False, True])
def test_drawing_does_not_change_the_model(training: bool) -> None:
    model, image = model_of("mobilenetv2_cbam_050").train(training), photo(60, 80)
    first, second, *_ = model.parameters()
    first.requires_grad_(False)
    second.grad = torch.ones_like(second)
    before = copy.deepcopy(model.state_dict())
    picture = draw_attention([("a", model)], image)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert torch.equal(second.grad, torch.ones_like(second))
    assert [p.grad for p in model.parameters() if p is not second].count(None) > 100
    assert all(m.training == training for m in model.modules())
    hooks = [
        (*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks) for m in model.modules()
    ]
    assert not any(hooks)
    with torch.inference_mode():
        np.testing.assert_array_equal(draw_attention([("a", model)], image), picture)


def test_user_errors_name_model_class_and_block(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, image = model_of("mobilenetv2_ca_050"), photo(40, 40)
    voc = segcoord.create_model("mobilenetv2_050", 21, labels=VOC)
    other = segcoord.create_model("efficientnet_b0", 3)
    for models, kwargs, expected in (
        ([("a.ckpt", voc)], {"class_name": "cra"}, ["'cra'", "a.ckpt", "car"]),
        ([("a.ckpt", ours)], {"class_name": "zebra"}, ["'zebra'", "class_0, class_1, class_2"]),
        ([("a.ckpt", voc), ("b.ckpt", ours)], {"class_name": "car"}, ["'car'", "b.ckpt"]),
        ([("a.ckpt", ours)], {"block": "blocks.9"}, ["'blocks.9'", "a.ckpt", "blocks.6.0"]),
        ([("b.ckpt", other), ("a.ckpt", ours)], {"block": "blocks.5.3"}, ["of a.ckpt"]),
        ([("a.ckpt", segcoord.create_model("regnetx_002", 3))], {}, ["a.ckpt", "no numbered"]),
    ):
        with pytest.raises(UserError) as caught:
            draw_attention(models, image, **kwargs)
        assert all(text in str(caught.value) for text in expected), caught.value
    with pytest.raises(ValueError, match="found none"):
        draw_attention([], image)
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_attention([("a.ckpt", ours)], image.astype(np.float32))
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(UserError, match=r"pip install 'segcoord\[attend\]'"):
        draw_attention([("a.ckpt", ours)], image)
