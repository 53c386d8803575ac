"""predict_classes against F.interpolate and argmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import segcoord
from segcoord.inference import fast_argmax
from segcoord.inference.fast_argmax import predict_classes

STRIDES = [1, 2, 4, 8, 16, 32]


def reference(logits: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> Tensor:
    logits = logits.contiguous(memory_format=torch.channels_last)
    up = F.interpolate(logits, size=padded, mode="bilinear", align_corners=False)
    return up.argmax(1)[:, : size[0], : size[1]].to(torch.uint8)


def smooth(seed: int, k: int, h: int, w: int, cells: int = 8, n: int = 1) -> Tensor:
    """(n, k, h, w) random fields whose classes form regions of about `cells` coarse pixels."""
    coarse = torch.randn(n, k, 2 + h // cells, 2 + w // cells, generator=torch.manual_seed(seed))
    return 3 * F.interpolate(coarse, (h, w), mode="bicubic", align_corners=False)


def near_ties(seed: int, k: int, h: int, w: int) -> Tensor:
    """Logits of classes 1 and 2 equal up to rounding at a pixel of every ninth cell, stride 16."""
    random = np.random.default_rng(seed)
    logits = smooth(seed, k, h, w)
    logits[:, 1] = logits.amax() + torch.from_numpy(random.uniform(0, 1, (1, h, w)))
    logits[:, 2] = logits[:, 1] - 0.5
    for y in range(0, h - 1, 3):
        for x in range(0, w - 1, 3):
            t, u = (random.integers(16, size=2) + 0.5) / 16
            weights = np.array([[(1 - t) * (1 - u), (1 - t) * u], [t * (1 - u), t * u]])
            lead = random.normal(size=(2, 2))
            corner = np.unravel_index(weights.argmax(), (2, 2))
            lead[corner] -= (weights * lead).sum() / weights[corner]
            cell = (0, slice(None), slice(y, y + 2), slice(x, x + 2))
            logits[cell][2] = logits[cell][1].double() + torch.from_numpy(lead)
    return logits


@st.composite
def maps(draw: st.DrawFn) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
    """Logits of many kinds, the padded size, and the image's size."""
    stride = draw(st.sampled_from(STRIDES))
    k = draw(st.sampled_from([1, 2, 3, 4, 5, 11, 16, 19, 21, 33]))
    h, w = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    n = draw(st.integers(1, 2))
    seed = draw(st.integers(0, 2**16))
    generator = torch.manual_seed(seed)
    match draw(st.sampled_from(["smooth", "noise", "levels", "few", "constant", "huge", "tiny"])):
        case "smooth":
            logits = smooth(seed, k, h, w, cells=draw(st.integers(2, 8)), n=n)
        case "noise":
            logits = torch.randn(n, k, h, w, generator=generator)
        case "levels":  # with exact ties, at corners and within cells
            logits = torch.randint(-2, 3, (n, k, h, w), generator=generator) / 4
        case "few":  # one pixel of another class
            logits = torch.zeros(n, k, h, w)
            logits[:, -1] = 1
            logits[:, 0, h // 2, w // 2] = draw(st.sampled_from([1.0, 2.0, 3.0, 1 + 2**-20]))
        case "constant":
            logits = torch.full((n, k, h, w), draw(st.sampled_from([0.0, -1.5, 7.0])))
        case "huge":
            logits = smooth(seed, k, h, w, n=n) * draw(st.sampled_from([1e30, 1e36, 3e37]))
        case "tiny":
            logits = smooth(seed, k, h, w, n=n) * draw(st.sampled_from([1e-20, 1e-36, 1e-44]))
    logits = logits + draw(st.sampled_from([0.0, -100.0]))
    if draw(st.booleans()):
        logits = logits.contiguous(memory_format=torch.channels_last)
    if draw(st.integers(0, 7)) == 0:
        odd = draw(st.sampled_from([float("nan"), float("inf"), float("-inf")]))
        logits[0, draw(st.integers(0, k - 1)), h // 2, 0] = odd
    size = draw(st.integers(1, h * stride)), draw(st.integers(1, w * stride))
    return logits, (h * stride, w * stride), size


@settings(derandomize=True, deadline=None, max_examples=200)
@given(maps())
def test_result_equals_interpolate_and_argmax(drawn: tuple) -> None:
    result = predict_classes(*drawn)
    assert result.dtype == torch.uint8
    assert result.is_contiguous()
    assert torch.equal(result, reference(*drawn))


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("k", [4, 19])
def test_large_maps_at_every_stride(stride: int, k: int) -> None:
    logits, padded = smooth(stride, k, 24, 33), (24 * stride, 33 * stride)
    size = padded[0] - stride // 2, padded[1] - stride + 1
    assert torch.equal(predict_classes(logits, padded, size), reference(logits, padded, size))


def by_cells(logits: Tensor, stride: int) -> Tensor:
    classes = fast_argmax._argmax_by_cells(logits[0], stride)
    assert classes is not None  # not left to tiles of rows
    return classes[None]


@pytest.mark.parametrize("seed", range(4))
def test_near_ties_follow_the_rounding_of_interpolate(seed: int) -> None:
    logits = near_ties(seed, 19, 25, 34)
    expected = reference(logits, (400, 544), (400, 544))
    assert torch.equal(by_cells(logits, 16), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 1), (2, 2), (6, 7)])
