"""Grad-CAM, the gates of attention, and their picture."""

from __future__ import annotations

import copy
import math
import sys

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import EcaModule, SEModule
from timm.layers.cbam import CbamModule
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

import segcoord
from segcoord.data.labels import VOC
from segcoord.inference.explain import attention_of_block, blocks, gates, grad_cam
from segcoord.inference.explain_figure import draw_attention
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
    """Smooth colours, so that more than one class is predicted."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def shaken(module: nn.Module) -> nn.Module:
    """Weights and statistics far from their start, where every gate is nearly one half."""
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
    attention = shaken(kind(16)).eval()
    x = torch.randn(2, 16, 5, 7).contiguous(memory_format=memory_format)
    found = gates(attention, x)
    assert {key: tuple(gate.shape) for key, gate in found.items()} == shapes
    assert all(gate.std() > 1e-3 for gate in found.values())
    torch.testing.assert_close(x * math.prod(found.values()), attention(x))


@pytest.mark.parametrize(("kind", "_shapes"), GATES)
def test_gates_are_those_of_evaluation_and_leave_the_module_alone(kind: type, _shapes) -> None:
    attention = shaken(kind(16)).train()
    before = copy.deepcopy(attention.state_dict())
    x = torch.randn(2, 16, 5, 7)
    trained = gates(attention, x)
    assert attention.training
    assert not any(m._forward_hooks for m in attention.modules())
    assert all(torch.equal(v, before[k]) for k, v in attention.state_dict().items())
    for key, gate in gates(attention.eval(), x).items():
        assert torch.equal(gate, trained[key])


def test_another_kind_of_attention_has_no_known_gates() -> None:
    assert gates(EcaModule(16), torch.randn(1, 16, 5, 7)) == {}


def test_blocks_bear_timms_names() -> None:
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
def test_grad_cam_is_that_of_its_paper(block: str) -> None:
    """Selvaraju et al. 2017, equations 1 and 2; then scaled and enlarged as the package does."""
    model, image = model_of("mobilenetv2_ca_050", 4), photo(150, 200)  # padded to 160x208
    pixels = segcoord.predict(model, image) == 0
    assert 0 < pixels.mean() < 1
    cam = grad_cam(model, image, 0, block, pixels)

    kept = []
    hook = blocks(model)[block].register_forward_hook(lambda _m, _x, y: kept.append(y))
    x = F.pad(model.normalize(torch.from_numpy(image)[None]), (0, 8, 0, 10))
    logits = model(x)[0, 0, :150, :200]
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[torch.from_numpy(pixels)].sum(), kept[0])
    weights = gradient.mean((2, 3), keepdim=True)
    expected = scaled((weights * kept[0]).sum(1).relu()[0].detach().numpy())
    expected = scaled(cv2.resize(expected, (208, 160)))[:150, :200]

    assert (cam.shape, cam.dtype) == ((150, 200), np.float32)
    assert cam.max() > 0.5
    np.testing.assert_allclose(cam, expected, atol=1e-4)


def parts(page: np.ndarray, height: int, width: int, row: int = 0) -> list[np.ndarray]:
    """The six cells of a row, for images 280 to 480 pixels wide, which are shown as is."""
    size = width // 20
    top = 4 * size + row * (height + 6 * size)
    lefts = [size // 2 + i * (width + size) for i in range(6)]
    return [page[top : top + height, left : left + width] for left in lefts]


def test_the_picture_shows_what_it_says() -> None:
    model, image = model_of("mobilenetv2_ca_050", 4), photo(130, 310)
    page = draw_attention([("run/best.ckpt", model)], image)
    assert page.dtype == np.uint8
    shown, predicted, heat, rows, columns, both = parts(page, 130, 310)
    mask = segcoord.predict(model, image)
    most = int(np.bincount(mask.ravel()).argmax())
    cam = grad_cam(model, image, most, "blocks.6.0", mask == most)
    np.testing.assert_array_equal(shown, image)
    np.testing.assert_array_equal(predicted, blend(image, mask, model.labels))
    added = 2 * heat.astype(int) - image  # a half is the colour scale: dark blue to dark red
    assert (added[cam > 0.98][:, 0] > added[cam > 0.98][:, 2] + 60).all()
    assert (added[cam < 0.02][:, 0] <= added[cam < 0.02][:, 2] + 2).all()
    assert (rows == rows[:, :1]).all()
    assert (columns == columns[:1]).all()
    assert len(np.unique(rows[:, 0], axis=0)) > 3
    assert len(np.unique(columns[0], axis=0)) > 3
    assert not (both == both[:, :1]).all()


def test_an_attention_that_overwrites_its_input_is_drawn_as_any_other() -> None:
    model, image = model_of("mobilenetv2_ca_050"), photo(140, 310)
    attention = shaken(attention_of_block(blocks(model)["blocks.6.0"]))
    pages = []
    for inplace in (True, False):
        attention.inplace = inplace
        pages.append(draw_attention([("a", model)], image))
    np.testing.assert_array_equal(*pages)


def test_the_gates_are_drawn_where_they_are() -> None:
    model, image = model_of("mobilenetv2_ca_050"), photo(140, 310)  # a grid of 9x20 on 144x320
    attention = shaken(attention_of_block(blocks(model)["blocks.6.0"]))
    seen = []
    with attention.register_forward_pre_hook(lambda _m, x: seen.append(x[0].clone())):
        segcoord.predict(model, image)
    along = gates(attention, seen[0])["a_h"].mean(1).flatten()
    _, _, _, rows, _, _ = parts(draw_attention([("a", model)], image), 140, 310)
    low, high = int(along.argmin()), int(along.argmax())
    ends = cv2.applyColorMap(np.array([[0, 255]], np.uint8), cv2.COLORMAP_VIRIDIS)[0, :, ::-1]
    for place, color in ((low, ends[0]), (high, ends[1])):
        band = rows[16 * place : 16 * place + 16]
        np.testing.assert_array_equal(band, np.broadcast_to(color, band.shape))


def test_several_models_in_aligned_rows() -> None:
    encoders = [
        f"mobilenetv2_{name}" for name in ("ca_050", "050", "se_050", "cbam_050", "ca_x_050")
    ]
    models = [(encoder, model_of(encoder)) for encoder in encoders]
    image = photo(120, 300)
    page = draw_attention(models, image, "class_1")
    alone = draw_attention(models[:1], image, "class_1")
    size = 300 // 20
    assert page.shape == (alone.shape[0] + 4 * (120 + 6 * size), 6 * (300 + size), 3)
    np.testing.assert_array_equal(page[: 4 * size + 120], alone[: 4 * size + 120])
    blank = [
        [len(np.unique(cell[:45].reshape(-1, 3), axis=0)) == 1 for cell in parts(page, 120, 300, r)]
        for r in range(5)
    ]
    assert blank[0] == [False] * 6
    assert blank[1] == [False, False, False, True, True, True]  # no attention
    assert blank[2] == [False, False, False, True, True, True]  # SE: words only
    assert blank[3] == [False, False, False, True, True, False]  # CBAM
    assert blank[4][3:] == [False, True, False]  # one gate, by row


def test_a_class_that_is_not_predicted_is_explained_over_the_whole_image() -> None:
    model, image = model_of("mobilenetv2_ca_050", 4), photo(140, 300)
    last = model.net.segmentation_head[0]
    with torch.no_grad():
        last.bias[2] -= 1e3
    assert not (segcoord.predict(model, image) == 2).any()
    _, _, heat, *_ = parts(draw_attention([("a", model)], image, "class_2"), 140, 300)
    cam = grad_cam(model, image, 2, "blocks.6.0", np.ones((140, 300), bool))
    colors = cv2.applyColorMap((255 * cam).round().astype(np.uint8), cv2.COLORMAP_TURBO)
    expected = cv2.addWeighted(colors[..., ::-1], 0.5, image, 0.5, 0)
    np.testing.assert_array_equal(heat, expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (640, 40), (48, 64), (300, 500)])
def test_any_size(size: tuple[int, int]) -> None:
    page = draw_attention([("a", model_of("mobilenetv2_ca_050"))], photo(*size))
    across = 480 if max(size) in (500, 900) else 280
    assert page.shape[1:] == (6 * (across + across // 20), 3)


@pytest.mark.parametrize("training", [False, True])
def test_leaves_nothing_behind_on_the_model(training: bool) -> None:
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


def test_what_a_user_can_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, image = model_of("mobilenetv2_ca_050"), photo(40, 40)
    voc = segcoord.create_model("mobilenetv2_050", 21, labels=VOC)
    other = segcoord.create_model("efficientnet_b0", 3)
    for models, kwargs, words in (
        ([("a.ckpt", voc)], {"class_name": "cra"}, ["'cra'", "a.ckpt", "car"]),
        ([("a.ckpt", ours)], {"class_name": "zebra"}, ["'zebra'", "class_0, class_1, class_2"]),
        ([("a.ckpt", voc), ("b.ckpt", ours)], {"class_name": "car"}, ["'car'", "b.ckpt"]),
        ([("a.ckpt", ours)], {"block": "blocks.9"}, ["'blocks.9'", "a.ckpt", "blocks.6.0"]),
        ([("b.ckpt", other), ("a.ckpt", ours)], {"block": "blocks.5.3"}, ["of a.ckpt"]),
        ([("a.ckpt", segcoord.create_model("regnetx_002", 3))], {}, ["a.ckpt", "no numbered"]),
    ):
        with pytest.raises(UserError) as caught:
            draw_attention(models, image, **kwargs)
        assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(ValueError, match="found none"):
        draw_attention([], image)
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_attention([("a.ckpt", ours)], image.astype(np.float32))
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(UserError, match=r"pip install 'segcoord\[attend\]'"):
        draw_attention([("a.ckpt", ours)], image)