@pytest.mark.parametrize("stride", [2, 8, 16])
def test_recomputed_cells_equal_those_of_the_whole_map(shape: tuple, stride: int) -> None:
    h, w = shape
    logits = torch.randint(0, 3, (1, 19, h, w), generator=torch.manual_seed(0)) / 3
    cell = torch.arange((h + 1) * (w + 1))
    row, column = cell // (w + 1), cell % (w + 1)
    result = fast_argmax._recompute(logits[0], row, column, stride)
    image = result.view(h + 1, w + 1, stride, stride).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    half, padded = stride // 2, (h * stride, w * stride)
    image = image[half : half + padded[0], half : half + padded[1]]
    assert torch.equal(image[None], reference(logits, padded, padded))


@pytest.mark.parametrize("tile", [1, 40_000])
def test_tiles_of_rows_equal_the_whole_map(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_argmax, "TILE", tile)
    logits = torch.randint(0, 4, (1, 7, 11, 13), generator=torch.manual_seed(0)) / 3
    for stride in (1, 4, 16):
        padded = 11 * stride, 13 * stride
        result = fast_argmax._argmax_by_rows(logits, stride)
        assert torch.equal(result[None], reference(logits, padded, padded))


def test_many_competing_classes_use_tiles_of_rows() -> None:
    noise = torch.randn(1, 19, 12, 12, generator=torch.manual_seed(0))
    equal = torch.ones(1, 19, 12, 12)
    for logits in (noise, equal):
        assert fast_argmax._argmax_by_cells(logits[0], 16) is None
        args = (logits, (192, 192), (180, 191))
        assert torch.equal(predict_classes(*args), reference(*args))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_sizes_not_divisible_by_the_stride(dtype: torch.dtype) -> None:
    logits = smooth(0, 6, 8, 9).to(dtype)
    args = (logits, (120, 130), (113, 130))
    assert torch.equal(predict_classes(*args), reference(*args))


@pytest.mark.gpu
def test_result_on_a_gpu_equals_interpolate_and_argmax() -> None:
    args = (smooth(0, 19, 16, 16).cuda(), (256, 256), (250, 255))
    assert torch.equal(predict_classes(*args), reference(*args))


def test_more_than_256_classes_are_an_error() -> None:
    with pytest.raises(ValueError, match="257 classes"):
        predict_classes(torch.zeros(1, 257, 2, 2), (4, 4), (4, 4))


@pytest.mark.parametrize(
    ("decoder", "stride"),
    [
        ("deeplabv3", 16),
        ("deeplabv3", 8),
        ("unet", 32),
    ],
)
@pytest.mark.parametrize("size", [(97, 130), (1, 1)])
def test_predict_equals_forward_and_argmax(decoder: str, stride: int, size: tuple) -> None:
    torch.manual_seed(0)
    model = segcoord.create_model("mobilenetv2_ca_050", 7, stride, decoder=decoder).eval()
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with torch.inference_mode():
        x = model.normalize(torch.from_numpy(image)[None])
        coarse = model.logits_at_stride(x)
        expected = reference(coarse, model.padded_size(*size), size)
        assert (model(x).argmax(1) == expected).float().mean() > 0.999  # in any memory format
    assert (segcoord.predict(model, image) == expected[0].numpy()).all()
